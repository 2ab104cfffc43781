"""A lake in an S3-compatible object store: a day is one object.

An object store cannot rename, but it puts an object in the place of another as a whole: whoever asks gets the old one
or the new one. So Spark writes each day as one object, and replacing a day is one request for a copy within the store.
Spark notices by the entity tag when the object changes between two requests of a read, and fails instead of mixing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date

from pyarrow import fs
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pyspark.sql import DataFrame, SparkSession

from meter_assets.lake.base import Lake, StagedDays, day_folder, day_of, read_days
from metering.day_ledger import hold_day
from metering.errors import MetersError
from metering.settings import Settings
from runtime.s3 import bucket_and_prefix, connect_store, probe_store, store_errors

SCHEME = "s3a://"
OBJECT = "readings.parquet"

MAX_COPIED_BYTES = 5 * 1024**3
"""Larger objects S3 copies in parts only, which is no longer one request."""

PARQUET = ".parquet"


class ObjectLake(Lake):
    """A lake in the bucket of METERS_LAKE.

    Args:
        settings: where the store is.

    Raises:
        ServiceAwayError: the store does not answer.
        MetersError: it has no such bucket, or refuses the keys.
    """

    def __init__(self, settings: Settings) -> None:
        probe_store(settings)
        bucket, prefix = bucket_and_prefix(settings.lake_path)
        super().__init__(connect_store(settings), f"{bucket}/{prefix}".rstrip("/"))
        self._settings = settings

    def partition(self, table: str, day: date) -> str:
        """URL of the day's object."""
        return _url(self._object(table, day))

    def days(self, table: str) -> list[date]:
        """Days that have an object."""
        with store_errors(self._settings):
            return sorted(self._days_below(f"{self.root}/{table}", OBJECT))

    def contents(self, table: str, day: date) -> list[fs.FileInfo]:
        """The day's object."""
        with store_errors(self._settings):
            info = self.files.get_file_info(self._object(table, day))
        return [info] if info.is_file else []

    @contextmanager
    def staged(self, frame: DataFrame, table: str) -> Iterator[StagedDays]:
        """The rows of `frame`, one object a day."""
        with self.staging(table) as folder:
            # The second algorithm moves what a task has written once instead of twice, and a move is a copy here. What
            # it gives up, that nobody sees files before all are there, is not needed where nobody looks.
            writer = frame.repartition("day").write.partitionBy("day")
            writer.option("mapreduce.fileoutputcommitter.algorithm.version", "2").parquet(_url(folder))
            with store_errors(self._settings):
                written = self._days_below(folder, PARQUET)
            for day, info in written.items():
                if info.size > MAX_COPIED_BYTES:
                    raise MetersError(
                        f"The readings of {day} are one object of {info.size / 1024**3:.1f} GiB, and an object store "
                        "replaces no more than 5 in one step",
                        fix="Set METERS_LAKE to a folder that all of Spark sees",
                    )
            yield StagedDays(_url(folder), {day: _url(info.path) for day, info in written.items()})

    @contextmanager
    def locked(self, database: Database, table: str, day: date) -> Iterator[ClientSession]:
        """Hold the day in MongoDB: runs may be on several machines, and an object store has no locks."""
        with hold_day(database, day) as session:
            yield session

    def replace(self, table: str, day: date, staged: StagedDays) -> None:
        """Copy the staged object over the day's."""
        if place := staged.places.get(day):
            with store_errors(self._settings):
                self.files.copy_file(place.removeprefix(SCHEME), self._object(table, day))
        else:
            self.remove(table, day)

    def remove(self, table: str, day: date) -> None:
        """Delete the day's object."""
        with store_errors(self._settings), suppress(FileNotFoundError):
            # Its folder, that is: deleting the object alone, pyarrow would leave an empty object for the folder.
            self.files.delete_dir(f"{self.root}/{table}/{day_folder(day)}")

    def read(self, spark: SparkSession, table: str, schema: str, days: Sequence[date]) -> DataFrame:
        """Rows of those days' objects."""
        with store_errors(self._settings):
            found = self.files.get_file_info([self._object(table, day) for day in days])
        objects = [_url(info.path) for info in found if info.is_file]
        return read_days(spark, _url(f"{self.root}/{table}"), schema, objects)

    def discard(self, folder: str) -> None:
        """Delete staged objects."""
        with suppress(OSError):
            self.files.delete_dir(folder)

    def _object(self, table: str, day: date) -> str:
        return f"{self.root}/{table}/{day_folder(day)}/{OBJECT}"

    def _days_below(self, folder: str, ending: str) -> dict[date, fs.FileInfo]:
        """The object of each day below a folder, asked for in as few requests as there are thousands of objects."""
        found: dict[date, fs.FileInfo] = {}
        for info in self.files.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True)):
            day = day_of(info.path.split("/")[-2])
            if not (info.is_file and day and info.path.endswith(ending)):
                continue
            if day in found:
                raise MetersError(f"{day} has two objects below {_url(folder)}, where one is expected")
            found[day] = info
        return found


def _url(path: str) -> str:
    return f"{SCHEME}{path}"
