"""`meters replay` on the real services: what reaches Kafka and the registry, and how failures end."""

import gzip
import json
import math
import time
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from meter_assets_tests.csv_oracle import FILES, expected_readings
from meter_assets_tests.support import free_ports, read_topic
from meter_cli.replay import replay as replay_command
from metering.errors import MetersError
from metering.meter_types import METER_TYPES
from metering.reading import parse_reading
from metering.registry import METERS
from metering.settings import Settings, load_settings
from runtime.database import connect
from streaming.replay.csv_layout import CsvLayout
from streaming.replay.csv_presets import PRESETS
from streaming.replay.replayer import ReplayReport, replay

GENERAL = ["--device", "meter", "--time", "day,clock", "--value", "used", "--unit", "L", "--timezone", "Europe/Madrid"]
HEADER = "meter,day,clock,used\n"


@pytest.fixture
def topic() -> str:
    return f"readings-{uuid.uuid4().hex[:8]}"


def run(monkeypatch: pytest.MonkeyPatch, settings: Settings, *arguments: object) -> Result:
    """The command in this process, so that its exception can be looked at."""
    monkeypatch.setattr("meter_cli.replay.load_settings", lambda: settings)
    app = typer.Typer()
    app.command()(replay_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)


def layout() -> CsvLayout:
    return CsvLayout(
        meter_type=PRESETS["daiad"].meter_type,
        device_column="meter",
        time_columns=("day", "clock"),
        value_column="used",
        unit="L",
    )


def test_a_real_file_reaches_kafka_whole(shared_data: Path, database: Settings, topic: str):
    """The smallest file: the others are compared in test_csv_readings and, through MongoDB, in test_days_cli."""
    preset = "uci"
    path = shared_data / FILES[preset]
    calls: list[tuple[int, int]] = []
    report = replay(
        path,
        PRESETS[preset],
        database,
        topic=topic,
        on_progress=lambda done, total, _: calls.append((done, total)),
    )
    expected = expected_readings(path, preset)
    assert report.rows == report.sent + report.missing + report.refused and report.error is None
    assert report.sent == len(expected) and calls[-1] == (path.stat().st_size, path.stat().st_size)
    assert (report.first_instant, report.last_instant) == (min(t for _, t in expected), max(t for _, t in expected))

    records = read_topic(database, topic)
    readings = {}
    for record in records:
        reading = parse_reading(record.value)
        assert record.key == reading.device_id.encode()
        readings[reading.device_id, reading.timestamp] = getattr(
            reading, METER_TYPES[PRESETS[preset].meter_type].usage.name
        )
    assert len(records) == len(readings) == report.sent
    assert readings.keys() == expected.keys()
    assert all(math.isclose(usage, expected[key], abs_tol=1e-9) for key, usage in readings.items())

    registered = {meter["_id"]: meter for meter in connect(database)[METERS].find()}
    assert len(registered) == report.meters == len({device for device, _ in expected})
    for device, meter in registered.items():
        assert meter["installed_at"] == min(instant for each, instant in expected if each == device)
        assert meter["interval_seconds"] == {"daiad": 3600, "sgsc": 1800, "uci": 60}[preset]
        assert meter["household_id"] == (device if preset == "sgsc" else "unassigned")


