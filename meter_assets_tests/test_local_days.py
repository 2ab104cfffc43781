"""Which days have readings that their figures lack: counted by ingest, seen by runs, dismissed by people."""

from datetime import UTC, date, datetime, timedelta

import pytest
from pymongo.database import Database

from meter_assets_tests.ingest_support import Pipe, electricity
from meter_assets_tests.support import wait_for
from metering.daily_tables import DAILY_AVERAGES, RAW_READINGS
from metering.day_ledger import begin_days, dismiss_day, late_days, put_in_force, read_day, touch_days
from metering.errors import MetersError
from metering.settings import Settings
from metering.store import LOCAL_DAYS
from runtime.database import connect

DAY = date(2024, 5, 1)
NOW = datetime(2024, 6, 1, tzinfo=UTC)
AFTER = date(2030, 1, 1)


def compute(mongo: Database, asset: str = RAW_READINGS, at: datetime = NOW) -> None:
    begun = begin_days(mongo, [DAY])[DAY]
    put_in_force(mongo, asset, begun, changes=begun.changes, rules={}, run_id="run", at=at)


def late(mongo: Database) -> list[date]:
    return [day.day for day in late_days(mongo, before=AFTER)]


def test_a_day_is_late_from_a_change_after_its_computation_until_the_next_one(mongo):
    touch_days(mongo, [DAY], NOW)
    assert late(mongo) == []  # never computed: missing, not late
    compute(mongo)
    assert late(mongo) == []
    touch_days(mongo, [DAY, date(2024, 5, 2)], NOW)
    assert late(mongo) == [DAY]
    assert late_days(mongo, before=DAY) == []
    compute(mongo)
    assert late(mongo) == []


def test_readings_that_come_while_a_day_is_computed_leave_it_late(mongo):
    begun = begin_days(mongo, [DAY])[DAY]
    touch_days(mongo, [DAY], NOW)
    put_in_force(mongo, RAW_READINGS, begun, changes=begun.changes, rules={}, run_id="run", at=NOW)
    assert late(mongo) == [DAY]


def test_a_day_with_one_asset_behind_the_others_is_late(mongo):
    compute(mongo, DAILY_AVERAGES)
    touch_days(mongo, [DAY], NOW)
    compute(mongo, RAW_READINGS)
    assert late(mongo) == [DAY]


def test_figures_that_have_stood_beyond_the_horizon_wait_for_a_person(mongo):
    compute(mongo, at=NOW)
    compute(mongo, at=NOW + timedelta(days=300))  # computing again does not make the day young
    touch_days(mongo, [DAY], NOW)
    day = read_day(mongo, DAY)
    assert not day.awaits_decision(400, NOW + timedelta(days=400))
    assert day.awaits_decision(400, NOW + timedelta(days=401))
    dismiss_day(mongo, day)
    assert late(mongo) == []
    assert not read_day(mongo, DAY).awaits_decision(400, NOW + timedelta(days=401))
    touch_days(mongo, [DAY], NOW)
    assert late(mongo) == [DAY]


@pytest.fixture
def pipe(stack, database: Settings) -> Pipe:
    return Pipe.fresh(database.model_copy(update={"timezone": "Asia/Ho_Chi_Minh"}))


def changes(settings: Settings) -> dict[str, int]:
    mongo = connect(settings)
    with mongo.client:
        return {document["_id"]: document["changes"] for document in mongo[LOCAL_DAYS].find().sort("_id")}


def test_ingest_counts_the_local_days_that_it_stores_readings_of(pipe):
    hours = 3600
    pipe.send([electricity("em1", 0), electricity("em1", 16 * hours), electricity("em2", 18 * hours)])
    pipe.ingest()
    assert changes(pipe.settings) == {"2024-05-01": 1, "2024-05-02": 1}  # seven hours ahead of UTC
    pipe.send([electricity("em3", 20 * hours)])
    pipe.ingest()
    assert changes(pipe.settings) == {"2024-05-01": 1, "2024-05-02": 2}


def test_duplicates_conflicts_and_garbage_change_no_day(pipe):
    pipe.send([electricity("em1", 0)])
    pipe.ingest()
    pipe.send([electricity("em1", 0), electricity("em1", 0, usage_kwh=9), ("em1", b"{")])
    counts = pipe.ingest()
    assert (counts.duplicates, counts.conflicts, counts.refused) == (1, 1, 1)
    assert changes(pipe.settings) == {"2024-05-01": 1}


def test_a_reading_whose_ingest_died_before_it_counted_the_day_is_counted_when_it_is_read_again(pipe):
    """Otherwise the day would never be known to be late."""
    pipe.send([electricity("em1", 0)])
    with pipe.member(until_caught_up=True, die_instead_of="touch_days") as member:
        wait_for(member.ended, 60, "the process has killed itself")
    pipe.forget_dead_members()
    assert changes(pipe.settings) == {}
    mongo = connect(pipe.settings)
    with mongo.client:
        assert mongo[pipe.feed.collection].count_documents({}) == 1
    counts = pipe.ingest()
    assert (counts.stored, counts.duplicates) == (0, 1)
    assert changes(pipe.settings) == {"2024-05-01": 1}


def test_ingest_refuses_to_count_days_of_another_zone(pipe):
    pipe.ingest()
    elsewhere = Pipe(pipe.settings.model_copy(update={"timezone": "UTC"}), pipe.feed, pipe.dead_letters_topic)
    with pytest.raises(MetersError, match="local days of Asia/Ho_Chi_Minh"):
        elsewhere.ingest()
