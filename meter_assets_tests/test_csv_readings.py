"""CSV rows as messages: clock changes, repetitions, flow rates, units, damage, and the three real files."""

import gzip
import json
import math
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from meter_assets_tests.csv_oracle import FILES, expected_days, expected_readings, is_healthy
from metering.errors import MetersError
from metering.meter_types import METER_TYPES, MeterType
from streaming.replay.csv_layout import CsvLayout
from streaming.replay.csv_presets import PRESETS
from streaming.replay.csv_readings import CsvReadings, Message, Missing, Refused, Row, read_messages
from streaming.replay.csv_source import MAX_LINE_BYTES


def layout(**changes: Any) -> CsvLayout:
    fields: dict[str, Any] = {
        "meter_type": MeterType.WATER,
        "device_column": "meter",
        "time_columns": ("time",),
        "value_column": "used",
        "unit": "L",
        "timezone": "Europe/Madrid",
        "interval_seconds": 3600,
    }
    return CsvLayout(**{**fields, **changes})


def electricity(**changes: Any) -> CsvLayout:
    return layout(**{"meter_type": MeterType.ELECTRICITY, "unit": "kWh", **changes})


def rows_of(tmp_path: Path, *lines: str | bytes, header: str = "meter,time,used", **changes: Any) -> list[Row]:
    path = tmp_path / "some.csv"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in (header, *lines)) + b"\n")
    return list(read_messages(path, changes.pop("layout", None) or layout(**changes)))


def messages(rows: list[Row]) -> list[dict[str, Any]]:
    assert all(isinstance(row, Message) for row in rows), rows
    return [json.loads(row.value) for row in rows if isinstance(row, Message)]


def refused(rows: list[Row]) -> list[Refused]:
    return [row for row in rows if isinstance(row, Refused)]


def test_a_doubled_hour_is_read_in_the_order_of_the_meter(tmp_path: Path):
    local = ("01:30", "02:30", "02:30", "02:45", "03:30")
    rows = rows_of(tmp_path, *(f"w1,2016-10-30 {time},5" for time in local))
    assert [message["timestamp"][11:16] for message in messages(rows)] == ["23:30", "00:30", "01:30", "01:45", "02:30"]


def test_a_third_repetition_of_a_doubled_time_repeats_the_first(tmp_path: Path):
    rows = rows_of(tmp_path, "w1,2016-10-30 01:30,5", *["w1,2016-10-30 02:30,5"] * 3)
    first, second, third = messages(rows)[1:]
    assert third == first != second


def test_each_meter_has_its_own_doubled_hour(tmp_path: Path):
    rows = rows_of(tmp_path, "w1,2016-10-30 02:30,5", "w2,2016-10-30 02:30,5", "w1,2016-10-30 02:30,5")
    assert [message["timestamp"][11:16] for message in messages(rows)] == ["00:30", "00:30", "01:30"]


def test_a_row_without_a_value_still_moves_the_meters_clock(tmp_path: Path):
    rows = rows_of(tmp_path, "w1,2016-10-30 02:30,", "w1,2016-10-30 02:30,5")
    assert isinstance(rows[0], Missing)
    assert messages(rows[1:])[0]["timestamp"] == "2016-10-30T01:30:00Z"


def test_a_missing_hour_takes_the_offset_of_before(tmp_path: Path):
    rows = rows_of(tmp_path, "w1,2016-03-27 01:30,5", "w1,2016-03-27 02:30,5", "w1,2016-03-27 03:45,5")
    assert [message["timestamp"][11:16] for message in messages(rows)] == ["00:30", "01:30", "01:45"]


def test_a_fixed_offset_knows_no_clock_change(tmp_path: Path):
    rows = rows_of(tmp_path, *["w1,2013-04-07T02:30:00,5"] * 2, timezone="+10:00")
    assert {message["timestamp"] for message in messages(rows)} == {"2013-04-06T16:30:00Z"}


def test_a_time_with_its_own_offset_needs_no_zone(tmp_path: Path):
    rows = rows_of(tmp_path, "w1,2016-10-30T02:30:00+05:00,5", "w1,2016-10-30T02:30:00.1237Z,5")
    assert [message["timestamp"] for message in messages(rows)] == ["2016-10-29T21:30:00Z", "2016-10-30T02:30:00.123Z"]


