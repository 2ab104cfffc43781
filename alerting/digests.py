"""Delivery: on each channel all alerts that are due go out as one digest, once.

A digest is put together once, under an id that its alerts keep: whatever is tried again is the same digest, so that a
receiver can tell a repetition from news. Who sends holds the channel's lease; what is waiting, since when and why is on
the alerts, and so outlives any process.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from alerting.alerts import Document
from alerting.channels import Channel, ChannelError
from metering.store import ALERT_CHANNELS, ALERTS

LEASE_SECONDS = 120
"""Longer than any channel's time limits, so that a lease ends only with the process that held it."""

FIRST_RETRY_SECONDS = 10
LONGEST_RETRY_SECONDS = 600

MAX_ATTEMPTS = 150
"""About a day; a receiver that is away for longer gets new alerts, and these are marked as failed."""

MAX_DIGEST = 10_000
"""Alerts in one delivery; some 5 MB of JSON."""


@dataclass(frozen=True)
class DigestOutcome:
    """What became of one channel's due alerts.

    Args:
        channel: its name.
        sent: alerts that the channel took.
        waiting: alerts that are to be tried again.
        failed: alerts given up.
        next_try_at: when those waiting are tried again.
        error: why the channel did not take them.
    """

    channel: str
    sent: int = 0
    waiting: int = 0
    failed: int = 0
    next_try_at: datetime | None = None
    error: str | None = None


def deliver(database: Database, channel: Channel, now: datetime) -> DigestOutcome:
    """Send the alerts that are due on a channel as one digest, unless another process is doing so."""
    holder = uuid.uuid4().hex
    if not _lease(database, channel.name, holder, now):
        return DigestOutcome(channel.name)
    try:
        return _deliver(database, channel, now)
    finally:
        database[ALERT_CHANNELS].update_one({"_id": channel.name, "holder": holder}, {"$set": {"leased_until": now}})


def _lease(database: Database, channel: str, holder: str, now: datetime) -> bool:
    until = now + timedelta(seconds=LEASE_SECONDS)
    try:
        database[ALERT_CHANNELS].find_one_and_update(
            {"_id": channel, "leased_until": {"$lte": now}},
            {"$set": {"leased_until": until, "holder": holder}},
            upsert=True,
        )
    except DuplicateKeyError:  # the document is there, and its lease runs
        return False
    return True


def _deliver(database: Database, channel: Channel, now: datetime) -> DigestOutcome:
    digest = _unfinished(database, channel.name) or _put_together(database, channel.name)
    if not digest:
        return DigestOutcome(channel.name)
    state = digest[0]["channels"][channel.name]
    if state["next_try_at"] and state["next_try_at"] > now:
        return DigestOutcome(
            channel.name, waiting=len(digest), next_try_at=state["next_try_at"], error=state["last_error"]
        )
    attempts = state["attempts"] + 1
    try:
        channel.send(state["delivery"], digest)
    except ChannelError as error:
        return _put_off(database, channel.name, digest, attempts, str(error), now)
    changes = {"state": "sent", "attempts": attempts, "next_try_at": None, "last_error": None, "sent_at": now}
    _note(database, channel.name, digest, changes)
    return DigestOutcome(channel.name, sent=len(digest))


def _unfinished(database: Database, channel: str) -> list[Document]:
    """The digest that was put together before and has not gone out, if there is one."""
    pending = {f"channels.{channel}.state": "pending"}
    known = database[ALERTS].find_one({**pending, f"channels.{channel}.delivery": {"$ne": None}})
    if known is None:
        return []
    return _digest(database, channel, known["channels"][channel]["delivery"])


def _put_together(database: Database, channel: str) -> list[Document]:
    """A new digest of the pending alerts, the oldest first."""
    pending = {f"channels.{channel}.state": "pending"}
    due = database[ALERTS].find(pending, {"_id": 1}).sort("created_at", 1).limit(MAX_DIGEST)
    ids = [alert["_id"] for alert in due]
    if not ids:
        return []
    delivery = uuid.uuid4().hex
    database[ALERTS].update_many({"_id": {"$in": ids}}, {"$set": {f"channels.{channel}.delivery": delivery}})
    return _digest(database, channel, delivery)


def _digest(database: Database, channel: str, delivery: str) -> list[Document]:
    match = {f"channels.{channel}.state": "pending", f"channels.{channel}.delivery": delivery}
    return list(database[ALERTS].find(match).sort([("created_at", 1), ("_id", 1)]))


def _put_off(
    database: Database, channel: str, digest: list[Document], attempts: int, error: str, now: datetime
) -> DigestOutcome:
    if attempts >= MAX_ATTEMPTS:
        changes = {"state": "failed", "attempts": attempts, "next_try_at": None, "last_error": error}
        _note(database, channel, digest, changes)
        return DigestOutcome(channel, failed=len(digest), error=error)
    wait = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 10))
    next_try_at = now + timedelta(seconds=wait)
    _note(database, channel, digest, {"attempts": attempts, "next_try_at": next_try_at, "last_error": error})
    return DigestOutcome(channel, waiting=len(digest), next_try_at=next_try_at, error=error)


def _note(database: Database, channel: str, digest: list[Document], changes: Document) -> None:
    fields = {f"channels.{channel}.{name}": value for name, value in changes.items()}
    database[ALERTS].update_many({"_id": {"$in": [alert["_id"] for alert in digest]}}, {"$set": fields})
