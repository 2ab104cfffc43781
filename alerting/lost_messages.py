"""Messages that Kafka no longer had when one of our readers came for them: one alert for what was found together."""

from collections import Counter
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from pymongo.database import Database

from alerting.alerts import Alert, Kind, raise_alerts
from metering.lost_messages import LOST_MESSAGES
from metering.reading import iso_utc
from metering.settings import Settings

WHY = {
    "retention": "Kafka's retention removed them before they were read. Raise the topic's retention.ms, and see "
    "why the reader was down",
    "topic_recreated": "their topic was deleted and made again; what came after the reader's last look is not counted",
    "offsets_moved": "somebody moved the reader's offsets forward. Move them back to have the messages read",
    "unreadable": "they cannot be unpacked. Their offsets are in iot.lost_messages",
}


def check_lost_messages(database: Database, settings: Settings, now: datetime) -> Counter[str]:
    """Raise an alert for each new loss; returns the new ones by kind."""
    since = now - timedelta(hours=settings.alert_max_age_hours)
    recent = database[LOST_MESSAGES].find({"found_at": {"$gte": since}})
    found = sorted(recent, key=_together)
    together = groupby(found, key=_together)
    return raise_alerts(database, settings, (_alert(*key, list(each)) for key, each in together), now)


def _together(loss: dict[str, Any]) -> tuple[str, str, str, datetime]:
    return loss["reader"], loss["topic"], loss["reason"], loss["found_at"]


def _alert(reader: str, topic: str, reason: str, found_at: datetime, losses: list[dict[str, Any]]) -> Alert:
    messages = sum(each["messages"] for each in losses)
    least = "At least " if reason == "topic_recreated" else ""
    return Alert(
        kind=Kind.MESSAGES_LOST,
        about=f"{reader}|{topic}|{reason}|{iso_utc(found_at)}",
        subject=topic,
        severity="critical",
        text=f"{least}{messages:,} messages of {topic} were never read by {reader}: {WHY.get(reason, reason)}",
        details={"reader": reader, "reason": reason, "messages": messages, "partitions": len(losses)},
    )
