"""Windows and latest readings: what is happening now, for dashboards and for telling silent meters.

One micro-batch query, without state in Spark: each batch adds its part to the documents in MongoDB (windows.py).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pymongo
from pymongo.database import Database
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metering.fault_rules import FUTURE_TOLERANCE_SECONDS
from metering.meter_columns import usage
from metering.meter_types import AMOUNT_FIELDS
from metering.store import LATEST_READINGS, WINDOW_AGGREGATES
from streaming.router.windows import Change, add_parts, keep_latest

WINDOW_MINUTES = (1, 10, 60)

MAX_ROWS_A_BATCH = 50_000
"""Readings in one batch of the aggregates; each becomes up to three documents."""

MONGO_SECONDS = 120
"""How long a batch may take. A MongoDB that stops answering in the middle of an operation would hold it for ever."""

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
        device_id, meter_type, minutes, window_start, count, faulty, late, total, min, max (of healthy readings, in
        the unit of the meter type).
    """
    healthy = F.size("faults") == 0
    value = F.when(healthy, usage())
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
    fields = F.struct("timestamp", "received_at", "meter_type", *(field.name for field in AMOUNT_FIELDS), "faults")
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
        self.query_id = ""

    def write(self, readings: DataFrame, batch: int) -> None:
        """Write one batch; writing it again changes nothing."""
        try:
            with pymongo.timeout(MONGO_SECONDS):
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
        change = Change(query=self.query_id, batch=batch, expires_at=datetime.now(UTC) + self._keep)
        add_parts(self._windows, [part.asDict() for part in parts], change)
        newest_readings = [_reading(row.asDict()) for row in rows]
        keep_latest(self._latest, newest_readings)
        self.late_readings += sum(part["late"] for part in parts if part["minutes"] == WINDOW_MINUTES[0])
        self._newest = max([self._newest, *(reading["timestamp"] for reading in newest_readings)])


def _reading(row: dict[str, Any]) -> dict[str, Any]:
    for name in ("timestamp", "received_at"):
        row[name] = datetime.fromtimestamp(row[name] / 1000, UTC)
    return row
