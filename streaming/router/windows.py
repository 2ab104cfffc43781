"""Windows and latest readings in MongoDB: each batch adds its part, and a batch that is repeated adds nothing.

Every window remembers the query and the batch that changed it last. A router that begins anew is another query, and
reads everything again: it takes the window from the beginning.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ReplaceOne, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

DUPLICATE_KEY = 11000

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
    documents = [_window(part, change) for part in parts]
    if not documents:
        return
    # Most windows of a meter that reports every quarter of an hour are new, and inserts cost a fraction of updates.
    existing = _met_existing(lambda: windows.insert_many(documents, ordered=False))
    if existing:
        operations = [each for index in existing for each in (_add(documents[index]), _begin_anew(documents[index]))]
        windows.bulk_write(operations, ordered=False)


def keep_latest(latest: Collection, readings: Sequence[Document]) -> None:
    """Have the collection hold the newest reading of each meter; an older one never replaces it.

    Args:
        latest: the collection.
        readings: device_id, timestamp and the reading's other fields; one a meter.
    """
    operations = [
        ReplaceOne(
            {"_id": reading["device_id"], "timestamp": {"$lt": reading["timestamp"]}},
            {name: value for name, value in reading.items() if name != "device_id" and value is not None},
            upsert=True,
        )
        for reading in readings
    ]
    if operations:
        _met_existing(lambda: latest.bulk_write(operations, ordered=False))  # existing: there is a newer one


def _window(part: Document, change: Change) -> Document:
    start = datetime.fromtimestamp(part["window_start"], UTC)
    return {
        "_id": f"{part['minutes']}m|{start.isoformat(timespec='seconds').replace('+00:00', 'Z')}|{part['device_id']}",
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
        "mean": part["total"] / part["count"] if part["count"] else None,
        "query": change.query,
        "batch": change.batch,
        "expires_at": change.expires_at,
    }


def _add(window: Document) -> UpdateOne:
    """Add to the window, unless its batch has done so before."""
    sums = {name: {"$add": [f"${name}", window[name]]} for name in ("count", "faulty", "late", "sum")}
    bounds = {name: {f"${name}": [f"${name}", window[name]]} for name in ("min", "max")}
    fields = {**sums, **bounds, "batch": window["batch"], "expires_at": window["expires_at"]}
    mean = {"$cond": [{"$gt": ["$count", 0]}, {"$divide": ["$sum", "$count"]}, None]}
    own_and_older = {"_id": window["_id"], "query": window["query"], "batch": {"$lt": window["batch"]}}
    return UpdateOne(own_and_older, [{"$set": fields}, {"$set": {"mean": mean}}])


def _begin_anew(window: Document) -> ReplaceOne:
    return ReplaceOne({"_id": window["_id"], "query": {"$ne": window["query"]}}, window)


def _met_existing(write: Callable[[], Any]) -> list[int]:
    """Write; the places, in what was written, of documents whose keys exist already.

    Raises:
        pymongo.errors.BulkWriteError: something else is wrong with one.
    """
    try:
        write()
    except BulkWriteError as error:
        failures = error.details["writeErrors"]
        if error.details.get("writeConcernErrors") or any(failure["code"] != DUPLICATE_KEY for failure in failures):
            raise
        return [failure["index"] for failure in failures]
    return []
