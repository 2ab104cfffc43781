"""MongoDB fails while a day is published, in every way and at every step: afterwards the day is whole, once."""

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from meter_assets_tests.days_support import Installation, assert_whole, failpoint, store_readings
from meter_assets_tests.runner_support import Runner, config_of
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION
from metering.day_ledger import read_day
from metering.store import LOCAL_DAYS, REVISIONS, ensure_collections

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first one's time is the stack's, too

DAY = date(2024, 5, 1)

TWICE = {"times": 2}
"""The driver itself tries once more: the second failure is the run's."""

STEPDOWN, INSIDE, DISK_FULL, TIME_OVER, NO_TRANSACTION = ({"errorCode": code} for code in (189, 1, 14031, 262, 251))
CLOSED = {"closeConnection": True}
UNSURE = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}

STEPS: dict[str, list[tuple[str, str | None, dict[str, Any]]]] = {
    "marks": [("update", LOCAL_DAYS, how) for how in (STEPDOWN, CLOSED, UNSURE, DISK_FULL)],
    "reads": [
        ("find", DAILY_AVERAGES, STEPDOWN),
        ("find", DAILY_CONSUMPTION, CLOSED),
        ("find", ABNORMAL_DEVICE_SUMMARY, TIME_OVER),
        ("aggregate", REVISIONS, INSIDE),
        ("aggregate", REVISIONS, CLOSED),
    ],
    "writes": [
        ("update", DAILY_AVERAGES, CLOSED),
        ("update", DAILY_CONSUMPTION, DISK_FULL),
        ("insert", REVISIONS, INSIDE),
        ("insert", REVISIONS, CLOSED),
    ],
    "commits": [("commitTransaction", None, how) for how in (STEPDOWN, CLOSED, UNSURE, NO_TRANSACTION, DISK_FULL)],
}
"""Command, collection and failure, by what a day's publishing is made of."""


@pytest.fixture
def city(installation: Installation) -> Installation:
    ensure_collections(installation.database)
    installation.choose(unknown_meters=False)
    store_readings(installation, DAY, hour=0)
    store_readings(installation, DAY, hour=0.5, usage_kwh=-1)
    return installation


@pytest.fixture
def runner(city: Installation) -> Iterator[Runner]:
    with Runner(city) as process:
        assert process.compute(str(DAY))["success"]
        assert_whole(city, str(DAY))
        yield process


@pytest.mark.parametrize("steps", STEPS)
def test_a_day_is_whole_after_each_failure_and_no_revision_is_doubled(city: Installation, runner: Runner, steps: str):
    for number, (command, collection, how) in enumerate(STEPS[steps], start=1):
        what = f"{command} of {collection}: {how}"
        store_readings(city, DAY, hour=number, usage_kwh=-1)
        store_readings(city, DAY, hour=number + 0.5)
        where = {"namespace": f"{city.database.name}.{collection}"} if collection else {}
        with failpoint(city, TWICE, failCommands=[command], **where, **how) as entered:
            runner.begin(config_of([str(DAY)]))
            entered(2 if "errorCode" in how or "closeConnection" in how else 1)
            answer = runner.answer()
        assert answer["success"], (what, answer["failure"])
        assert_whole(city, str(DAY))
        day = read_day(city.database, DAY)
        assert (day.is_late, day.publishing) == (False, ()), what
        averages = city.database[DAILY_AVERAGES].find_one({"calculation_date": str(DAY)})
        assert averages and averages["revision"] == number + 1, what
