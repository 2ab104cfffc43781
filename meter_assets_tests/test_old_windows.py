"""Windows whose ids are from before they carried the meter type."""

from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

from metering.store import WINDOW_AGGREGATES
from streaming.router.old_windows import WINDOWS_A_BATCH, after_id, rename_old_windows

NOON = datetime(2024, 5, 18, 12, tzinfo=UTC)


def old_window(device: str, minutes: int = 10) -> dict[str, Any]:
    return {
        "_id": f"{minutes}m|2024-05-18T12:00:00Z|{device}",
        "device_id": device,
        "meter_type": "water",
        "count": 3,
        "expires_at": NOON + timedelta(days=40_000),
    }


def test_windows_with_old_ids_are_renamed_once_and_an_interrupted_rename_goes_on(mongo: Database):
    windows = mongo[WINDOW_AGGREGATES]
    count = 2 * WINDOWS_A_BATCH + 10
    windows.insert_many([old_window(f"wm{number}") for number in range(count)])
    # A rename that was interrupted between its two steps, and a window of the new form.
    half = old_window("wm3")
    windows.insert_one({**half, "_id": f"{half['_id']}|water", "count": 4})
    windows.insert_one({**old_window("em1"), "_id": "10m|2024-05-18T12:00:00Z|em1|electricity", "count": 5})
    assert rename_old_windows(mongo) == count
    assert windows.count_documents({}) == count + 1
    assert windows.count_documents({"_id": {"$regex": r"\|water$"}}) == count
    assert windows.find_one({"_id": "10m|2024-05-18T12:00:00Z|wm3|water"}, {"_id": 0, "count": 1}) == {"count": 4}
    assert windows.find_one({"_id": "10m|2024-05-18T12:00:00Z|wm7|water"}, {"_id": 0, "device_id": 1, "count": 1}) == {
        "device_id": "wm7",
        "count": 3,
    }
    windows.insert_one(old_window("wm8"))
    assert rename_old_windows(mongo) == 0  # it is noted as done: no later start reads the windows


def test_a_batch_of_the_rename_reads_a_range_of_the_index(mongo: Database):
    mongo[WINDOW_AGGREGATES].insert_many([old_window(f"wm{number}") for number in range(200)])
    query = mongo[WINDOW_AGGREGATES].find(after_id("10m|2024-05-18T12:00:00Z|wm50")).sort("_id", 1).limit(20)
    stats = query.explain()["executionStats"]
    assert (stats["totalKeysExamined"], stats["totalDocsExamined"]) == (20, 20)
