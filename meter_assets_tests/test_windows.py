"""What the router's batches leave in MongoDB, also when they come twice or from the beginning."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from metering.settings import Settings
from metering.store import LATEST_READINGS, WINDOW_AGGREGATES
from runtime.database import connect
from streaming.router.aggregates import MAX_ROWS_A_BATCH, WINDOW_MINUTES
from streaming.router.windows import Change, add_parts, keep_latest

NOON = datetime(2024, 5, 18, 12, tzinfo=UTC)
FIRST = Change(query="one", batch=0, expires_at=NOON + timedelta(days=7))


def part(device_id: str = "em1", **figures: Any) -> dict[str, Any]:
    """A part of the ten minutes after noon: readings of 1.0 and 3.0 kWh."""
    window = {"device_id": device_id, "meter_type": "electricity", "minutes": 10, "window_start": NOON.timestamp()}
    return {**window, "count": 2, "faulty": 0, "late": 0, "total": 4.0, "min": 1.0, "max": 3.0, **figures}


def test_batches_add_up_and_a_repeated_one_adds_nothing(database: Settings):
    windows = connect(database)[WINDOW_AGGREGATES]
    add_parts(windows, [part(), part("em2")], FIRST)
    second = replace(FIRST, batch=1)
    for _ in range(2):
        add_parts(windows, [part(count=1, faulty=1, late=1, total=5.0, min=5.0, max=5.0), part("em3")], second)
        add_parts(windows, [part(count=9)], FIRST)  # long behind
    found = {window["device_id"]: window for window in windows.find()}
    assert found.keys() == {"em1", "em2", "em3"}
    added = {name: found["em1"][name] for name in ("count", "faulty", "late", "sum", "min", "max", "mean", "batch")}
    assert added == {"count": 3, "faulty": 1, "late": 1, "sum": 9.0, "min": 1.0, "max": 5.0, "mean": 3.0, "batch": 1}
    assert found["em1"]["_id"] == "10m|2024-05-18T12:00:00Z|em1|electricity"
    assert found["em1"]["window_end"] - found["em1"]["window_start"] == timedelta(minutes=10)
    assert found["em2"]["mean"] == 2.0 and found["em2"]["batch"] == 0


def test_a_device_that_sends_both_types_in_one_batch_has_a_window_of_each(database: Settings):
    windows = connect(database)[WINDOW_AGGREGATES]
    water = part(meter_type="water", total=40.0, min=10.0, max=30.0)
    for _ in range(2):
        add_parts(windows, [part(), water], FIRST)
    add_parts(windows, [water], replace(FIRST, batch=1))
    sums = {window["_id"].rsplit("|", 1)[1]: (window["count"], window["sum"]) for window in windows.find()}
    assert sums == {"electricity": (2, 4.0), "water": (4, 80.0)}


def test_a_full_batch_that_is_repeated_adds_nothing(database: Settings):
    windows = connect(database)[WINDOW_AGGREGATES]
    parts = [part(f"em{meter}", minutes=minutes) for meter in range(MAX_ROWS_A_BATCH) for minutes in WINDOW_MINUTES]
    for _ in range(2):
        add_parts(windows, parts, FIRST)
    assert windows.count_documents({}) == windows.count_documents({"count": 2}) == len(parts)


def test_a_router_that_begins_anew_takes_windows_from_the_beginning(database: Settings):
    windows = connect(database)[WINDOW_AGGREGATES]
    add_parts(windows, [part()], replace(FIRST, batch=7))
    add_parts(windows, [part(count=1, total=1.0, max=1.0)], Change("two", 0, FIRST.expires_at))
    (window,) = windows.find()
    assert (window["query"], window["batch"], window["count"], window["sum"], window["max"]) == ("two", 0, 1, 1.0, 1.0)


def test_a_window_of_faulty_readings_alone_has_no_mean(database: Settings):
    windows = connect(database)[WINDOW_AGGREGATES]
    faulty = part(count=0, faulty=1, total=0.0, min=None, max=None)
    add_parts(windows, [], FIRST)
    for batch in range(2):
        add_parts(windows, [faulty], replace(FIRST, batch=batch))
    (window,) = windows.find()
    assert (window["count"], window["faulty"], window["mean"], window["min"]) == (0, 2, None, None)
    add_parts(windows, [part()], replace(FIRST, batch=2))
    (window,) = windows.find()
    assert (window["count"], window["mean"], window["min"], window["max"]) == (2, 2.0, 1.0, 3.0)


def test_an_older_reading_never_replaces_the_latest(database: Settings):
    latest = connect(database)[LATEST_READINGS]

    def reading(minutes: int, usage: float) -> dict[str, Any]:
        return {"device_id": "em1", "timestamp": NOON + timedelta(minutes=minutes), "usage_kwh": usage, "usage": None}

    keep_latest(latest, [])
    for minutes, usage in ((0, 1.0), (15, 2.0), (5, 3.0), (15, 4.0)):
        keep_latest(latest, [reading(minutes, usage)])
    assert list(latest.find()) == [{"_id": "em1", "timestamp": NOON + timedelta(minutes=15), "usage_kwh": 2.0}]
