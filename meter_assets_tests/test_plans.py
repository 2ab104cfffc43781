"""No query of days, history, late days, alerts, episodes or silent meters reads a whole large collection."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database

from alerting.abnormal_days import check_days
from alerting.alerts import acknowledge, list_alerts
from alerting.channels import chosen_channels
from alerting.digests import deliver
from alerting.episodes import clear_quiet_episodes, update_episodes
from alerting.silent import check_silence
from alerting.undecided_days import check_late_days
from meter_assets.days.history import read_history
from meter_assets.days.revisions import Edition, publish_day
from meter_assets_tests.alert_support import fault
from meter_assets_tests.days_support import Installation, assert_whole, store_readings
from meter_assets_tests.plans_support import assert_no_collection_scans
from meter_assets_tests.runner_support import Runner
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY, DAILY_ASSETS, DAILY_AVERAGES, DAILY_CONSUMPTION
from metering.day_ledger import begin_days, dismiss_day, finished_days, read_day, touch_days
from metering.day_ledger import unsettled_days as read_unsettled_days
from metering.publishing import Publishing, begin_publishing, end_publishing
from metering.registry import METERS
from metering.settings import Settings
from metering.store import (
    ALERTS,
    FAULT_EPISODES,
    FAULTS,
    LATEST_READINGS,
    LOCAL_DAYS,
    READINGS,
    REVISIONS,
    ensure_collections,
)

pytestmark = pytest.mark.timeout(600)  # the first one's time is the stack's, too

NOW = datetime(2024, 5, 27, 12, tzinfo=UTC)
DAYS = [date(2024, 5, 1) + timedelta(days=number) for number in range(10)]
FIGURES = (DAILY_AVERAGES, DAILY_CONSUMPTION, ABNORMAL_DEVICE_SUMMARY)


def publish(mongo: Database, day: date, total: float) -> None:
    """All figures of a day, as a run publishes them."""
    begun = begin_days(mongo, [day])[day]
    edition = Edition(day=begun, changes=begun.changes, rules={}, run_id=f"run-{begun.run}")
    begin_publishing(mongo, day, Publishing(begun.run, edition.run_id, "elsewhere 1 1", NOW, DAILY_ASSETS))
    for name in FIGURES:
        keys = [f"{day}|{number}" for number in range(5)]
        documents = [
            {"_id": key, "calculation_date": str(day), "device_id": key, "total": total, "level": "device", "key": key}
            for key in keys
        ]
        publish_day(mongo, name, documents, edition)
    end_publishing(mongo, day, run=begun.run, assets=DAILY_ASSETS)


@pytest.fixture
def published(mongo: Database) -> Database:
    """Days with figures and a revision of each."""
    for total in (1.0, 2.0):
        touch_days(mongo, DAYS, NOW)
        for day in DAYS:
            publish(mongo, day, total)
    return mongo


def test_a_scan_is_found(mongo: Database):
    """As case by case an index is missing, or MongoDB has none that it could use."""
    documents: list[Any] = [{"_id": f"{number:03}", "n": number} for number in range(50)]
    mongo.create_collection("clustered", clusteredIndex={"key": {"_id": 1}, "unique": True})
    mongo["clustered"].insert_many(documents)
    mongo["plain"].insert_many(documents)
    some = {"$in": ["001", "007"]}
    for good in (
        lambda: list(mongo["clustered"].find({"_id": {**some, "$gte": "001", "$lte": "007"}})),
        lambda: mongo["clustered"].find_one({"_id": "007"}),
        lambda: mongo["plain"].find_one({}),
        lambda: list(mongo["plain"].find({"_id": some})),
        lambda: mongo["plain"].update_one({"_id": "001"}, {"$set": {"m": 1}}),
    ):
        assert_no_collection_scans(mongo, good)
    for bad in (
        lambda: list(mongo["clustered"].find({"_id": some})),
        lambda: mongo["plain"].update_one({"n": 49}, {"$set": {"m": 1}}),
        lambda: mongo["plain"].delete_many({"n": 7}),
        lambda: list(mongo["plain"].aggregate([{"$match": {"n": 1}}, {"$group": {"_id": "$n"}}])),
        lambda: mongo["plain"].count_documents({"n": 1}),
        lambda: mongo["plain"].distinct("n"),
    ):
        with pytest.raises(AssertionError, match="read a whole collection"):
            assert_no_collection_scans(mongo, bad)
        assert_no_collection_scans(mongo, bad, allowed=["plain", "clustered"])
    with pytest.raises(AssertionError, match="did not query"):
        assert_no_collection_scans(mongo, lambda: None, reads=["plain"])


def test_publishing_days_and_what_is_asked_of_them(published: Database):
    def work() -> None:
        publish(published, DAYS[3], 3.0)
        publish(published, DAYS[3], 3.0)
        touch_days(published, [DAYS[4]], NOW)
        assert [day.day for day in read_unsettled_days(published, before=DAYS[-1])] == [DAYS[4]]
        finished_days(published, DAYS, DAILY_ASSETS, "run-1")
        dismiss_day(published, read_day(published, DAYS[4]))

    assert_no_collection_scans(published, work, reads=[*FIGURES, REVISIONS, LOCAL_DAYS])


@pytest.mark.parametrize("name", FIGURES)
def test_history(published: Database, name: str):
    day = str(DAYS[2])
    whole = assert_no_collection_scans(published, lambda: read_history(published, name, day), reads=[name, REVISIONS])
    assert len(whole) == 10
    one = assert_no_collection_scans(published, lambda: read_history(published, name, day, key=f"{day}|1"))
    assert [version.revision for version in one] == [1, 2]


def test_alerts_episodes_and_silent_meters(published: Database, settings: Settings):
    own = settings.model_copy(update={"alert_channels": "log", "alert_abnormal_share": 0.0, "late_horizon_days": 0})
    started = NOW - timedelta(days=9)
    published[METERS].insert_many(
        {
            **{"_id": f"em{number}", "meter_type": "electricity", "interval_seconds": 900, "installed_at": started},
            **{"household_id": "H1", "district": "North"},
        }
        for number in range(30)
    )
    published[LATEST_READINGS].insert_many({"_id": f"em{number}", "timestamp": NOW} for number in range(30))
    published[FAULTS].insert_many(
        fault(f"em{number}", NOW - timedelta(minutes=minute), stored_at=NOW - timedelta(minutes=minute))
        for number in range(20)
        for minute in range(5)
    )
    touch_days(published, DAYS[:2], NOW)

    def look(now: datetime, cursor: datetime | None) -> datetime | None:
        progress = update_episodes(published, own, cursor, now)
        clear_quiet_episodes(published, own, now)
        check_days(published, own, DAYS[:2], now)
        check_silence(published, own, now)
        check_late_days(published, own, now)
        for channel in chosen_channels(own):
            deliver(published, channel, now)
        for alert in list_alerts(published)[:2]:
            acknowledge(published, [alert["_id"]], by="a test")
        return progress.cursor

    cursor = look(NOW, None)
    # The registry has no order by which a meter is in service or silent: both are counted over all of it.
    later = NOW + timedelta(hours=4)
    published[LATEST_READINGS].update_many({"_id": {"$lt": "em2"}}, {"$set": {"timestamp": later}})
    everything = [FAULTS, FAULT_EPISODES, ALERTS, LATEST_READINGS, ABNORMAL_DEVICE_SUMMARY]
    assert_no_collection_scans(published, lambda: look(later, cursor), allowed=[METERS], reads=everything)
    much_later = later + timedelta(hours=1)
    published[LATEST_READINGS].update_many({}, {"$set": {"timestamp": much_later}})
    assert_no_collection_scans(published, lambda: look(much_later, cursor), allowed=[METERS], reads=everything)


def test_a_run_reads_its_days_and_nothing_else(installation: Installation):
    """Spark's connector included: it must find a day by the range of its keys."""
    database = installation.database
    ensure_collections(database)
    installation.choose(unknown_meters=False)
    for day in DAYS[:4]:
        store_readings(installation, day, hour=0)
        store_readings(installation, day, hour=6, usage_kwh=-1)
    with Runner(installation) as runner:
        assert runner.compute(*map(str, DAYS[:3]))["success"]
        store_readings(installation, DAYS[1], hour=12)

        answer = assert_no_collection_scans(
            database,
            lambda: runner.compute(str(DAYS[1])),
            allowed=[METERS],  # a day needs all of the registry
            reads=[READINGS, *FIGURES, REVISIONS, LOCAL_DAYS],
        )
    assert answer["success"], answer["failure"]
    assert_whole(installation, str(DAYS[1]))
