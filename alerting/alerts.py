"""The alert: one thing worth telling a person, once. How it is stored, listed and acknowledged; not how it is sent.

An alert's `_id` says what it is about, so that finding the same thing again, after a crash or in a second process,
makes no second alert.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from pymongo import UpdateOne
from pymongo.database import Database

from metering.errors import MetersError
from metering.settings import Settings
from metering.store import ALERTS

Document = dict[str, Any]


class Kind(StrEnum):
    """What an alert tells."""

    EPISODE_OPENED = "episode_opened"
    EPISODE_CLEARED = "episode_cleared"
    ABNORMAL_DAY = "abnormal_day"
    METER_SILENT = "meter_silent"
    METER_SPEAKS = "meter_speaks"
    LATE_READINGS = "late_readings"
    RUN_FAILED = "run_failed"
    MESSAGES_LOST = "messages_lost"
    SERVICE_FAILED = "service_failed"
    SERVICE_RECOVERED = "service_recovered"


@dataclass(frozen=True)
class Alert:
    """Something to tell.

    Args:
        kind: what happened.
        about: what it happened to, and when: the rest of the alert's identity.
        subject: the meter or the day.
        severity: critical, warning or info.
        text: one plain sentence; control characters in it become spaces.
        details: the numbers behind it; instants as datetime.
    """

    kind: Kind
    about: str
    subject: str
    severity: str
    text: str
    details: Document = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`<kind>|<about>`."""
        return f"{self.kind}|{self.about}"


def plain(text: str) -> str:
    """Text that cannot steer a terminal, a log or a mail: one line, printable characters only."""
    return "".join(character if character.isprintable() else " " for character in text)


def is_recent(instant: datetime, settings: Settings, now: datetime) -> bool:
    """Is it news? What is longer past is history, which a replay brings by the thousand."""
    return now - instant <= timedelta(hours=settings.alert_max_age_hours)


def raise_alerts(database: Database, settings: Settings, alerts: Iterable[Alert], now: datetime) -> Counter[str]:
    """Keep those alerts that are not kept yet, to be sent on the channels chosen; returns how many are new, by kind."""
    found = list(alerts)
    # Most are old news, found again at every look: asking for them first takes a fraction of so many upserts.
    kept = {
        alert["_id"] for alert in database[ALERTS].find({"_id": {"$in": [alert.id for alert in found]}}, {"_id": 1})
    }
    found = [alert for alert in found if alert.id not in kept]
    if not found:
        return Counter()
    operations = [
        UpdateOne({"_id": alert.id}, {"$setOnInsert": alert_document(alert, settings, now)}, upsert=True)
        for alert in found
    ]
    new = database[ALERTS].bulk_write(operations, ordered=False).upserted_ids or {}
    return Counter(str(found[index].kind) for index in new)


def alert_document(alert: Alert, settings: Settings, now: datetime) -> Document:
    """The alert as `iot.alerts` keeps it, without its `_id`; not sent yet."""
    unsent = {"state": "pending", "delivery": None, "attempts": 0, "next_try_at": None, "last_error": None}
    return {
        "short_id": hashlib.sha256(alert.id.encode()).hexdigest()[:10],
        "kind": str(alert.kind),
        "subject": alert.subject,
        "severity": alert.severity,
        "text": plain(alert.text),
        "details": alert.details,
        "created_at": now,
        "channels": {channel: dict(unsent) for channel in settings.channels},
        "ended_at": None,
        "acknowledged_at": None,
        "acknowledged_by": None,
    }


def list_alerts(database: Database, *, acknowledged: bool = False) -> list[Document]:
    """Stored alerts, newest first; those that are acknowledged only if asked for."""
    wanted = {} if acknowledged else {"acknowledged_at": None}
    return list(database[ALERTS].find(wanted).sort([("created_at", -1), ("_id", 1)]))


def acknowledge(database: Database, ids: Iterable[str], *, by: str, now: datetime | None = None) -> int:
    """Note who has taken notice of alerts; returns how many are newly acknowledged. The first to do so stays noted.

    Args:
        database: with the alerts.
        ids: `_id` or `short_id` of each.
        by: name of the person.
        now: time of acknowledgement; default: the clock's.

    Raises:
        MetersError: there is no such alert; nothing is changed then.
    """
    wanted = set(ids)
    match = {"$or": [{"_id": {"$in": list(wanted)}}, {"short_id": {"$in": list(wanted)}}]}
    found = list(database[ALERTS].find(match, {"short_id": 1}))
    unknown = wanted - {alert["_id"] for alert in found} - {alert["short_id"] for alert in found}
    if unknown:
        raise MetersError(
            f"There is no alert {', '.join(sorted(map(plain, unknown)))}", fix="See their ids: meters alerts list --all"
        )
    result = database[ALERTS].update_many(
        {"_id": {"$in": [alert["_id"] for alert in found]}, "acknowledged_at": None},
        {"$set": {"acknowledged_at": now or datetime.now(UTC), "acknowledged_by": plain(by)}},
    )
    return result.modified_count