def test_the_same_file_twice_sends_the_same_bytes(
    tmp_path: Path, database: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "twice.csv"
    path.write_text(HEADER + "w1,2016-10-30,02:30,5\nw1,2016-10-30,02:30,5\nw2,2016-10-30,02:40,1\n")
    for _ in range(2):
        result = run(monkeypatch, database, path, *GENERAL, "--topic", topic)
        assert result.exit_code == 0, result.output
    sent = Counter((record.key, record.value) for record in read_topic(database, topic))
    assert len(sent) == 3 and set(sent.values()) == {2}


def test_refused_rows_are_kept_and_the_rest_is_sent(
    tmp_path: Path, database: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / f"{uuid.uuid4().hex}.csv"
    path.write_bytes(HEADER.encode() + b"w1,2016-05-01,00:00,5\nw1,2016-05-01,\xff,5\nw1,2016-05-01,01:00,lots\n,,,\n")
    result = run(monkeypatch, database, path, *GENERAL, "--topic", topic, "--json")
    report = json.loads(result.stdout)
    assert {name: report[name] for name in ("rows", "sent", "missing", "refused", "meters")} == {
        "rows": 4,
        "sent": 1,
        "missing": 0,
        "refused": 3,
        "meters": 1,
    }
    assert isinstance(result.exception, MetersError)
    line = str(result.exception)
    assert "3 of 4 rows were refused, first line 3: byte 14" in line and "iot-meter-dlq" in line and "\n" not in line

    letters = {}
    for record in read_topic(database, "iot-meter-dlq"):
        headers = dict(record.headers)
        if headers.get("source", b"").startswith(path.name.encode()):
            letters[headers["source"].decode().split(":")[1]] = (record.key, record.value, headers)
    assert {line: (key, value) for line, (key, value, _) in letters.items()} == {
        "3": (None, b"w1,2016-05-01,\xff,5"),
        "4": (b"w1", b"w1,2016-05-01,01:00,lots"),
        "5": (None, b",,,"),
    }
    headers = letters["4"][2]
    assert headers["reason"] == b"bad_row" and headers["__connect.errors.stage"] == b"REPLAY"
    assert headers["__connect.errors.exception.class.name"] == b"BadNumber"
    assert b"used" in headers["__connect.errors.exception.message"]
    assert len(read_topic(database, topic)) == 1


def test_a_truncated_archive_sends_what_came_before_and_fails(
    tmp_path: Path, database: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "cut.csv.gz"
    lines = [
        f"w{number % 9},2016-05-{number % 28 + 1:02},00:{number // 60 % 60:02},{number}\n" for number in range(5000)
    ]
    whole = gzip.compress((HEADER + "".join(lines)).encode())
    path.write_bytes(whole[: len(whole) // 2])
    result = run(monkeypatch, database, path, *GENERAL, "--topic", topic, "--json")
    report = json.loads(result.stdout)
    assert report["sent"] > 1000 and report["rows"] == report["sent"] + report["refused"]
    assert len(read_topic(database, topic)) == report["sent"]
    assert isinstance(result.exception, MetersError) and "ends too early" in str(result.exception)


def test_limit_counts_rows(tmp_path: Path, database: Settings, topic: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "some.csv"
    path.write_text(HEADER + "w1,2016-05-01,00:00,5\nw1,2016-05-01,01:00,\n" + "w1,2016-05-01,02:00,5\n" * 5)
    result = run(monkeypatch, database, path, *GENERAL, "--topic", topic, "--limit", 3)
    assert result.exit_code == 0 and len(read_topic(database, topic)) == 2
    words = result.stdout.split()
    assert [words[words.index(name) + 2] for name in ("rows", "sent", "missing", "refused")] == ["3", "2", "1", "0"]


def test_speed_paces_by_the_readings_own_timestamps(tmp_path: Path, database: Settings, topic: str):
    path = tmp_path / "some.csv"
    times = ("00:00", "00:30", "00:15", "01:00")  # the third comes late and is due at once
    path.write_text(HEADER + "".join(f"w1,2016-05-01,{each},5\n" for each in times))
    sent_after: list[tuple[float, int]] = []

    def note(done: int, total: int, report: ReplayReport) -> None:
        sent_after.append((report.seconds, report.sent))

    began = time.monotonic()
    report = replay(path, layout(), database, speed=3600, topic=topic, on_progress=note)
    assert 1.0 <= report.seconds <= time.monotonic() - began
    assert min(seconds for seconds, sent in sent_after if sent >= 3) >= 0.5
    at = {parse_reading(record.value).timestamp: record.timestamp / 1000 for record in read_topic(database, topic)}
    first, late, half, last = (at[instant] for instant in sorted(at))
    # By the broker's clock, half a second each; a message may have waited for its batch or a busy machine.
    assert half - first >= 0.2 and last - half >= 0.2 and late <= last - 0.1


def test_wrong_input_is_one_line_and_sends_nothing(
    tmp_path: Path, database: Settings, topic: str, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "some.csv"
    path.write_text("meter,day,clock,usage\nw1,2016-05-01,00:00,5\n")
    for arguments, words in (
        ([path, *GENERAL], "has no column 'used'"),
        ([tmp_path / "none.csv", *GENERAL], "There is no file"),
        ([tmp_path, *GENERAL], "is a folder"),
        ([path, *GENERAL, "--type", "electricity"], "no unit of electricity"),
        ([path, *GENERAL, "--timezone", "Mars/Olympus"], "no time zone"),
    ):
        result = run(monkeypatch, database, *arguments, "--topic", topic)
        assert isinstance(result.exception, MetersError), result.output
        assert words in str(result.exception) and "\n" not in str(result.exception) and result.stdout == ""
    assert not read_topic(database, topic)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "daid"], "daiad, sgsc, uci"),
        (["--time", "day"], "--value"),
        ([*GENERAL, "--speed", "fast"], "60x"),
        ([*GENERAL, "--speed", "0x"], "60x"),
        ([*GENERAL, "--device-id", "w1"], "--device"),
    ],
)
def test_wrong_usage_exits_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str):
    result = run(monkeypatch, load_settings(), tmp_path / "some.csv", *arguments)
    assert result.exit_code == 2 and words in " ".join(result.stderr.replace("│", " ").split())


def test_options_override_a_preset(tmp_path: Path, database: Settings, topic: str, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "some.csv"
    path.write_text("Date;Time;Global_active_power;who\n16/12/2006;17:24:00;4.2;a\n16/12/2006;17:25:00;?;b\n")
    options = ["--preset", "uci", "--device", "who", "--timezone", "+00:00", "--unit", "W", "--topic", topic]
    assert run(monkeypatch, database, path, *options).exit_code == 0
    (record,) = read_topic(database, topic)
    assert json.loads(record.value) == {"device_id": "a", "timestamp": "2006-12-16T17:24:00Z", "usage_kwh": 0.00007}


def test_without_mongodb_or_kafka_nothing_is_sent(tmp_path: Path, database: Settings, topic: str):
    path = tmp_path / "some.csv"
    path.write_text(HEADER + "w1,2016-05-01,00:00,5\n")
    (nobody,) = free_ports(1)
    with pytest.raises(MetersError, match="Kafka does not answer"):
        replay(path, layout(), database.model_copy(update={"kafka_bootstrap": f"127.0.0.1:{nobody}"}), topic=topic)
    no_mongo = database.model_copy(update={"mongo_uri": f"mongodb://127.0.0.1:{nobody}/?replicaSet=meters"})
    with pytest.raises(MetersError, match="MongoDB does not answer"):
        replay(path, layout(), no_mongo, topic=topic)
    assert not read_topic(database, topic)
    assert connect(database)[METERS].count_documents({}) == 0


def test_a_second_older_file_widens_what_is_expected(tmp_path: Path, database: Settings, topic: str):
    path = tmp_path / "some.csv"
    for day in ("2016-05-02", "2016-05-01", "2016-05-03"):
        path.write_text(HEADER + f"w1,{day},00:00,5\nw1,{day},00:15,5\n")
        replay(path, layout(), database, topic=topic)
    meter = connect(database)[METERS].find_one({"_id": "w1"})
    assert meter is not None and meter["installed_at"] == datetime.fromisoformat("2016-05-01T00:00:00+00:00")
    assert meter["interval_seconds"] == 900
