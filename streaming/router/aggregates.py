"""Windows and latest readings: what is happening now, for dashboards and for telling silent meters.

One micro-batch query, without state in Spark: each batch adds its part to the documents in MongoDB, and every document
remembers which batch it was last changed by, so a batch that is repeated after a crash adds nothing.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metering.faults import FUTURE_TOLERANCE_SECONDS
from metering.store import LATEST_READINGS, WINDOW_AGGREGATES

WINDOW_MINUTES = (1, 10, 60)
WRITE_BATCH = 2_000
DUPLICATE_KEY = 11000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def in_time(readings: DataFrame) -> DataFrame:
    """Without readings from the future: one of them would move every clock that follows event time."""
    ahead = F.unix_seconds("timestamp") - F.unix_seconds("received_at")
    return readings.where(ahead <= FUTURE_TOLERANCE_SECONDS)


def window_parts(readings: DataFrame, watermark: datetime) -> DataFrame:
    """One row per meter and window that the readings fall into.

    Args:
        readings: judged readings (`faults`), each in time.
        watermark: a reading before it is late; it is counted as such, and in its window all the same.

    Returns:
        device_id, meter_type, minutes, window_start, count, faulty, late, total, min, max (of healthy readings, kWh or
        L).
    """
    healthy = F.size("faults") == 0
    value = F.when(healthy, F.coalesce("usage_kwh", "usage"))
    sizes = F.explode(F.array(*(F.lit(minutes) for minutes in WINDOW_MINUTES)))
    return (
        readings.withColumn("minutes", sizes)
        .withColumn("window_start", _start_of_window())
        .groupBy("device_id", "meter_type", "minutes", "window_start")
        .agg(
            F.count_if(healthy).alias("count"),
            F.count_if(~healthy).alias("faulty"),
            F.count_if(F.col("timestamp") < F.lit(watermark)).alias("late"),
            F.coalesce(F.sum(value), F.lit(0.0)).alias("total"),
            F.min(value).alias("min"),
            F.max(value).alias("max"),
        )
    )


def _start_of_window() -> Column:
    seconds = F.col("minutes") * 60
    return (F.unix_seconds("timestamp") - F.unix_seconds("timestamp") % seconds).alias("window_start")


def latest(readings: DataFrame) -> DataFrame:
    """The newest reading of each meter: device_id and its other fields."""
    fields = F.struct("timestamp", "received_at", "meter_type", "usage_kwh", "usage", "flow_rate", "faults")
    newest = readings.groupBy("device_id").agg(F.max_by(fields, "timestamp").alias("reading"))
    return newest.select("device_id", "reading.*")


class Aggregates:
    """Writes each batch of judged readings into `iot.window_aggregates` and `iot.latest_readings`.

    Args:
        database: where to.
        keep: how long a window is kept after the batch that last changed it.
        late_seconds: how far behind the newest reading the watermark is.
    """

    def __init__(self, database: Database, *, keep: timedelta, late_seconds: int) -> None:
        self._windows = database[WINDOW_AGGREGATES]
        self._latest = database[LATEST_READINGS]
        self._keep = keep
        self._late = timedelta(seconds=late_seconds)
        self._newest = EPOCH
        self.late_readings = 0
        self.stopping = False
        self.query_id: Callable[[], str] = lambda: ""

    def write(self, readings: DataFrame, batch: int) -> None:
        """Write one batch; writing it again changes nothing."""
        try:
            self._write(readings, batch)
        except Exception:
            if self.stopping:  # Spark's own text about it is so long that Spark fails at reading it
                raise InterruptedError("the router stops") from None
            raise

    def _write(self, readings: DataFrame, batch: int) -> None:
        readings.persist()
        try:
            watermark = max(EPOCH, self._newest - self._late)
            parts = window_parts(readings, watermark).collect()
            newest = latest(readings).withColumns(
                {name: F.unix_millis(name).alias(name) for name in ("timestamp", "received_at")}
            )
            rows = newest.collect()
        finally:
            readings.unpersist()
        change = {"query": self.query_id(), "batch": batch, "expires_at": datetime.now(UTC) + self._keep}
        _write(self._windows, [_add(part, change) for part in parts])
        _write(self._latest, [_newer(row.asDict()) for row in rows])
        self.late_readings += sum(part["late"] for part in parts if part["minutes"] == WINDOW_MINUTES[0])
        self._newest = max([self._newest, *(_instant(row["timestamp"]) for row in rows)])


def _add(part: Any, change: dict[str, Any]) -> UpdateOne:
    """Add a part to its window, unless `change` (query, batch, expires_at) has done so before."""
    start = datetime.fromtimestamp(part["window_start"], UTC)
    key = f"{part['minutes']}m|{start.isoformat(timespec='seconds').replace('+00:00', 'Z')}|{part['device_id']}"
    # A document of another query is of a router that began anew, and reads everything again.
    own = {"$eq": ["$query", change["query"]]}

    def before(field: str, otherwise: Any) -> dict[str, Any]:
        return {"$cond": [own, {"$ifNull": [f"${field}", otherwise]}, otherwise]}

    fields = {
        "device_id": {"$literal": part["device_id"]},
        "meter_type": part["meter_type"],
        "minutes": part["minutes"],
        "window_start": start,
        "window_end": start + timedelta(minutes=part["minutes"]),
        "count": {"$add": [before("count", 0), part["count"]]},
        "faulty": {"$add": [before("faulty", 0), part["faulty"]]},
        "late": {"$add": [before("late", 0), part["late"]]},
        "sum": {"$add": [before("sum", 0.0), part["total"]]},
        "min": {"$min": [before("min", None), part["min"]]},
        "max": {"$max": [before("max", None), part["max"]]},
        **change,
    }
    mean = {"$cond": [{"$gt": ["$count", 0]}, {"$divide": ["$sum", "$count"]}, None]}
    not_yet = {"$or": [{"query": {"$ne": change["query"]}}, {"batch": {"$lt": change["batch"]}}]}
    return UpdateOne({"_id": key, **not_yet}, [{"$set": fields}, {"$set": {"mean": mean}}], upsert=True)


def _newer(row: dict[str, Any]) -> UpdateOne:
    device_id = row.pop("device_id")
    document = {name: value for name, value in row.items() if value is not None}
    document |= {"_id": device_id, "timestamp": _instant(row["timestamp"]), "received_at": _instant(row["received_at"])}
    is_newer = {"$lt": [{"$ifNull": ["$timestamp", EPOCH]}, document["timestamp"]]}
    replacement = {"$cond": [is_newer, {"$literal": document}, "$$ROOT"]}
    return UpdateOne({"_id": device_id}, [{"$replaceWith": replacement}], upsert=True)


def _instant(millis: int) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)


def _write(collection: Collection, operations: list[UpdateOne]) -> None:
    for start in range(0, len(operations), WRITE_BATCH):
        try:
            collection.bulk_write(operations[start : start + WRITE_BATCH], ordered=False)
        except BulkWriteError as error:
            # The filter leaves out documents that this batch has changed already; upsert then finds them there.
            if any(failure["code"] != DUPLICATE_KEY for failure in error.details["writeErrors"]):
                raise
