"""Fault episodes: consecutive faults of one meter as one thing with a beginning, a count and an end.

An episode is a function of the documents in `iot-abnormal`: whenever a meter has new ones, its episodes are computed
anew from the first that they may change. A fault that comes late, twice or after a crash therefore ends in the same
episodes. Two faults belong together if no more than METERS_EPISODE_QUIET_SECONDS of event time lie between them.
"""

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import DeleteOne, ReplaceOne
from pymongo.database import Database

from alerting.alerts import Alert, Document, Kind, is_recent, raise_alerts
from metering.fault_event import Severity
from metering.reading import iso_utc
from metering.settings import Settings
from metering.store import FAULT_EPISODES, FAULTS

OVERLAP_SECONDS = 120
"""Several ingest processes write, each stamping with its own clock before it writes, and one may wait a minute for
MongoDB: what was stored less than this ago is read again, for a document with an earlier stamp may still come."""

SLICE_DOCUMENTS = 20_000
"""New faults looked at before the time is asked again."""

METERS_AT_ONCE = 200

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class EpisodesUpdate:
    """What reading the new faults did.

    Args:
        cursor: `stored_at` until which nothing can be new any more.
        caught_up: were all faults read, or did the time run out?
        raised: new alerts by kind.
    """

    cursor: datetime | None
    caught_up: bool = True
    raised: Counter[str] = field(default_factory=Counter)


def update_episodes(
    database: Database, settings: Settings, cursor: datetime | None, now: datetime, *, budget_seconds: float = 15
) -> EpisodesUpdate:
    """Bring episodes up to date with the faults stored after `cursor`, and raise alerts for those that opened or ended.

    Args:
        database: with `iot-abnormal`.
        settings: quiet time, age of news, channels.
        cursor: that of the last call; None reads everything.
        now: UTC, whole milliseconds.
        budget_seconds: stops after the slice in which this has passed; the next call goes on there.
    """
    progress = EpisodesUpdate(cursor)
    started = time.monotonic()
    reached = cursor
    while True:
        until = _end_of_slice(database, reached)
        devices, newest = _meters_with_new_faults(database, reached, until)
        for part in _chunks(devices.items(), METERS_AT_ONCE):
            touched = _recompute(database, settings, dict(part), now)
            progress.raised += raise_alerts(database, settings, _alerts(touched, settings, now), now)
        if newest is not None:
            reached = newest
            settled = min(newest, now - timedelta(seconds=OVERLAP_SECONDS))
            progress.cursor = max(cursor, settled) if cursor else settled
        if until is None:
            return progress
        if time.monotonic() - started > budget_seconds:
            progress.caught_up = False
            return progress


def clear_quiet_episodes(database: Database, settings: Settings, now: datetime) -> Counter[str]:
    """End the open episodes whose meter has been quiet long enough; returns the new alerts by kind.

    Only to be called when all faults have been read: one that waits unread would keep its episode open.
    """
    quiet = timedelta(seconds=settings.episode_quiet_seconds)
    over = {"state": "open", "last_seen_at": {"$lt": now - quiet}}
    raised: Counter[str] = Counter()
    for part in _chunks(database[FAULT_EPISODES].find(over), METERS_AT_ONCE):
        ended = [{**episode, **_ending(episode["last_seen_at"], quiet, now)} for episode in part]
        # The alerts first: after a crash in between, the episodes are still open and this is done again.
        raised += raise_alerts(database, settings, _alerts(ended, settings, now), now)
        database[FAULT_EPISODES].bulk_write(
            [ReplaceOne({"_id": each["_id"], "last_seen_at": each["last_seen_at"]}, each) for each in ended],
            ordered=False,
        )
    return raised


def _end_of_slice(database: Database, reached: datetime | None) -> datetime | None:
    """`stored_at` at which to stop reading for now; None if the rest is no more than a slice."""
    new = {"stored_at": {"$gt": reached or BEGINNING}}
    last = database[FAULTS].find(new, {"_id": 0, "stored_at": 1}).sort("stored_at", 1).skip(SLICE_DOCUMENTS).limit(1)
    return next((document["stored_at"] for document in last), None)


def _meters_with_new_faults(
    database: Database, reached: datetime | None, until: datetime | None
) -> tuple[dict[str, datetime], datetime | None]:
    """Event time of each meter's earliest fault stored in (reached, until], and the newest stored_at."""
    bounds = {"$gt": reached or BEGINNING}
    if until:
        bounds["$lte"] = until
    groups = database[FAULTS].aggregate(
        [
            {"$match": {"stored_at": bounds}},
            {"$group": {"_id": "$device_id", "first": {"$min": "$timestamp"}, "newest": {"$max": "$stored_at"}}},
        ]
    )
    found = list(groups)
    return {group["_id"]: group["first"] for group in found}, max((group["newest"] for group in found), default=None)


