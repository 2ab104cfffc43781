"""What is worth an alert: silent meters and abnormal days; and how alerts are listed and acknowledged."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from alerting.abnormal_days import check_days
from alerting.alerts import Alert, Kind, acknowledge, list_alerts, raise_alerts
from alerting.lost_messages import check_lost_messages
from alerting.silent import check_silence
from meter_assets_tests.alert_support import NOW, minutes
from meter_assets_tests.support import meters
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY
from metering.errors import MetersError
from metering.lost_messages import Loss, LossReason, record_losses
from metering.meter_types import MeterType
from metering.registry import METERS, Meter, register_meters
from metering.settings import Settings
from metering.store import ALERTS, LATEST_READINGS, ensure_collections

DAY = date(2024, 5, 26)


@pytest.fixture
def city(database: Settings) -> Iterator[Database]:
    """A database with four meters in service for long, one reading every 15 minutes each."""
    with MongoClient(database.mongo, tz_aware=True) as client:
        own = client[database.mongo_database]
        ensure_collections(own)
        register_meters(own, [meter(f"e-{number}") for number in range(4)])
        yield own


def meter(device: str, installed_at: datetime = NOW - timedelta(days=400), **changes: Any) -> Meter:
    return Meter(
        device_id=device,
        meter_type=MeterType.ELECTRICITY,
        interval_seconds=900,
        installed_at=installed_at,
        **changes,
    )


def spoke(city: Database, device: str, at: datetime) -> None:
    city[LATEST_READINGS].replace_one({"_id": device}, {"_id": device, "timestamp": at}, upsert=True)


def told(city: Database) -> list[str]:
    return [alert["_id"] for alert in city[ALERTS].find().sort("_id", 1)]


def test_a_meter_is_silent_after_its_intervals_and_told_when_it_speaks_again(city: Database, database: Settings):
    spoke(city, "e-0", NOW - minutes(180))
    assert check_silence(city, database, NOW) == {}  # exactly twelve intervals are not more than twelve
    assert check_silence(city, database, NOW + minutes(1)) == {"meter_silent": 1}
    assert check_silence(city, database, NOW + minutes(30)) == {}
    spoke(city, "e-0", NOW + minutes(40))
    assert check_silence(city, database, NOW + minutes(41)) == {"meter_speaks": 1}
    assert check_silence(city, database, NOW + minutes(42)) == {}
    assert told(city) == ["meter_silent|e-0|2024-05-27T09:00:00Z", "meter_speaks|e-0|2024-05-27T09:00:00Z"]
    assert check_silence(city, database, NOW + minutes(240)) == {"meter_silent": 1}


def test_a_late_reading_of_a_silent_meter_is_the_same_silence(city: Database, database: Settings):
    spoke(city, "e-0", NOW - minutes(300))
    assert check_silence(city, database, NOW) == {"meter_silent": 1}
    spoke(city, "e-0", NOW - minutes(250))
    assert check_silence(city, database, NOW + minutes(1)) == {}
    spoke(city, "e-0", NOW + minutes(1))
    assert check_silence(city, database, NOW + minutes(2)) == {"meter_speaks": 1}


def test_a_meter_that_never_spoke_is_silent_from_its_installation_on(city: Database, database: Settings):
    spoke(city, "e-0", NOW)
    register_meters(city, [meter("e-new", installed_at=NOW - minutes(181)), meter("e-newer", installed_at=NOW)])
    assert check_silence(city, database, NOW) == {"meter_silent": 1}
    assert told(city) == ["meter_silent|e-new|2024-05-27T08:59:00Z"]


@pytest.mark.parametrize(
    "changes", [{"removed_at": NOW - minutes(1)}, {"installed_at": NOW + minutes(1)}], ids=["removed", "not yet"]
)
def test_a_meter_out_of_service_is_not_silent(city: Database, database: Settings, changes: dict):
    register_meters(city, [meter("e-gone", **changes)])
    spoke(city, "e-gone", NOW - minutes(200))
    assert check_silence(city, database, NOW) == {}


def test_a_silence_ends_without_a_word_when_the_meter_is_taken_away(city: Database, database: Settings):
    spoke(city, "e-0", NOW - minutes(200))
    assert check_silence(city, database, NOW) == {"meter_silent": 1}
    city[METERS].update_one({"_id": "e-0"}, {"$set": {"removed_at": NOW}})
    assert check_silence(city, database, NOW + minutes(1)) == {}
    assert city[ALERTS].count_documents({"ended_at": None}) == 0


def test_silences_of_long_ago_are_history(city: Database, database: Settings):
    spoke(city, "e-0", NOW - timedelta(days=30))
    assert check_silence(city, database, NOW) == {}


def test_nothing_is_silent_where_nobody_writes_who_spoke(city: Database, database: Settings):
    register_meters(city, [meter("e-new", installed_at=NOW - minutes(200))])
    assert check_silence(city, database, NOW) == {}


def abnormal(city: Database, *devices: str, day: date = DAY) -> None:
    """Publish a day's summary; of each document only what the alert reads and what names it."""
    city[ABNORMAL_DEVICE_SUMMARY].delete_many({"calculation_date": str(day)})
    documents = [{"_id": f"{day}|{device}", "calculation_date": str(day), "device_id": device} for device in devices]
    city[ABNORMAL_DEVICE_SUMMARY].insert_many(documents)