def test_flow_rate_is_litres_by_minutes_since_the_meters_previous_reading(tmp_path: Path):
    rows = rows_of(
        tmp_path, "w1,2016-05-01 00:00,30", "w2,2016-05-01 00:10,6", "w1,2016-05-01 00:30,30", "w1,2016-05-01 02:30,-12"
    )
    assert [message["flow_rate"] for message in messages(rows)] == [0.5, 0.1, 1, -0.1]


@pytest.mark.parametrize("repeated", [1, 2])
def test_a_repeated_row_makes_an_equal_message(tmp_path: Path, repeated: int):
    lines = ["w1,2016-05-01 00:00,30", "w1,2016-05-01 00:20,30", "w1,2016-05-01 01:00,7"]
    rows = rows_of(tmp_path, *lines, lines[repeated])
    again, before = rows[3], rows[repeated]
    assert isinstance(again, Message) and isinstance(before, Message) and again.value == before.value


def test_a_conflicting_row_counts_from_the_same_reading(tmp_path: Path):
    rows = rows_of(tmp_path, "w1,2016-05-01 00:00,1", "w1,2016-05-01 00:30,30", "w1,2016-05-01 00:30,60")
    assert [message["flow_rate"] for message in messages(rows)][1:] == [1, 2]


def test_a_refused_row_is_nothing_to_count_from(tmp_path: Path):
    rows = rows_of(tmp_path, "w1,2016-05-01 00:00,1", "w1,2016-05-01 00:30,many", "w1,2016-05-01 01:00,60")
    assert isinstance(rows[2], Message) and json.loads(rows[2].value)["flow_rate"] == 1


def test_a_computed_minus_one_is_not_taken_for_the_meters_fault_sign(tmp_path: Path):
    water = messages(rows_of(tmp_path, "w1,2016-05-01 00:00,-60"))[0]
    assert water["flow_rate"] != -1 and water["flow_rate"] == pytest.approx(-1, abs=1e-6) and water["usage"] == -60
    power = messages(rows_of(tmp_path, "e1,2016-05-01 00:00,-1", layout=electricity(unit="kW")))[0]
    assert power["usage_kwh"] != -1
    own = messages(rows_of(tmp_path, "e1,2016-05-01 00:00,-1", layout=electricity()))[0]
    assert own["usage_kwh"] == -1


@pytest.mark.parametrize(
    ("unit", "interval", "value", "usage"),
    [
        ("kWh", 900, "1.25", 1.25),
        ("Wh", 900, "1250", 1.25),
        ("MWh", 900, "0.5", 500),
        ("MJ", 900, "3.6", 1),
        ("kW", 900, "4", 1),
        ("kW", 60, "4.216", 0.070266667),
        ("W", 3600, "250", 0.25),
        ("L", 900, "1e1", 10),
        ("m3", 900, "0.25", 250),
        ("gal", 900, "1", 3.785411784),
        ("gal-imp", 900, "100", 454.609),
        ("ft3", 900, "1", 28.316846592),
    ],
)
def test_units(tmp_path: Path, unit: str, interval: int, value: str, usage: float):
    water = unit in ("L", "m3", "gal", "gal-imp", "ft3")
    kind = (layout if water else electricity)(unit=unit, interval_seconds=interval)
    message = messages(rows_of(tmp_path, f"d1,2016-05-01 00:00,{value}", layout=kind))[0]
    assert message["usage" if water else "usage_kwh"] == usage


def test_register_and_household(tmp_path: Path):
    path = tmp_path / "some.csv"
    path.write_text('meter;home;time;used;count\nw1;" H;1";2016-05-01 00:00;0,5;1001,5\nw1;;2016-05-01 00:15;1;\n')
    readings = CsvReadings(
        path,
        layout(register_column="count", household_column="home", separator=";", decimal=",", unit="m3"),
    )
    first, second = messages(list(readings))
    assert (first["usage"], first["register"]) == (500, 1_001_500) and "register" not in second
    (meter,) = readings.meters()
    assert (meter.household_id, meter.interval_seconds, meter.source) == ("H;1", 900, "replay")
    assert meter.installed_at == datetime.fromisoformat("2016-04-30T22:00:00+00:00")