def _recompute(database: Database, settings: Settings, devices: dict[str, datetime], now: datetime) -> list[Document]:
    """Compute the episodes of those meters anew from each one's instant on; returns what is new or changed."""
    quiet = timedelta(seconds=settings.episode_quiet_seconds)
    stored: dict[str, list[Document]] = defaultdict(list)
    near = [{"device_id": device, "last_seen_at": {"$gte": first - quiet}} for device, first in devices.items()]
    for episode in database[FAULT_EPISODES].find({"$or": near}).sort("opened_at", 1):
        stored[episode["device_id"]].append(episode)
    starts = {
        device: min([first, *(episode["opened_at"] for episode in stored[device][:1])])
        for device, first in devices.items()
    }
    computed = _fold(database, starts, quiet)

    operations: list[ReplaceOne | DeleteOne] = []
    touched: list[Document] = []
    for device, runs in computed.items():
        before = {episode["_id"]: episode for episode in stored[device]}
        for run in runs:
            document = _document(run, stored[device], quiet, now)
            touched.append(document)
            if before.pop(document["_id"], None) != document:
                operations.append(ReplaceOne({"_id": document["_id"]}, document, upsert=True))
        operations.extend(DeleteOne({"_id": key}) for key in before)  # merged into another, or opened earlier
    if operations:
        # In order: the new episodes stand before the ones that they replace go, and carry on their announcement.
        database[FAULT_EPISODES].bulk_write(operations, ordered=True)
    return touched


@dataclass
class _Run:
    """Faults of one meter without a longer gap than the quiet time."""

    device_id: str
    opened_at: datetime
    last_seen_at: datetime
    last_id: str = ""
    count: int = 0
    critical: bool = False
    rules: set[str] = field(default_factory=set)
    latest: Document = field(default_factory=dict)

    def add(self, fault: Document) -> None:
        self.last_seen_at = fault["timestamp"]
        self.last_id = fault["_id"]
        self.count += 1
        self.critical = self.critical or fault["severity"] == Severity.CRITICAL
        self.rules.update(rule["id"] for rule in fault["rules"])


def _fold(database: Database, starts: dict[str, datetime], quiet: timedelta) -> dict[str, list[_Run]]:
    """The runs of each meter's faults from its start on, in the order of time."""
    # Folded here: the same as an aggregation with window functions takes the server more than twice as long.
    wanted = [{"device_id": device, "timestamp": {"$gte": start}} for device, start in starts.items()]
    fields = {"device_id": 1, "timestamp": 1, "severity": 1, "rules.id": 1}
    runs: dict[str, list[_Run]] = defaultdict(list)
    in_time = [("device_id", 1), ("timestamp", 1)]
    for fault in database[FAULTS].find({"$or": wanted}, fields, batch_size=10_000).sort(in_time):
        own = runs[fault["device_id"]]
        if not own or fault["timestamp"] - own[-1].last_seen_at > quiet:
            own.append(_Run(fault["device_id"], fault["timestamp"], fault["timestamp"]))
        own[-1].add(fault)
    last = {run.last_id: run for run in itertools.chain.from_iterable(runs.values())}
    for fault in database[FAULTS].find({"_id": {"$in": list(last)}}, {"meter_type": 1, "rules.explanation": 1}):
        last[fault["_id"]].latest = fault
    return runs


def _document(run: _Run, stored: list[Document], quiet: timedelta, now: datetime) -> Document:
    key = f"{run.device_id}|{iso_utc(run.opened_at)}"
    # A late fault may merge episodes or move one's opening: people were told of it under its old name, the latest of
    # them if there were several, and are neither told again that it opened nor left without word that it ended.
    known_as = [known["announced_as"] for known in stored if run.opened_at <= known["opened_at"] <= run.last_seen_at]
    return {
        "_id": key,
        "device_id": run.device_id,
        "meter_type": run.latest["meter_type"],
        "opened_at": run.opened_at,
        "last_seen_at": run.last_seen_at,
        "count": run.count,
        "severity": str(Severity.CRITICAL if run.critical else Severity.WARNING),
        "rules": sorted(run.rules),
        "explanation": "; ".join(rule["explanation"] for rule in run.latest["rules"]),
        "announced_as": known_as[-1] if known_as else key,
        **_ending(run.last_seen_at, quiet, now),
    }


def _ending(last_seen_at: datetime, quiet: timedelta, now: datetime) -> Document:
    if now - last_seen_at > quiet:
        return {"state": "cleared", "cleared_at": last_seen_at + quiet}
    return {"state": "open", "cleared_at": None}


def _alerts(episodes: list[Document], settings: Settings, now: datetime) -> Iterator[Alert]:
    for episode in episodes:
        if not is_recent(episode["cleared_at"] or episode["last_seen_at"], settings, now):
            continue
        meter = f"{episode['meter_type']} meter {episode['device_id']}"
        details = {name: value for name, value in episode.items() if name not in ("_id", "announced_as", "state")}
        details = {"episode": episode["_id"], **details}
        opened, last_seen = iso_utc(episode["opened_at"]), iso_utc(episode["last_seen_at"])
        about, device = episode["announced_as"], episode["device_id"]
        text = f"{meter} reports faults since {opened}: {episode['explanation']}"
        yield Alert(Kind.EPISODE_OPENED, about, device, episode["severity"], text, details)
        if episode["cleared_at"]:
            text = f"{meter} has had no fault since {last_seen}; it had {episode['count']:,} from {opened} on"
            yield Alert(Kind.EPISODE_CLEARED, about, device, "info", text, details)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
