"""Windows and latest readings in MongoDB: each batch adds its part, and a batch that is repeated adds nothing.

One router at a time writes here. So it reads what is stored, adds up, and replaces by key, which costs MongoDB far less
than updates with conditions, and answers with no list of what exists: of a large batch, MongoDB cannot send that.

Every window remembers the query and the batch that changed it last. A router that starts over is another query, and
reads everything again: it takes the window from the beginning.

A window is of one meter and one meter type, because a device may send both: `<minutes>m|<start>|<device_id>|<type>`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ReplaceOne
from pymongo.collection import Collection

KEYS_A_QUESTION = 50_000
"""Keys that MongoDB is asked for at once; some 3 MB of the 16 that a command may have."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What changes the windows: a batch of a query, and until when they are then kept."""

    query: str
    batch: int
    expires_at: datetime


def add_parts(windows: Collection, parts: Iterable[Document], change: Change) -> None:
    """Add a batch's parts to their windows.

    Args:
        windows: the collection.
        parts: device_id, meter_type, minutes, window_start (seconds since 1970), count, faulty, late, total, min, max.
        change: the batch.
    """
    # Neighbours in the index, one after the other.
    batch = sorted((_window(part, change) for part in parts), key=lambda window: window["_id"])
    stored = {window["_id"]: window for window in _find(windows, [window["_id"] for window in batch])}
    # Most windows of a meter that reports every quarter of an hour are new, and inserts cost a fraction.
    if new := [window for window in batch if window["_id"] not in stored]:
        windows.insert_many(new, ordered=False)
    known = (window for window in batch if window["_id"] in stored)
    _replace(windows, (sums for window in known if (sums := _added(stored[window["_id"]], window))))


def _added(stored: Document, part: Document) -> Document | None:
    """A window with what a batch adds to it; None when it has been added before."""
    if stored["query"] != part["query"]:
        return part
    if stored["batch"] >= part["batch"]:
        return None
    sums = {name: stored[name] + part[name] for name in ("count", "faulty", "late", "sum")}
    bounds = {name: _bound(bound, stored[name], part[name]) for name, bound in (("min", min), ("max", max))}
    return {**part, **sums, **bounds, "mean": _mean(sums["sum"], sums["count"])}


def keep_latest(latest: Collection, readings: Sequence[Document]) -> None:
    """Have the collection hold the newest reading of each meter; an older one never replaces it.

    Args:
        latest: the collection.
        readings: device_id, timestamp and the reading's other fields; one a meter.
    """
    found = _find(latest, [reading["device_id"] for reading in readings], "timestamp")
    newest = {reading["_id"]: reading["timestamp"] for reading in found}
    _replace(
        latest,
        (
            {"_id": reading["device_id"]}
            | {name: value for name, value in reading.items() if name != "device_id" and value is not None}
            for reading in readings
            if reading["device_id"] not in newest or newest[reading["device_id"]] < reading["timestamp"]
        ),
    )


def _window(part: Document, change: Change) -> Document:
    start = datetime.fromtimestamp(part["window_start"], UTC)
    begins = start.isoformat(timespec="seconds").replace("+00:00", "Z")
    return {
        "_id": f"{part['minutes']}m|{begins}|{part['device_id']}|{part['meter_type']}",
        "device_id": part["device_id"],
        "meter_type": part["meter_type"],
        "minutes": part["minutes"],
        "window_start": start,
        "window_end": start + timedelta(minutes=part["minutes"]),
        "count": part["count"],
        "faulty": part["faulty"],
        "late": part["late"],
        "sum": part["total"],
        "min": part["min"],
        "max": part["max"],
        "mean": _mean(part["total"], part["count"]),
        "query": change.query,
        "batch": change.batch,
        "expires_at": change.expires_at,
    }


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _bound(bound: Any, *values: float | None) -> float | None:
    return bound((value for value in values if value is not None), default=None)


def _find(collection: Collection, keys: Sequence[str], *fields: str) -> Iterator[Document]:
    for begin in range(0, len(keys), KEYS_A_QUESTION):
        yield from collection.find({"_id": {"$in": list(keys[begin : begin + KEYS_A_QUESTION])}}, fields or None)


def _replace(collection: Collection, documents: Iterable[Document]) -> None:
    operations = [ReplaceOne({"_id": document["_id"]}, document, upsert=True) for document in documents]
    if operations:
        collection.bulk_write(operations, ordered=False)
