"""Upkeep of the lake: what is in it, fewer and larger files, and days that are kept no longer.

Days change places here as they do when they are materialized: whoever reads sees the old files or the new ones.
"""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs
from pymongo.database import Database

from meter_assets.lake.base import Lake, day_folder
from meter_assets.lake.folder import FolderLake
from metering.daily_tables import RAW_READINGS
from metering.day_ledger import read_day, withdraw
from metering.errors import MetersError

LOOKS_AT_ONCE = 16
"""Days looked at side by side: an object store takes its time over each request."""

FILE_BYTES = 128 * 1024 * 1024
"""Size that a compacted file is to have: large enough that opening it costs little beside reading it."""


@dataclass(frozen=True)
class LakeDay:
    """A day: how many rows its Parquet files have, and how many bytes."""

    day: date
    files: int
    rows: int
    size: int

    @property
    def is_scattered(self) -> bool:
        """Are its files more than its size asks for?"""
        return self.files > -(-self.size // FILE_BYTES)


def lake_days(lake: Lake, table: str = RAW_READINGS) -> list[LakeDay]:
    """All days of a table that are in the lake, in their order.

    Raises:
        MetersError: a file is no Parquet.
    """
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as pool:
        return list(pool.map(lambda day: _look_at(lake, table, day), lake.days(table)))


def _look_at(lake: Lake, table: str, day: date) -> LakeDay:
    def look() -> LakeDay:
        return _count(day, lake.files, lake.contents(table, day), lake.partition(table, day))

    try:
        return look()
    except MetersError:  # the day may have been replaced just then, between two requests
        return look()


def _count(day: date, system: fs.FileSystem, files: list[fs.FileInfo], place: str) -> LakeDay:
    try:
        rows = sum(pq.read_metadata(file.path, filesystem=system).num_rows for file in files)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise MetersError(f"{place} is not readable: {first}", fix=f"Make it anew: meters backfill {day}") from error
    return LakeDay(day, len(files), rows, sum(file.size for file in files))


def compact(lake: Lake, day: date, table: str = RAW_READINGS) -> LakeDay:
    """Write the day's rows into as few files as their size asks for, in the order in which they were.

    In an object store a day is one object anyway.

    Returns:
        The day as it is then.

    Raises:
        MetersError: a file is no Parquet; the day stays as it was.
    """
    if not isinstance(lake, FolderLake):
        return _look_at(lake, table, day)
    with lake.alone(table, day):
        before = _look_at(lake, table, day)
        if not before.is_scattered:
            return before
        with lake.staging(table) as staging:
            target = Path(staging, day_folder(day))
            rows = max(1, before.rows // -(-before.size // FILE_BYTES))
            ds.write_dataset(
                ds.dataset([file.path for file in lake.contents(table, day)], format="parquet"),
                target,
                format="parquet",
                # Never a name that the old files have: a reader that has listed those must not open these.
                basename_template=f"compact-{uuid.uuid4()}-{{i}}.parquet",
                max_rows_per_file=rows,
                max_rows_per_group=min(rows, 1_000_000),
                preserve_order=True,
            )
            written = lake.files.get_file_info(sorted(str(file) for file in target.glob("*.parquet")))
            after = _count(day, lake.files, written, str(target))
            if after.rows != before.rows:
                raise MetersError(
                    f"{day} has {before.rows:,} rows, and {after.rows:,} after compaction: left as it was"
                )
            lake.put(table, day, target)
        return after


def prune(lake: Lake, database: Database, before: date, table: str = RAW_READINGS) -> Iterator[LakeDay]:
    """Take days before that one out of the lake, each as it is consumed; MongoDB keeps their readings.

    What was computed of such a day stays in force. To compute it again its readings have to be materialized, too: until
    then nobody takes its absence for a day without readings.
    """
    for each in lake_days(lake, table):
        if each.day >= before:
            return
        withdraw(database, table, each.day)  # first: a day that is left over is only a day too many
        with lake.locked(database, table, each.day) as session:
            if not read_day(database, each.day, session).in_force(table).run:  # a run may have brought it back just now
                lake.remove(table, each.day)
        yield each
