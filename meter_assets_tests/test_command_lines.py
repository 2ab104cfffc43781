"""What commands print: one line for every failure, data never as markup or escape codes, settings refused in words."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import ExecutionTimeout
from rich.table import Table

from local_stack import LocalStack
from meter_assets_tests.support import meters, settings_for, wait_for
from meter_assets_tests.test_mongo_errors import failing
from meter_cli.console import SafeConsole, one_line, visible
from meter_cli.failure import explain
from metering.daily_tables import DAILY_CONSUMPTION
from metering.lost_messages import Loss, LossReason, record_losses
from metering.settings import Settings, load_settings
from metering.store import ALERTS, METERS

HOSTILE = ("[/bold]", "=1+1", "\x1b]0;title\x07", "<img src=x onerror=alert(1)>", "a|b", "\x9b31m", "\u202egnp.exe")


def lines(answer: subprocess.CompletedProcess[str]) -> list[str]:
    assert "Traceback" not in answer.stdout + answer.stderr
    return answer.stderr.strip().splitlines()


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("METERS_MONGO_URI", "localhost:1", "begins with mongodb://"),
        ("METERS_MONGO_URI", "mongodb://u:Geheim/1234@127.0.0.1:27017/", "as %3A %2F"),
        ("METERS_MONGO_URI", "mongodb://u:p@Geheim:w/rd%+x #$@127.0.0.1:27017/?replicaSet=r", "as %3A %2F"),
        ("METERS_MONGO_URI", "mongodb://127.0.0.1:99999/", "Port must be"),
        ("METERS_MONGO_URI", "mongodb://u:Geheim@127.0.0.1/iot-prod?replicaSet=r", "METERS_MONGO_DATABASE=iot-prod"),
        ("METERS_ABNORMAL_TOPICS", "critical=x", 'Write one like {"critical"'),
        ("METERS_ABNORMAL_TOPICS", '{"critical": 1}', "METERS_ABNORMAL_TOPICS is not usable"),
        ("METERS_LAKE", "/data/lake[1]", "a folder with [ in its name"),
        ("METERS_LAKE", "/data/a{b}", "a folder with { in its name"),
        ("METERS_LAKE", "/data/st*r", "a folder with * in its name"),
        ("METERS_LAKE", "data/lake", "from the root on"),
        ("METERS_ROUTER_CHECKPOINT", "router", "from the root on"),
        ("METERS_KAFKA_BOOTSTRAP", "localhost", "host:9092"),
        ("METERS_SPARK_REMOTE", "localhost:15002", "sc://host:15002"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_line_without_secrets(
    tmp_path: Path, variable: str, value: str, said: str
) -> None:
    environment: dict[str, Any] = {variable: value}
    answer = meters(settings_for(tmp_path / "home"), "late", **environment)
    [line] = lines(answer)
    assert answer.returncode == 1
    assert said in line
    assert variable.removesuffix("_CHECKPOINT") in line
    assert "Geheim" not in line


def test_a_lake_in_the_home_of_the_user_is_that_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process took `~/lake` for a folder of its own working directory."""
    monkeypatch.setenv("METERS_LAKE", "~/lake")
    load_settings.cache_clear()
    try:
        assert load_settings().lake_path == str(Path.home() / "lake")
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value", "service"),
    [
        ("METERS_KAFKA_BOOTSTRAP", "localhost:1", "kafka"),
        ("METERS_MONGO_URI", "mongodb://localhost:1", "mongo"),
        ("METERS_SPARK_REMOTE", "sc://localhost:1", "spark"),
    ],
)
def test_a_service_elsewhere_that_does_not_answer_is_unreachable(
    tmp_path: Path, variable: str, value: str, service: str
) -> None:
    """Every address that begins with "local" counted as up."""
    environment: dict[str, Any] = {variable: value}
    answer = meters(settings_for(tmp_path / "home"), "status", "--json", **environment)
    assert answer.returncode == 1
    assert json.loads(answer.stdout)["services"][service]["state"] == "unreachable"


# What is printed -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_the_console_prints_data_as_data(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", title=text)
    table.add_row(text)
    console = SafeConsole()
    console.print(text, table, f"in {text}", soft_wrap=True)
    with console.status(text) as spinner:
        spinner.update(text)
    printed = capsys.readouterr().out
    assert printed.count(visible(text)) == 4
    assert all(character.isprintable() or character == "\n" for character in printed)


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("\x1b[31m\x07\x9b\u202e\udc80") == r"\x1b[31m\x07\x9b\u202e\udc80"
    assert visible("Łódź 10\u00a0000 µ\n") == "Łódź 10\u00a0000 µ\n"
    assert one_line("a\n\tb\r\x00") == r"a b \x00"


