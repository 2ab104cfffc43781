"""alert_sensor as the Dagster daemon evaluates it: an instance with events, a real MongoDB, a real receiver."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database

from alerting.digests import DigestOutcome
from local_stack import LocalStack
from local_stack.dagster import Dagster
from meter_assets.automation import alert_sensor as sensor_module
from meter_assets.automation.alert_sensor import AlertCursor, alert_sensor, summary
from meter_assets.definitions import defs
from meter_assets_tests.alert_support import NOW, SECRET, Receiver, fault, minutes, receiving, store
from meter_assets_tests.support import wait_for
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY
from metering.errors import MetersError
from metering.meter_types import MeterType
from metering.registry import Meter, register_meters
from metering.settings import Settings, load_settings
from metering.store import ALERTS, FAULT_EPISODES, LATEST_READINGS, ensure_collections

ASSET = dg.AssetKey("abnormal_device_summary")


def use(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put settings in force for this process."""
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()


class Daemon:
    """What Dagster's daemon does for a sensor: evaluates it, keeps its cursor if the tick succeeds."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> str:
        """One evaluation; returns what it says it did."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=defs)
        result = alert_sensor.evaluate_tick(context)
        self.cursor = result.cursor
        assert not result.run_requests
        assert result.skip_message
        return result.skip_message

    def materialize(self, day: date, abnormal_meters: int) -> None:
        """Record that the asset has been materialized for a day."""
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                ASSET, partition=day.isoformat(), metadata={"abnormal meters": abnormal_meters, "changed": 1}
            )
        )


@pytest.fixture
def chosen(database: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Settings, Receiver]]:
    """Settings in force with a webhook, and what receives it."""
    with receiving() as (url, receiver):
        changes = {"alert_channels": "webhook", "webhook_url": SecretStr(url), "webhook_secret": SecretStr(SECRET)}
        settings = database.model_copy(update=changes)
        use(settings, monkeypatch)
        yield settings, receiver
    monkeypatch.undo()
    load_settings.cache_clear()


@pytest.fixture
def receiver(chosen: tuple[Settings, Receiver]) -> Receiver:
    return chosen[1]


@pytest.fixture
def city(chosen: tuple[Settings, Receiver]) -> Iterator[Database]:
    settings, _ = chosen
    with MongoClient(settings.mongo, tz_aware=True) as client:
        own = client[settings.mongo_database]
        ensure_collections(own)
        yield own


@pytest.fixture
def daemon(tmp_path) -> Iterator[Daemon]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield Daemon(instance)


def publish(city: Database, day: date, meters: int) -> None:
    """The day's documents as the asset publishes them."""
    city[ABNORMAL_DEVICE_SUMMARY].delete_many({"calculation_date": str(day)})
    at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    city[ABNORMAL_DEVICE_SUMMARY].insert_many(
        {
            "_id": f"{day}|e-{number}",
            "calculation_date": str(day),
            "device_id": f"e-{number}",
            "meter_type": "electricity",
            "household_id": "unassigned",
            "district": "unassigned",
            "faulty_readings": 1,
            "faulty_share": 1.0,
            "reasons": [{"rule": "above_bound", "count": 1}],
            "first_fault_at": at,
            "last_fault_at": at,
            "longest_fault_run": 1,
            "computed_at": at,
        }
        for number in range(meters)
    )


def kinds(city: Database) -> Counter[str]:
    return Counter(alert["kind"] for alert in city[ALERTS].find())


def test_the_sensor_is_on_and_starts_no_runs():
    assert alert_sensor in (defs.sensors or [])
    assert alert_sensor.default_status == dg.DefaultSensorStatus.RUNNING
    assert alert_sensor.minimum_interval_seconds == 10


