"""Upkeep of the lake: what is in it, fewer and larger files, and days that are kept no longer.

Days change places here as they do when they are materialized: whoever reads sees the old files or the new ones.
"""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pymongo.database import Database

from meter_assets.lake import Lake
from metering.errors import MetersError
from metering.local_days import withdraw
from metering.store import RAW_READINGS

FILE_BYTES = 128 * 1024 * 1024
"""Size that a compacted file is to have: large enough that opening it costs little beside reading it."""


@dataclass(frozen=True)
class LakeDay:
    """A day's folder: how many rows its Parquet files have, and how many bytes."""

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
    return [_look_at(day, lake.partition(table, day)) for day in lake.days(table)]


def _look_at(day: date, folder: Path) -> LakeDay:
    files = sorted(folder.glob("*.parquet"))
    try:
        rows = sum(pq.read_metadata(file).num_rows for file in files)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise MetersError(f"{folder} is not readable: {first}", fix=f"Make it anew: meters backfill {day}") from error
    return LakeDay(day, len(files), rows, sum(file.stat().st_size for file in files))


def compact(lake: Lake, day: date, table: str = RAW_READINGS) -> LakeDay:
    """Write the day's rows into as few files as their size asks for, in the order in which they were.

    Returns:
        The day as it is then.

    Raises:
        MetersError: a file is no Parquet; the day stays as it was.
    """
    with lake.locked(table, day):
        folder = lake.partition(table, day)
        before = _look_at(day, folder)
        if not before.is_scattered:
            return before
        with lake.staging(table) as staging:
            target = staging / folder.name
            rows = max(1, before.rows // -(-before.size // FILE_BYTES))
            ds.write_dataset(
                ds.dataset(sorted(folder.glob("*.parquet")), format="parquet"),
                target,
                format="parquet",
                # Never a name that the old files have: a reader that has listed those must not open these.
                basename_template=f"compact-{uuid.uuid4()}-{{i}}.parquet",
                max_rows_per_file=rows,
                max_rows_per_group=min(rows, 1_000_000),
                preserve_order=True,
            )
            after = _look_at(day, target)
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
        with lake.locked(table, each.day):
            withdraw(database, table, each.day)  # first: a folder that is left over is only a folder
            shutil.rmtree(lake.partition(table, each.day), ignore_errors=True)
        yield each