def test_hostile_names_are_text_in_replay_and_history(database: Settings, mongo: Database, tmp_path: Path) -> None:
    """`[/bold]` as a household ended `meters history` in a MarkupError, and ESC reached the terminal."""
    file = tmp_path / "hostile[b].csv"
    rows = [f"m{number},2025-01-05 00:00:00,1,{name}" for number, name in enumerate(HOSTILE)]
    file.write_text("\n".join(["id,when,kWh,home", *rows, "m0,[/bold]\x1b,1,x"]) + "\n")
    columns = ("--device", "id", "--time", "when", "--value", "kWh", "--unit", "kWh", "--household", "home")
    answer = meters(database, "replay", str(file), *columns)
    assert answer.returncode == 1  # the last row is refused
    assert "Traceback" not in answer.stderr and "\x1b]" not in answer.stderr + answer.stdout
    assert "hostile[b].csv" in answer.stdout
    assert mongo[METERS].count_documents({"household_id": {"$in": HOSTILE[:5]}}) == 5

    now = datetime.now(UTC)
    mongo[DAILY_CONSUMPTION].insert_many(
        [
            {
                "_id": f"2025-01-05|household|{name}",
                "calculation_date": "2025-01-05",
                "level": "household",
                "key": name,
                "total_usage_kwh": 1.0,
                "remark": name,
                "revision": 1,
                "computed_at": now,
            }
            for name in HOSTILE
        ]
    )
    for options in ((), ("--as-of", "2999-01-01T00:00:00Z"), ("--json",)):
        answer = meters(database, "history", "daily_consumption", "2025-01-05", *options)
        assert (answer.returncode, answer.stderr) == (0, "")
        assert all(character.isprintable() or character == "\n" for character in answer.stdout), options
        assert "[/bold]" in answer.stdout
    assert {each["key"].split("|", 2)[2] for each in json.loads(answer.stdout)} == set(HOSTILE)


# Failures ------------------------------------------------------------------------------------------------------------


def test_a_bug_is_one_line_and_a_file(database: Settings, mongo: Database, tmp_path: Path) -> None:
    own = database.model_copy(update={"home": tmp_path / "home"})
    mongo[ALERTS].insert_one({"_id": "of no version of ours", "acknowledged_at": None, "created_at": "never"})
    answer = meters(own, "alerts", "list")
    [line] = lines(answer)
    assert answer.returncode == 70
    assert line.startswith("error: This is a bug: ")
    [trace] = (own.home / "logs").glob("trace-*.log")
    assert str(trace) in line
    assert "Traceback (most recent call last)" in trace.read_text()
    assert trace.stat().st_mode & 0o077 == 0
    debug = meters(own, "alerts", "list", METERS_DEBUG="1")
    assert "Traceback (most recent call last)" in debug.stderr
    assert debug.returncode == 70


def test_a_bug_shows_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METERS_HOME", str(tmp_path))
    load_settings.cache_clear()
    try:
        try:
            try:
                raise ValueError("no mongodb://me:Geheim@host/iot here\nnor there")
            except ValueError as cause:
                raise RuntimeError("outer") from cause
        except RuntimeError as error:
            line, code = explain(error)
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()
    assert code == 70
    assert line.startswith(
        "This is a bug: ValueError: no mongodb://me:***@host/iot here nor there. The full trace is in "
    )
    [trace] = (tmp_path / "logs").glob("trace-*.log")
    assert "Geheim" not in trace.read_text()


def test_a_simulation_whose_kafka_goes_ends_in_one_line(stack: LocalStack, database: Settings, tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("meters"), "simulate", "--live", "--households", "1"]
    environment = {**os.environ, **database.environment(), "METERS_HOME": str(tmp_path)}
    with (tmp_path / "out").open("w+") as output:
        simulation = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_for(lambda: "first round is sent" in (tmp_path / "out").read_text(), 120, "the simulator sends")
            stack.kill("kafka")
            simulation.wait(200)
        finally:
            simulation.kill()
            stack.start_service("kafka")
    said = (tmp_path / "out").read_text()
    assert "Traceback" not in said
    assert [line for line in said.splitlines() if line.startswith("error: ")] == [said.strip().splitlines()[-1]]
    assert "Kafka does not answer" in said
    assert simulation.returncode == 1