def test_the_interval_is_learned_from_the_file(tmp_path: Path):
    path = tmp_path / "some.csv"
    times = [f"2016-05-01 {minute // 60:02}:{minute % 60:02}:0{minute % 7}" for minute in range(0, 300, 15)]
    path.write_text("meter,time,used\n" + "".join(f"w1,{time},15\n" for time in times) + "w2,2016-05-01 00:00,15\n")
    readings = CsvReadings(path, layout(interval_seconds=None))
    rows = messages(list(readings))
    assert rows[0]["flow_rate"] == rows[-1]["flow_rate"] == 1  # both are a first reading
    assert {meter.device_id: meter.interval_seconds for meter in readings.meters()} == {"w1": 900, "w2": 900}


@pytest.mark.parametrize(
    ("line", "error_class", "why"),
    [
        ("w1,2016-05-01 00:00", "BadLine", "2 columns"),
        ("w1,2016-05-01 00:00,5,5", "BadLine", "4 columns"),
        ('w1,"2016-05-01 00:00,5', "BadLine", "no CSV"),
        (b"w1,2016-05-01 00:00,\xff5", "UnicodeDecodeError", "byte 20"),
        ("w1,01/05/2016,5", "BadTime", "time"),
        ("w1,2016-02-30 00:00,5", "BadTime", "time"),
        ("w1,0001-01-01T00:00+05:00,5", "BadTime", "time"),
        ("w1,1999-12-31 00:00,5", "ValidationError", "timestamp"),
        ("w1,2016-05-01 00:00,lots", "BadNumber", "used"),
        ("w1,2016-05-01 00:00,1_000", "BadNumber", "used"),
        ("w1,2016-05-01 00:00,NaN", "BadNumber", "used"),
        ("w1,2016-05-01 00:00,-inf", "BadNumber", "used"),
        ("w1,2016-05-01 00:00,1e10", "ValidationError", "usage"),
        ("a|b,2016-05-01 00:00,5", "BadDeviceId", "meter"),
        (",2016-05-01 00:00,5", "BadDeviceId", "meter"),
        ("x" * (MAX_LINE_BYTES + 1), "BadLine", "longer"),
        ("x" * (3 * MAX_LINE_BYTES), "BadLine", "longer"),
    ],
)
def test_a_bad_row_is_refused_whole_and_the_next_goes_on(tmp_path: Path, line: str | bytes, error_class: str, why: str):
    rows = rows_of(tmp_path, "w1,2016-04-30 00:00,5", line, "w1,2016-05-01 01:00,5")
    bad = refused(rows)
    assert isinstance(rows[0], Message) and isinstance(rows[-1], Message) and len(bad) == len(rows) - 2
    assert b"".join(row.raw for row in bad) == (line if isinstance(line, bytes) else line.encode())
    assert (bad[0].line, bad[0].error_class) == (3, error_class) and why in bad[0].message


def test_a_forgotten_quote_costs_one_row(tmp_path: Path):
    rows = rows_of(tmp_path, '"w1,2016-05-01 00:00,5', *(f"w1,2016-05-01 0{hour}:00,5" for hour in range(1, 9)))
    assert Counter(type(row) for row in rows) == {Refused: 1, Message: 8}


def test_missing_markers_are_the_layouts(tmp_path: Path):
    lines = ("w1,2016-05-01 00:00,", "w1,2016-05-01 01:00,?")
    assert [type(row) for row in rows_of(tmp_path, *lines)] == [Missing, Refused]
    assert [type(row) for row in rows_of(tmp_path, *lines, missing=frozenset({"", "?"}))] == [Missing, Missing]


def test_windows_files_blank_lines_and_a_missing_last_line_break(tmp_path: Path):
    path = tmp_path / "some.csv"
    path.write_bytes(b"\xef\xbb\xbfmeter,time,used\r\n\r\nw1,2016-05-01 00:00,5\r\n\r\nw1,2016-05-01 01:00,5")
    rows = list(read_messages(path, layout()))
    assert [row.line for row in rows] == [3, 5] and len(messages(rows)) == 2


