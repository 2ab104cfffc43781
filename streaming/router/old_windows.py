"""Windows whose ids are from before they carried the meter type: renamed once, when a router starts.

An old id is `10m|<start>|<device_id>`, a new one `10m|<start>|<device_id>|<meter_type>`. MongoDB cannot change ids,
so each document is written under its new id, then the old one is deleted. A rename that was interrupted goes on where
it was; one that is complete is noted in `iot.installation`, so that later starts read one document only.
"""

from collections.abc import Iterator
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database

from metering.store import INSTALLATION, WINDOW_AGGREGATES

DONE = {"_id": "window_ids", "form": "minutes|start|device|type"}

WINDOWS_A_BATCH = 5_000
"""Windows that are read, written and deleted at once: a few MB."""

SEPARATORS_OF_OLD_IDS = 2
"""A device id holds no separator (metering/reading.py)."""


def rename_old_windows(database: Database) -> int:
    """Give every window of the old form its new id; safe to repeat. No other router may write meanwhile.

    Returns:
        how many were renamed.
    """
    if database[INSTALLATION].find_one({"_id": DONE["_id"]}) == DONE:
        return 0
    windows = database[WINDOW_AGGREGATES]
    renamed = 0
    for batch in _batches(windows):
        old = [window for window in batch if window["_id"].count("|") == SEPARATORS_OF_OLD_IDS]
        if old:
            new = [
                UpdateOne({"_id": _new_id(window)}, {"$setOnInsert": _without_id(window)}, upsert=True)
                for window in old
            ]
            windows.bulk_write(new, ordered=False)
            # All between two neighbours of the batch that are old: a range, which reads the index once.
            ids = [window["_id"] for window in old]
            windows.delete_many({"_id": {"$gte": ids[0], "$lte": ids[-1], "$in": ids}})
            renamed += len(old)
    database[INSTALLATION].replace_one({"_id": DONE["_id"]}, DONE, upsert=True)
    return renamed


def _batches(windows: Collection) -> Iterator[list[dict[str, Any]]]:
    """All windows by id, a batch at a time; each batch is a range of the index on `_id`."""
    after = ""
    while batch := list(windows.find(after_id(after)).sort("_id", 1).limit(WINDOWS_A_BATCH)):
        yield batch
        after = batch[-1]["_id"]


def after_id(last: str) -> dict[str, Any]:
    """Query: the windows behind that id."""
    return {"_id": {"$gt": last}}


def _new_id(window: dict[str, Any]) -> str:
    return f"{window['_id']}|{window['meter_type']}"


def _without_id(window: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in window.items() if name != "_id"}
