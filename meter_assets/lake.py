"""The lake: Parquet under `<root>/<table>/day=YYYY-MM-DD/`, a Hive-partitioned data set, one folder a local day.

A day is replaced whole: Spark writes into a staging folder beside the table, and only a finished folder changes places
with the one before, in one step: whoever lists a day sees the old files or the new ones. What the rows mean is not
known here.
"""

import fcntl
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession

from meter_assets.exchange import exchange
from metering.errors import MetersError
from metering.reading import SPARK_SCHEMA

DAY_FOLDER = "day="

RAW_READINGS_SCHEMA = f"{SPARK_SCHEMA}, day date"
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
        return self._root / table / _folder(day)

    def days(self, table: str) -> list[date]:
        """Days that have a folder, in their order."""
        folders = sorted((self._root / table).glob(f"{DAY_FOLDER}????-??-??"))
        return [date.fromisoformat(folder.name.removeprefix(DAY_FOLDER)) for folder in folders]

    @contextmanager
    def staging(self, table: str) -> Iterator[Path]:
        """A folder's path beside the table, for files that nobody is to see yet; gone when the block ends."""
        folder = self._root / ".staging" / f"{table}-{uuid.uuid4()}"
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def staged(self, frame: DataFrame, table: str) -> Iterator["StagedDays"]:
        """The rows of `frame`, which has a `day` column, written beside the table; gone when the block ends."""
        with self.staging(table) as folder:
            frame.write.partitionBy("day").parquet(str(folder))
            yield StagedDays(folder)

    @contextmanager
    def locked(self, table: str, day: date) -> Iterator[None]:
        """Be the only one who replaces that day; whoever else wants to waits."""
        locks = self._root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{table}-{day}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when the process ends, however it does
            yield

    def replace(self, table: str, day: date, staged: "StagedDays") -> None:
        """Put a staged day in the place of the table's; a day without rows goes."""
        self.put(table, day, staged.folder / _folder(day))

    def put(self, table: str, day: date, new: Path) -> None:
        """Let the folder `new`, of the same file system, be the day; the old one takes its place, if there was one."""
        old = self.partition(table, day)
        if not new.exists():
            if old.exists():
                old.rename(new)
            return
        old.parent.mkdir(parents=True, exist_ok=True)
        if old.exists():
            exchange(new, old)
        else:
            new.rename(old)

    def read(self, spark: SparkSession, table: str, schema: str, days: Sequence[date]) -> DataFrame:
        """Rows of those days; a day that was never written, or is empty, has none."""
        return _read(spark, self._root / table, schema, days)


class StagedDays:
    """Days of a table that nobody sees yet.

    Args:
        folder: where Spark has written them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, spark: SparkSession, schema: str, days: Sequence[date]) -> DataFrame:
        """Rows of those days."""
        return _read(spark, self.folder, schema, days)


def _folder(day: date) -> str:
    return f"{DAY_FOLDER}{day.isoformat()}"


def _read(spark: SparkSession, table: Path, schema: str, days: Sequence[date]) -> DataFrame:
    folders = [str(folder) for day in days if (folder := table / _folder(day)).exists()]
    if not folders:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).option("basePath", str(table)).parquet(*folders)