def test_a_truncated_archive_gives_what_came_before(tmp_path: Path):
    path = tmp_path / "some.csv.gz"
    lines = [f"w{number % 97},2016-05-{number // 97 % 30 + 1:02} 00:00:00,{number}" for number in range(20_000)]
    whole = gzip.compress("\n".join(["meter,time,used", *lines]).encode())
    path.write_bytes(whole[: len(whole) * 2 // 3])
    readings = CsvReadings(path, layout())
    *complete, last = list(readings)
    assert readings.source.damage == "the compressed file ends too early"
    assert isinstance(last, Refused) and "breaks off" in last.message
    assert len(complete) > 10_000 and [m["usage"] for m in messages(complete)] == list(range(len(complete)))


def test_a_damaged_archive_is_told_from_a_whole_one(tmp_path: Path):
    path = tmp_path / "some.csv.gz"
    member = gzip.compress(b"meter,time,used\nw1,2016-05-01 00:00,5\n")
    path.write_bytes(member + gzip.compress(b"w1,2016-05-01 01:00,5\n") + bytes(512))
    readings = CsvReadings(path, layout())
    assert len(messages(list(readings))) == 2 and readings.source.damage is None
    path.write_bytes(member + b"something else")
    readings = CsvReadings(path, layout())
    assert len(messages(list(readings))) == 1 and "damaged" in (readings.source.damage or "")


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path):
    with pytest.raises(MetersError, match="no column 'used'.*columns are: meter, time, usage"):
        rows_of(tmp_path, header="meter,time,usage")
    with pytest.raises(MetersError, match="more than one column 'used'"):
        rows_of(tmp_path, header="meter,time,used,used")


@pytest.mark.parametrize("content", [b"", b"\n\n", b"PK\x03\x04\xff\xfe", b"\x1f\x8b\x08"])
def test_what_is_no_csv_at_all_is_said_at_once(tmp_path: Path, content: bytes):
    path = tmp_path / "some.csv"
    path.write_bytes(content)
    with pytest.raises(MetersError):
        list(read_messages(path, layout()))


@pytest.mark.parametrize("preset", FILES)
def test_real_files_agree_with_the_independent_computation(shared_data: Path, preset: str):
    path = shared_data / FILES[preset]
    field = METER_TYPES[PRESETS[preset].meter_type].usage.name
    readings: dict[tuple[str, datetime], float] = {}
    values = set()
    for row in read_messages(path, PRESETS[preset]):
        assert isinstance(row, Message)
        readings.setdefault((row.device_id, row.instant), json.loads(row.value)[field])
        values.add(row.value)
    assert len(values) == len(readings) == {"daiad": 217_872, "sgsc": 114_407, "uci": 10_000}[preset]
    expected = expected_readings(path, preset)
    assert readings.keys() == expected.keys()
    assert all(math.isclose(usage, expected[key], abs_tol=1e-9) for key, usage in readings.items())


def test_expected_days_add_up_to_the_file(shared_data: Path):
    days = expected_days(shared_data / FILES["daiad"], "daiad", "Europe/Madrid")
    readings = expected_readings(shared_data / FILES["daiad"], "daiad").values()
    assert (len(readings), math.fsum(readings)) == (217_872, 2_437_482)
    healthy = [usage for usage in readings if is_healthy("daiad", usage)]
    assert sum(day.readings for day in days.values()) == len(healthy)
    assert sum(day.faulty for day in days.values()) == 217_872 - len(healthy) > 167
    assert math.fsum(day.usage for day in days.values()) == math.fsum(healthy)
    clock_change = days[datetime(2016, 10, 30, tzinfo=ZoneInfo("Europe/Madrid")).date()]
    assert clock_change.readings == sum(count for count, _ in clock_change.per_device.values())


def test_daiad_usage_is_the_difference_of_registers(shared_data: Path):
    registers: dict[str, list[tuple[datetime, float, float]]] = {}
    for row in read_messages(shared_data / FILES["daiad"], PRESETS["daiad"]):
        assert isinstance(row, Message)
        message = json.loads(row.value)
        registers.setdefault(row.device_id, []).append((row.instant, message["register"], message["usage"]))
    assert len(registers) == 30
    assert sum(usage < 0 for readings in registers.values() for _, _, usage in readings) == 167
    for readings in registers.values():
        # Strictly later each time: only so do both passes of the doubled hour stand in their order.
        assert all(before[0] < after[0] for before, after in zip(readings, readings[1:], strict=False))
        assert all(after[1] - before[1] == after[2] for before, after in zip(readings, readings[1:], strict=False))
