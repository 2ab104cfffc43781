"""A lake in a folder: a day is a folder of files.

It changes places with the folder before it in one step of the file system: whoever lists a day sees the old files or
the new ones.
"""

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from pyarrow import fs
from pymongo.database import Database
from pyspark.sql import DataFrame, SparkSession

from meter_assets.lake.base import DAY_FOLDER, Lake, StagedDays, day_folder, day_of, read_days
from meter_assets.lake.swap import exchange


class FolderLake(Lake):
    """A lake on a file system that this process and Spark both see.

    Args:
        root: absolute folder.
    """

    def __init__(self, root: str | Path) -> None:
        super().__init__(fs.LocalFileSystem(), str(root))

    def partition(self, table: str, day: date) -> str:
        """The day's folder."""
        return str(self._folder(table, day))

    def days(self, table: str) -> list[date]:
        """Days that have a folder."""
        found = (day_of(folder.name) for folder in Path(self.root, table).glob(f"{DAY_FOLDER}*"))
        return sorted(day for day in found if day)

    def contents(self, table: str, day: date) -> list[fs.FileInfo]:
        """The Parquet files in the day's folder."""
        return self.files.get_file_info(sorted(str(file) for file in self._folder(table, day).glob("*.parquet")))

    @contextmanager
    def staged(self, frame: DataFrame, table: str) -> Iterator[StagedDays]:
        """The rows of `frame` in a staging folder on the lake's own file system, which a rename needs."""
        with self.staging(table) as folder:
            frame.write.partitionBy("day").parquet(folder)
            written = Path(folder).glob(f"{DAY_FOLDER}*")
            yield StagedDays(folder, {day: str(each) for each in written if (day := day_of(each.name))})

    @contextmanager
    def locked(self, database: Database, table: str, day: date) -> Iterator[None]:
        """As `alone`: a folder's processes are on one machine, or on a file system whose locks they share."""
        with self.alone(table, day):
            yield

    @contextmanager
    def alone(self, table: str, day: date) -> Iterator[None]:
        """Be the only one who replaces that day; whoever else wants to waits."""
        locks = Path(self.root, ".locks")
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{table}-{day}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it when the process ends, however it does
            yield

    def replace(self, table: str, day: date, staged: StagedDays) -> None:
        """Exchange the day's folder for the staged one."""
        self.put(table, day, Path(staged.root, day_folder(day)))

    def put(self, table: str, day: date, new: Path) -> None:
        """Let the folder `new`, of the same file system, be the day; the old one takes its place, if there was one."""
        old = self._folder(table, day)
        if not new.exists():
            if old.exists():
                old.rename(new)
            return
        old.parent.mkdir(parents=True, exist_ok=True)
        if old.exists():
            exchange(new, old)
        else:
            new.rename(old)

    def remove(self, table: str, day: date) -> None:
        """Delete the day's folder."""
        shutil.rmtree(self._folder(table, day), ignore_errors=True)

    def read(self, spark: SparkSession, table: str, schema: str, days: Sequence[date]) -> DataFrame:
        """Rows of those days' folders."""
        folders = [str(folder) for day in days if (folder := self._folder(table, day)).exists()]
        return read_days(spark, str(Path(self.root, table)), schema, folders)

    def discard(self, folder: str) -> None:
        """Delete a staging folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, table: str, day: date) -> Path:
        return Path(self.root, table, day_folder(day))
