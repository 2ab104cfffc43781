"""The lake: a Hive-partitioned Parquet data set, `<root>/<table>/day=YYYY-MM-DD/*.parquet`, a local day in each part.

A day is replaced whole: Spark writes where nobody looks, and only what is finished takes the place of the day before,
in one step: see folder.py for a file system's step, and object_store.py for an object store's. What the rows mean is
not known here.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import date

from pyarrow import fs
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pyspark.sql import DataFrame, SparkSession

from metering.reading import SPARK_SCHEMA

DAY_FOLDER = "day="

RAW_READINGS_SCHEMA = f"{SPARK_SCHEMA}, day date"
"""Columns of raw_readings as a Spark DDL schema, the partition column last; stated once, for writers and readers."""


@dataclass(frozen=True)
class StagedDays:
    """Days of a table that nobody sees yet.

    Args:
        root: what all of them are below, as Spark names it.
        places: where each day is that has rows, as Spark names it.
    """

    root: str
    places: Mapping[date, str]

    def read(self, spark: SparkSession, schema: str, days: Sequence[date]) -> DataFrame:
        """Rows of those days."""
        return read_days(spark, self.root, schema, [self.places[day] for day in days if day in self.places])


class Lake(ABC):
    """Tables of days.

    Args:
        files: the file system that the lake is in.
        root: its place there.
    """

    def __init__(self, files: fs.FileSystem, root: str) -> None:
        self.files = files
        self.root = root

    @abstractmethod
    def partition(self, table: str, day: date) -> str:
        """Where a day is, whether it exists or not, as Spark and people name it."""

    @abstractmethod
    def days(self, table: str) -> list[date]:
        """Days that are there, in their order."""

    @abstractmethod
    def contents(self, table: str, day: date) -> list[fs.FileInfo]:
        """The day's Parquet files, in their order."""

    @abstractmethod
    def staged(self, frame: DataFrame, table: str) -> AbstractContextManager[StagedDays]:
        """The rows of `frame`, which has a `day` column, written beside the table; gone when the block ends."""

    @abstractmethod
    def locked(self, database: Database, table: str, day: date) -> AbstractContextManager[ClientSession | None]:
        """Be the only one who replaces that day and notes it in the database; whoever else wants to waits.

        Where the lock is a transaction, it is the session of that: what is noted of the day must be part of it.
        """

    @abstractmethod
    def replace(self, table: str, day: date, staged: StagedDays) -> None:
        """Put a staged day in the place of the table's; a day without rows goes."""

    @abstractmethod
    def remove(self, table: str, day: date) -> None:
        """Take a day out; nothing happens where there is none."""

    @abstractmethod
    def read(self, spark: SparkSession, table: str, schema: str, days: Sequence[date]) -> DataFrame:
        """Rows of those days; a day that was never written, or is empty, has none."""

    @contextmanager
    def staging(self, table: str) -> Iterator[str]:
        """A path beside the table, for files that nobody is to see yet; they are gone when the block ends."""
        folder = f"{self.root}/.staging/{table}-{uuid.uuid4()}"
        try:
            yield folder
        finally:
            self.discard(folder)

    @abstractmethod
    def discard(self, folder: str) -> None:
        """Delete a staging path with all below it. That it cannot be is no reason to fail: nobody looks there."""


def day_folder(day: date) -> str:
    """Name of a day's folder."""
    return f"{DAY_FOLDER}{day.isoformat()}"


def day_of(name: str) -> date | None:
    """The day of a folder's name; None for another name."""
    try:
        return date.fromisoformat(name.removeprefix(DAY_FOLDER)) if name.startswith(DAY_FOLDER) else None
    except ValueError:
        return None


def read_days(spark: SparkSession, root: str, schema: str, places: Sequence[str]) -> DataFrame:
    """Rows of those places, with the day that each one's folder names."""
    if not places:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).option("basePath", root).parquet(*places)
