"""What each check of a day finds, on figures made for it; the database is real."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from meter_assets.figures.all_figures import CHECKS
from meter_assets.figures.check import Finding
from meter_assets.figures.day_figures import DayFigures
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION, RAW_READINGS
from metering.settings import Settings
from metering.store import FAULTS
from runtime.database import connect

DAY = date(2024, 5, 18)
START = datetime(2024, 5, 18, tzinfo=UTC)
Document = dict[str, Any]


@pytest.fixture
def mongo(database: Settings) -> Iterator[Database]:
    own = connect(database)
    yield own
    own.client.close()


def figures(profile: list[Document] = [], **documents: list[Document]) -> DayFigures:  # noqa: B006 never changed
    return DayFigures(DAY, START, START + timedelta(days=1), profile, documents)


def look(name: str, of: DayFigures, mongo: Any = None, settings: Settings | None = None) -> Finding:
    (check,) = [check for check in CHECKS if check.name == name]
    return check.look(of, mongo, settings or Settings())


def hour(**changes: Any) -> Document:
    first = START + timedelta(hours=3)
    return {
        **{"meter_type": "water", "hour": 3, "readings": 4, "faulty_readings": 1},
        **{"first_at": first, "last_at": first + timedelta(minutes=45), "usage": 1.0},
        **changes,
    }


def average(meter_type: str = "water", **changes: Any) -> Document:
    unit, field = ("L", "total_usage") if meter_type == "water" else ("kWh", "total_usage_kwh")
    return {
        **{"_id": f"{DAY}|{meter_type}", "calculation_date": str(DAY), "meter_type": meter_type, "unit": unit},
        **{"total_usage": None, "total_usage_kwh": None, field: 100.0},
        **{"readings": 4, "faulty_readings": 1, "completeness": 1.0, "expected_readings": 4},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"first_at": START, "last_at": START + timedelta(hours=23, minutes=59, seconds=59)}, True),
        ({"first_at": START - timedelta(seconds=1)}, False),
        ({"last_at": START + timedelta(days=1)}, False),
    ],
)
def test_no_reading_of_another_day(changes: Document, holds: bool):
    finding = look("no_reading_of_another_day", figures([hour(**changes)], raw_readings=[]))
    assert finding.holds == holds
    assert ("outside the day" in finding.says) != holds


@pytest.mark.parametrize(("kept", "holds"), [(4, True), (5, False), (3, False)])
def test_readings_accounted(kept: int, holds: bool):
    finding = look("readings_accounted", figures([hour()], daily_averages=[average(readings=kept)]))
    assert finding.holds == holds
    assert finding.says == f"5 readings in, {kept} kept + 1 faulty"


def test_one_row_per_type():
    assert look("one_row_per_type", figures([hour()], daily_averages=[average(), average("electricity")])).holds
    twice = look("one_row_per_type", figures([hour()], daily_averages=[average(), average()]))
    missing = look("one_row_per_type", figures([hour()], daily_averages=[average("electricity")]))
    assert (twice.holds, missing.holds) == (False, False)
    assert missing.says == "more than one row: none; no row: water"


@pytest.mark.parametrize(("total", "holds"), [(0.0, True), (-0.001, False)])
def test_no_negative_total(total: float, holds: bool):
    assert look("no_negative_total", figures(daily_averages=[average(total_usage=total)])).holds == holds


def consumption(level: str, key: str, usage: float, readings: int = 4) -> Document:
    return {
        **{"_id": f"{DAY}|{level}|{key}|water", "level": level, "key": key, "meter_type": "water"},
        **{"total_usage": usage, "total_usage_kwh": None, "readings": readings, "faulty_readings": 0},
        **{"completeness": 1.0},
    }


@pytest.mark.parametrize(
    ("district", "holds"), [((0.3, 8), True), ((0.30001, 8), False), ((0.2, 8), False), ((0.3, 7), False)]
)
def test_levels_add_up(district: tuple[float, int], holds: bool):
    """0.1 + 0.2 is not 0.3 in binary: that is no difference."""
    devices = [consumption("device", "wm1", 0.1), consumption("device", "wm2", 0.2)]
    households = [consumption("household", "H1", 0.1), consumption("household", "H2", 0.2)]
    documents = [*devices, *households, consumption("district", "North", *district)]
    assert look("levels_add_up", figures(daily_consumption=documents)).holds == holds


@pytest.mark.parametrize(("completeness", "holds"), [(1.0, True), (0.9, True), (0.89, False), (None, True)])
def test_completeness_is_judged_by_the_setting(completeness: float | None, holds: bool):
    finding = look("completeness", figures(daily_averages=[average(completeness=completeness)]))
    assert finding.holds == holds
    strict = Settings(min_completeness=1)
    assert look("completeness", figures(daily_averages=[average(completeness=0.999)]), settings=strict).holds is False


def test_an_incomplete_day_names_its_least_complete_meters():
    devices = [{**consumption("device", f"wm{number}", 1.0), "completeness": number / 10} for number in range(11)]
    of = figures(daily_averages=[average(completeness=0.5)], daily_consumption=devices)
    table = look("completeness", of).evidence["least complete meters"]
    assert [record.data["key"] for record in table.records] == [f"wm{number}" for number in range(9)]


@pytest.mark.parametrize(("total", "holds"), [(100.0, True), (150.0, True), (151.0, False), (49.0, False)])
def test_drift_is_measured_against_the_same_weekday(mongo, total: float, holds: bool):
    for back, usage in ((7, 90.0), (14, 110.0), (1, 9999.0), (35, 9999.0)):
        day = str(DAY - timedelta(days=back))
        mongo[DAILY_AVERAGES].insert_one(average(total_usage=usage, calculation_date=day, _id=f"{day}|water"))
    assert look("drift", figures(daily_averages=[average(total_usage=total)]), mongo).holds == holds


def test_without_history_nothing_drifts(mongo):
    finding = look("drift", figures(daily_averages=[average()]), mongo)
    assert (finding.holds, finding.says) == (True, "no earlier day of this weekday to compare with")


def test_the_stream_agrees_meter_by_meter_within_the_day(mongo):
    def route(device: str, timestamp: str) -> None:
        mongo[FAULTS].insert_one({"_id": f"{timestamp}|{device}", "device_id": device})

    route("em1", "2024-05-18T00:00:00Z")
    route("em1", "2024-05-18T23:59:59.999Z")
    route("em1", "2024-05-19T00:00:00Z")
    found = [{"device_id": "em1", "faulty_readings": 2}]
    assert look("stream_agrees", figures(abnormal_device_summary=found), mongo).holds
    route("em2", "2024-05-18T10:00:00Z")
    finding = look("stream_agrees", figures(abnormal_device_summary=found), mongo)
    assert (finding.holds, finding.says) == (False, "2 faults found, 3 routed; 1 meters differ")
    (record,) = finding.evidence["differences"].records
    assert record.data == {"device_id": "em2", "found by the day": 0, "routed": 1}


def test_each_check_belongs_to_a_daily_asset():
    assets = {check.asset for check in CHECKS}
    assert assets == {RAW_READINGS, DAILY_AVERAGES, DAILY_CONSUMPTION, ABNORMAL_DEVICE_SUMMARY}