@pytest.mark.parametrize(
    "command",
    [("late",), ("history", "daily_averages", "2024-05-18"), ("alerts", "list"), ("lake", "prune", "--keep-days", "1")],
)
def test_mongodb_failing_under_a_command_is_one_line(
    database: Settings, stack: LocalStack, tmp_path: Path, command: tuple[str, ...]
) -> None:
    (tmp_path / "lake/raw_readings/day=2024-05-18").mkdir(parents=True)
    own = database.model_copy(update={"lake": str(tmp_path / "lake")})
    with failing(database, code=50, command="update" if command[0] == "lake" else "find"):
        answer = meters(own, *command)
    [line] = lines(answer)
    assert (answer.returncode, "took too long" in line) == (1, True), line


# Many meters ---------------------------------------------------------------------------------------------------------

ROWS = 12_000
COLUMNS = ("--device", "id", "--time", "t", "--value", "v", "--unit", "kWh")


def test_a_replay_that_would_register_very_many_meters_asks_first(
    database: Settings, mongo: Database, tmp_path: Path
) -> None:
    """A column chosen wrongly filled the registry with a meter for each row, for good."""
    file = tmp_path / "many.csv"
    file.write_text("id,t,v\n" + "".join(f"row{n},2025-01-05 00:{n % 60:02}:00,1\n" for n in range(ROWS)))
    refused = meters(database, "replay", str(file), *COLUMNS)
    [line] = lines(refused)
    assert refused.returncode == 1
    assert "12,000 new meters" in line and "--device" in line and "--yes" in line
    assert mongo[METERS].count_documents({}) == 0
    dry = meters(database, "replay", str(file), *COLUMNS, "--dry-run", "--json")
    report = json.loads(dry.stdout)
    assert (report["rows"], report["new_meters"], report["dry_run"]) == (ROWS, ROWS, True)
    assert mongo[METERS].count_documents({}) == 0
    taken = meters(database, "replay", str(file), *COLUMNS, "--limit", "20", "--json")  # as few as that are fine
    assert (taken.returncode, json.loads(taken.stdout)["new_meters"]) == (0, 20)
    assert mongo[METERS].count_documents({}) == 20
    yes = meters(database, "replay", str(file), *COLUMNS, "--yes", "--json")
    assert (yes.returncode, json.loads(yes.stdout)["new_meters"]) == (0, ROWS - 20)


# Lost messages and codecs --------------------------------------------------------------------------------------------


def test_status_and_doctor_show_lost_messages_and_codecs(database: Settings, mongo: Database) -> None:
    before = json.loads(meters(database, "status", "--json").stdout)
    assert before["lost_messages"] == {}
    loss = Loss("ingest", "iot-meter", "topic-id", 0, 100, 600, LossReason.RETENTION)
    record_losses(mongo, [loss])
    assert json.loads(meters(database, "status", "--json").stdout)["lost_messages"] == {"ingest": 500}
    assert "ingest at most 500" in meters(database, "status").stdout
    checks = {each["name"]: each for each in json.loads(meters(database, "doctor", "--json").stdout)["checks"]}
    assert checks["lost messages"]["warns"] is True
    assert "ingest at most 500" in checks["lost messages"]["detail"]
    assert checks["codecs"] == {
        "name": "codecs",
        "ok": True,
        "detail": "messages compressed with gzip, lz4, snappy, zstd can be read",
        "fix": "",
        "warns": False,
    }


def test_a_missing_codec_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """kafka-python has what its libraries have: without lz4 one message of another producer stops a partition."""
    from kafka import codec

    from local_stack.doctor import diagnose

    monkeypatch.setattr(codec, "lz4", None)
    monkeypatch.setattr(codec, "has_lz4", lambda: False)
    [found] = [each for each in diagnose(settings_for(tmp_path / "home")) if each.name == "codecs"]
    assert (found.ok, "lz4" in found.detail, "make setup" in found.fix) == (False, True, True)


def test_an_error_that_nobody_caught_names_the_service() -> None:
    """The last one to see it: a command that did not translate its look-ups' errors."""
    line, code = explain(ExecutionTimeout("operation exceeded time limit", 50))
    assert (code, "took too long" in str(line)) == (1, True), line


def test_the_names_that_two_settings_had_before_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("METERS_MIN_COMPLETENESS", "METERS_MAX_DRIFT"):
        monkeypatch.delenv(name, raising=False)  # the session's own
    monkeypatch.setenv("METERS_LEAST_COMPLETENESS", "0.7")
    monkeypatch.setenv("METERS_MOST_DRIFT", "0.3")
    assert (Settings().min_completeness, Settings().max_drift) == (0.7, 0.3)
    monkeypatch.setenv("METERS_MIN_COMPLETENESS", "0.6")
    assert Settings().min_completeness == 0.6
    assert Settings().environment()["METERS_MAX_DRIFT"] == "0.3"
