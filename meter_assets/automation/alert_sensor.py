"""alert_sensor: finds what is worth telling every few seconds, and sends what is due. The rules are in alerting."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import dagster as dg
from pydantic import AwareDatetime, BaseModel
from pymongo.database import Database
from pymongo.errors import PyMongoError

from alerting.abnormal_days import check_days
from alerting.alerts import Kind
from alerting.channels import chosen_channels
from alerting.digests import DigestOutcome, deliver
from alerting.episodes import clear_quiet_episodes, update_episodes
from alerting.lost_messages import check_lost_messages
from alerting.services import Notified, check_services, notify_without_store
from alerting.silent import check_silence
from alerting.undecided_days import check_late_days
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY
from metering.errors import ServiceAwayError
from metering.reading import iso_utc
from metering.settings import Settings, load_settings
from metering.store import ensure_collections
from runtime.database import connect
from runtime.mongo_errors import mongo_unavailable

SECONDS_BETWEEN_TICKS = 10

SILENCE_CHECK_SECONDS = 60
"""Silence grows by intervals of minutes, and looking for it reads the whole registry."""

DAYS_PER_TICK = 200
"""Materializations looked at in one tick: each counts the registry, and Dagster ends a tick after a minute."""

_SAID = {
    Kind.EPISODE_OPENED: "opened",
    Kind.EPISODE_CLEARED: "cleared",
    Kind.ABNORMAL_DAY: "abnormal days",
    Kind.METER_SILENT: "silent",
    Kind.METER_SPEAKS: "speaking again",
    Kind.LATE_READINGS: "late days",
    Kind.RUN_FAILED: "failed runs",
    Kind.MESSAGES_LOST: "losses",
    Kind.SERVICE_FAILED: "failed services",
    Kind.SERVICE_RECOVERED: "recovered services",
}


class AlertCursor(BaseModel):
    """How far the sensor has looked.

    Args:
        faults: `stored_at` of the faults; see episodes.Progress.
        materialization: storage id of the newest materialization of abnormal_device_summary seen.
        silence_checked_at: when silent meters were last looked for.
        notified: alerts that went out while MongoDB did not answer; see alerting/services.py.
    """

    faults: AwareDatetime | None = None
    materialization: int = 0
    silence_checked_at: AwareDatetime | None = None
    notified: Notified = {}


@dg.sensor(
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells of fault episodes that open or end, of days with too many abnormal meters and of silent meters, "
    "on the channels of METERS_ALERT_CHANNELS. What it has told: `meters alerts list --all`.",
)
def alert_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One look at everything; see docs/alerts.md."""
    cursor = AlertCursor.model_validate_json(context.cursor) if context.cursor else AlertCursor()
    settings = load_settings()
    channels = chosen_channels(settings)
    try:
        database = connect(settings)
    except ServiceAwayError as away:
        cursor.notified, errors = notify_without_store(settings, channels, cursor.notified, _now())
        if not cursor.notified:
            raise
        # A tick that fails keeps no cursor, and would send them again.
        says = [str(away), f"notified of {len(cursor.notified)} failures without it", *errors]
        return dg.SensorResult(skip_reason="; ".join(says), cursor=cursor.model_dump_json())
    try:
        if not context.cursor:  # the first tick of an installation
            ensure_collections(database)
        now = _now()
        raised = _look(context.instance, database, settings, cursor, now)
        deliveries = [deliver(database, channel, now) for channel in channels]
    except PyMongoError as error:
        raise mongo_unavailable(settings, error) from error
    finally:
        database.client.close()
    return dg.SensorResult(skip_reason=summary(raised, deliveries), cursor=cursor.model_dump_json())


def _now() -> datetime:
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)  # as MongoDB keeps it


def _look(
    instance: dg.DagsterInstance, database: Database, settings: Settings, cursor: AlertCursor, now: datetime
) -> Counter[str]:
    """Raise alerts for all that is new, and move the cursor."""
    raised = check_services(database, settings, cursor.notified, now)
    cursor.notified = {}
    progress = update_episodes(database, settings, cursor.faults, now)
    cursor.faults = progress.cursor
    raised += progress.raised
    if progress.caught_up:
        raised += clear_quiet_episodes(database, settings, now)
    days, cursor.materialization = _materialized_days(instance, cursor.materialization)
    raised += check_days(database, settings, days, now)
    raised += check_lost_messages(database, settings, now)
    checked_at = cursor.silence_checked_at
    if checked_at is None or now - checked_at >= timedelta(seconds=SILENCE_CHECK_SECONDS):
        raised += check_silence(database, settings, now)
        raised += check_late_days(database, settings, now)
        cursor.silence_checked_at = now
    return raised


def _materialized_days(instance: dg.DagsterInstance, after: int) -> tuple[list[date], int]:
    """Days of the next materializations of abnormal_device_summary, each once, and where to go on."""
    # Every event, not the newest of each tick: a backfill in a single run makes one for each of its days at once.
    events = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(ABNORMAL_DEVICE_SUMMARY), after_storage_id=after),
        limit=DAYS_PER_TICK,
        ascending=True,
    ).records
    days = sorted({date.fromisoformat(event.partition_key) for event in events if event.partition_key})
    return days, max((event.storage_id for event in events), default=after)


def summary(raised: Counter[str], deliveries: Sequence[DigestOutcome]) -> str:
    """What a tick did, for the UI: "opened 2, cleared 1, sent 3, 1 waiting for webhook until …"."""
    parts = [f"{said} {raised[kind]:,}" for kind, said in _SAID.items() if raised[kind]]
    for each in deliveries:
        if each.sent:
            parts.append(f"sent {each.sent:,} to {each.channel}")
        if each.waiting and each.next_try_at:
            parts.append(f"{each.waiting:,} waiting for {each.channel} until {iso_utc(each.next_try_at)}: {each.error}")
        if each.failed:
            parts.append(f"{each.failed:,} given up for {each.channel}: {each.error}")
    return ", ".join(parts) or "nothing new"