@pytest.mark.parametrize(
    ("share", "most", "passes"),
    [(0.25, None, True), (0.5, None, False), (1.0, 1, True), (1.0, 2, False), (1.0, None, False)],
)
def test_a_day_passes_by_share_or_by_number(city: Database, database: Settings, share, most, passes):
    settings = database.model_copy(update={"alert_abnormal_share": share, "alert_abnormal_meters": most})
    abnormal(city, "e-0", "e-1")
    assert check_days(city, settings, [DAY], NOW) == ({"abnormal_day": 1} if passes else {})


def test_a_day_is_told_once_for_each_figure(city: Database, database: Settings):
    abnormal(city, "e-0")
    assert check_days(city, database, [DAY, DAY], NOW) == {"abnormal_day": 1}
    assert check_days(city, database, [DAY], NOW) == {}
    abnormal(city, "e-0", "e-unknown")
    assert check_days(city, database, [DAY], NOW) == {"abnormal_day": 1}
    newest = city[ALERTS].find_one({"_id": "abnormal_day|2024-05-26|2"})
    assert newest
    assert newest["text"] == "2 of 5 meters (40.0%) were abnormal on 2024-05-26"


def test_a_days_meters_are_those_in_service_on_the_local_day(city: Database, database: Settings):
    settings = database.model_copy(update={"timezone": "Europe/Madrid"})
    midnight = datetime(2024, 5, 26, 22, tzinfo=UTC)  # of the 27th in Madrid
    before, after = meter("e-old", removed_at=midnight - timedelta(days=1)), meter("e-next", installed_at=midnight)
    register_meters(city, [before, after, meter("e-last", installed_at=midnight - minutes(1))])
    abnormal(city, "e-0", "e-1")
    check_days(city, settings, [DAY], NOW)
    stored = city[ALERTS].find_one()
    assert stored
    assert stored["details"]["meters"] == 5


def note(about: str, text: str = "something") -> Alert:
    return Alert(Kind.METER_SILENT, about, "e-1", "warning", text)


def test_an_alert_is_kept_once_and_without_control_characters(city: Database, database: Settings):
    assert raise_alerts(city, database, [note("a", "red\x1b[31m\nnew line")], NOW) == {"meter_silent": 1}
    assert raise_alerts(city, database, [note("a", "another"), note("b")], NOW) == {"meter_silent": 1}
    texts = {alert["_id"]: alert["text"] for alert in city[ALERTS].find()}
    assert texts == {"meter_silent|a": "red [31m new line", "meter_silent|b": "something"}


def test_the_first_to_acknowledge_stays_noted_and_an_unknown_id_changes_nothing(city: Database, database: Settings):
    raise_alerts(city, database, [note("a"), note("b")], NOW)
    first, second = list_alerts(city)
    with pytest.raises(MetersError, match="no alert nonsense"):
        acknowledge(city, [first["_id"], "nonsense"], by="Eva", now=NOW)
    assert len(list_alerts(city)) == 2
    assert acknowledge(city, [first["short_id"]], by="Eva", now=NOW) == 1
    assert acknowledge(city, [first["_id"], second["_id"]], by="Max", now=NOW + minutes(1)) == 1
    assert list_alerts(city) == []
    assert [alert["acknowledged_by"] for alert in list_alerts(city, acknowledged=True)] == ["Eva", "Max"]


def test_alerts_from_the_command_line(city: Database, database: Settings):
    raise_alerts(city, database, [note("a", "with [bold]brackets[/bold]"), note("b")], NOW)
    listed = meters(database, "alerts", "list", COLUMNS="200")
    assert listed.returncode == 0, listed.stderr
    assert "with [bold]brackets[/bold]" in listed.stdout
    alerts = json.loads(meters(database, "alerts", "list", "--json").stdout)
    assert [alert["id"] for alert in alerts] == ["meter_silent|a", "meter_silent|b"]
    assert alerts[0]["channels"]["log"]["state"] == "pending"

    acknowledged = meters(database, "alerts", "ack", alerts[0]["short_id"], "--by", "Eva")
    assert (acknowledged.returncode, acknowledged.stderr.strip()) == (0, "1 newly acknowledged")
    left = json.loads(meters(database, "alerts", "list", "--json").stdout)
    assert [alert["id"] for alert in left] == ["meter_silent|b"]
    everything = json.loads(meters(database, "alerts", "list", "--all", "--json").stdout)
    assert [alert["acknowledged_by"] for alert in everything] == ["Eva", None]

    unknown = meters(database, "alerts", "ack", "nonsense")
    assert (unknown.returncode, len(unknown.stderr.strip().splitlines())) == (1, 1)
    away = meters(database, "alerts", "list", METERS_MONGO_URI="mongodb://127.0.0.1:1/?replicaSet=meters")
    assert (away.returncode, len(away.stderr.strip().splitlines())) == (1, 1)


def test_messages_that_kafka_no_longer_had_are_one_alert_if_found_together(city: Database, settings: Settings):
    losses = [Loss("ingest", "iot-meter", "id", partition, 10, 40, LossReason.RETENTION) for partition in range(3)]
    record_losses(city, losses)
    record_losses(city, losses)  # found again: the same documents
    now = datetime.now(UTC)

    assert check_lost_messages(city, settings, now) == {"messages_lost": 1}
    assert check_lost_messages(city, settings, now) == {}

    (alert,) = list_alerts(city)
    assert (alert["subject"], alert["severity"]) == ("iot-meter", "critical")
    assert alert["text"].startswith(
        "90 messages of iot-meter were never read by ingest: Kafka's retention removed them"
    )
    later = now + timedelta(hours=settings.alert_max_age_hours + 1)
    assert check_lost_messages(city, settings, later) == {}