def test_dagsters_own_daemon_ticks_the_sensor(city: Database, chosen: tuple[Settings, Receiver]):
    """Nobody turns it on, and what goes to the log can be read in the log of the installation."""
    settings, receiver = chosen
    now = datetime.now(UTC)
    store(city, fault("e-1", now - minutes(1), stored_at=now))
    server = Dagster(settings.model_copy(update={"alert_channels": "webhook,log", "router_sensor": False}))
    server.launch()
    try:
        wait_for(lambda: receiver.ids, 120, "an alert from the daemon")
        wait_for(lambda: "electricity meter e-1 reports faults since" in server.log.read_text(), 30, "an alert logged")
    finally:
        server.stop()
    assert [alert.split("|")[0] for alert in receiver.ids] == ["episode_opened"]


def test_ticks_tell_of_episodes_and_silent_meters_once(city: Database, daemon: Daemon, receiver: Receiver):
    now = datetime.now(UTC).replace(microsecond=0)
    store(
        city,
        *(fault("e-1", now - minutes(10 + number), stored_at=now) for number in range(3)),
        fault("e-2", now - minutes(100), stored_at=now),
    )
    installed = now - timedelta(days=9)
    register_meters(
        city,
        [Meter(device_id="e-3", meter_type=MeterType.ELECTRICITY, interval_seconds=60, installed_at=installed)],
    )
    city[LATEST_READINGS].insert_one({"_id": "e-3", "timestamp": now - minutes(20)})
    assert daemon.tick() == "opened 2, cleared 1, silent 1, sent 4 to webhook"
    assert daemon.tick() == "nothing new"
    assert len(receiver.posts) == 1
    assert sorted(receiver.ids) == sorted(alert["_id"] for alert in city[ALERTS].find())


def test_every_materialization_of_a_tick_is_seen(city: Database, daemon: Daemon, receiver: Receiver):
    """A single-run backfill makes the events of all its days at once; the newest alone would be one of them."""
    days = [date(2024, 5, 1) + timedelta(days=number) for number in range(12)]
    for day in days:
        publish(city, day, 2)
        daemon.materialize(day, 2)
    daemon.materialize(days[3], 2)
    assert daemon.tick() == "abnormal days 12, sent 12 to webhook"
    daemon.materialize(days[0], 2)
    assert daemon.tick() == "nothing new"
    publish(city, days[5], 3)
    daemon.materialize(days[5], 3)
    assert daemon.tick() == "abnormal days 1, sent 1 to webhook"
    assert len(receiver.ids) == len(set(receiver.ids)) == 13


def test_more_materializations_than_a_tick_takes_are_left_for_the_next(city, daemon: Daemon, receiver, monkeypatch):
    monkeypatch.setattr(sensor_module, "DAYS_PER_TICK", 5)
    days = [date(2024, 5, 1) + timedelta(days=number) for number in range(12)]
    for day in days:
        publish(city, day, 1)
        daemon.materialize(day, 1)
    said = [daemon.tick() for _ in range(4)]
    assert said == [f"abnormal days {n}, sent {n} to webhook" for n in (5, 5, 2)] + ["nothing new"]


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")  # the code location ignores it once, this stand-in again
def test_a_real_single_run_over_a_range_of_days_is_seen(city: Database, daemon: Daemon):
    """The events here come from Dagster's own run over a range, not from a report of ours."""
    days = ["2024-05-01", "2024-05-02", "2024-05-03"]

    @dg.asset(
        name="abnormal_device_summary",
        partitions_def=dg.DailyPartitionsDefinition("2024-04-01"),
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def stand_in(context: dg.AssetExecutionContext) -> None:
        for key in context.partition_keys:
            publish(city, date.fromisoformat(key), 1)

    tags = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]}
    assert dg.materialize([stand_in], instance=daemon.instance, tags=tags).success
    assert daemon.tick() == "abnormal days 3, sent 3 to webhook"
    assert {alert["subject"] for alert in city[ALERTS].find()} == set(days)


