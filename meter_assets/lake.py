"""The lake: Parquet under `<root>/<table>/day=YYYY-MM-DD/`, a Hive-partitioned data set, one folder a local day.

A day is replaced whole: Spark writes into a staging folder beside the table, and only a finished folder changes places
with the one before, in one step: whoever lists a day sees the old files or the new ones. What the rows mean is not
known here.
"""

import shutil
import uuid
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from meter_assets.exchange import exchange
from metering.errors import MetersError

RAW_READINGS = "raw_readings"
RAW_READINGS_SCHEMA = (
    "device_id string, timestamp timestamp, meter_type string, usage_kwh double, usage double, flow_rate double, "
    "`register` double, received_at timestamp, day date"
)
"""Columns of raw_readings as a Spark DDL schema, the partition column last; stated once, for writers and readers."""


class Lake:
    """A lake on a file system that this process and Spark both see.

    Args:
        root: absolute folder.

    Raises:
        MetersError: root is a URL.
    """

    def __init__(self, root: str) -> None:
        if "://" in root:
            raise MetersError(f"METERS_LAKE={root} is not a folder", fix="Set it to an absolute folder")
        self._root = Path(root)

    def partition(self, table: str, day: date) -> Path:
        """Folder of a day, whether it exists or not."""
        return self._root / table / f"day={day.isoformat()}"

    def write(self, frame: DataFrame, table: str, days: Sequence[date]) -> None:
        """Replace those days of the table with the rows of `frame`, which has a `day` column; days without rows go."""
        staging = self._root / ".staging" / f"{table}-{uuid.uuid4()}"
        try:
            frame.write.partitionBy("day").parquet(str(staging))
            (self._root / table).mkdir(parents=True, exist_ok=True)
            for day in days:
                self._replace(staging / f"day={day.isoformat()}", self.partition(table, day))
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _replace(self, new: Path, old: Path) -> None:
        if not new.exists():  # a day without rows has no folder
            if old.exists():
                new.parent.mkdir(parents=True, exist_ok=True)
                old.rename(new)
        elif old.exists():
            exchange(new, old)
        else:
            new.rename(old)

    def read(self, spark: SparkSession, table: str, schema: str, days: Sequence[date]) -> DataFrame:
        """Rows of those days; a day that was never written, or is empty, has none."""
        folders = [str(folder) for day in days if (folder := self.partition(table, day)).exists()]
        if not folders:
            return spark.createDataFrame([], schema)
        return spark.read.schema(schema).option("basePath", str(self._root / table)).parquet(*folders)