def test_a_webhook_that_is_away_is_said_and_tried_again(city: Database, daemon: Daemon, receiver: Receiver):
    now = datetime.now(UTC)
    receiver.failures = 1
    store(city, fault("e-1", now - minutes(1), stored_at=now))
    assert daemon.tick().startswith("opened 1, 1 waiting for webhook until 20")
    city[ALERTS].update_many({}, {"$set": {"channels.webhook.next_try_at": now + timedelta(hours=1)}})
    assert daemon.tick().startswith("1 waiting for webhook until 20")
    city[ALERTS].update_many({}, {"$set": {"channels.webhook.next_try_at": now}})  # the wait, without waiting
    assert daemon.tick() == "sent 1 to webhook"
    assert receiver.ids == [alert["_id"] for alert in city[ALERTS].find()]


def test_mongodb_away_fails_the_tick_with_our_line_and_loses_nothing(
    city: Database, daemon: Daemon, chosen: tuple[Settings, Receiver], monkeypatch
):
    settings, receiver = chosen
    daemon.tick()
    now = datetime.now(UTC)
    store(city, fault("e-1", now - minutes(1), stored_at=now))
    daemon.materialize(date(2024, 5, 1), 1)
    publish(city, date(2024, 5, 1), 1)
    with monkeypatch.context() as outage:
        use(settings.model_copy(update={"mongo_uri": "mongodb://127.0.0.1:1/?replicaSet=meters"}), outage)
        with pytest.raises(MetersError, match=r"^MongoDB does not answer at 127.0.0.1:1"):
            daemon.tick()
    load_settings.cache_clear()
    assert daemon.tick() == "opened 1, abnormal days 1, sent 2 to webhook"
    assert len(receiver.ids) == 2


def test_mongodb_that_goes_away_within_a_tick_is_our_line(city: Database, stack: LocalStack, daemon, monkeypatch):
    """The connection stood when the tick began."""
    real = sensor_module.update_episodes

    def outage(*args, **options):
        stack.kill("mongo")
        return real(*args, **options)

    daemon.tick()
    cursor = daemon.cursor
    monkeypatch.setattr(sensor_module, "update_episodes", outage)
    try:
        with pytest.raises(MetersError, match="^MongoDB does not answer at"):
            daemon.tick()
    finally:
        stack.start_service("mongo")
    monkeypatch.setattr(sensor_module, "update_episodes", real)
    assert daemon.cursor == cursor
    assert daemon.tick() == "nothing new"


def test_a_misconfigured_channel_fails_the_tick_before_anything_is_done(
    city: Database, daemon: Daemon, chosen: tuple[Settings, Receiver], monkeypatch
):
    settings, _ = chosen
    store(city, fault("e-1", datetime.now(UTC), stored_at=datetime.now(UTC)))
    use(settings.model_copy(update={"alert_channels": "email"}), monkeypatch)
    with pytest.raises(MetersError, match="email needs METERS_SMTP_HOST"):
        daemon.tick()
    assert city[FAULT_EPISODES].count_documents({}) == 0


def test_the_first_tick_of_an_installation_makes_its_collections(chosen: tuple[Settings, Receiver], daemon: Daemon):
    settings, _ = chosen
    assert daemon.tick() == "nothing new"
    with MongoClient(settings.mongo) as client:
        assert FAULT_EPISODES in client[settings.mongo_database].list_collection_names()


def test_a_cursor_survives_being_written_down():
    cursor = AlertCursor(faults=NOW, materialization=7, silence_checked_at=NOW)
    assert AlertCursor.model_validate_json(cursor.model_dump_json()) == cursor


def test_what_a_tick_says():
    waiting = DigestOutcome("webhook", waiting=1, next_try_at=NOW, error="x.example answered 503")
    raised = Counter({"episode_opened": 2, "episode_cleared": 1})
    assert summary(raised, [DigestOutcome("log", sent=3), waiting, DigestOutcome("email", failed=2, error="no")]) == (
        "opened 2, cleared 1, sent 3 to log, 1 waiting for webhook until 2024-05-27T12:00:00Z: x.example answered 503, "
        "2 given up for email: no"
    )
