"""Stage: a range of days' readings, out of MongoDB into a part of the lake that nobody sees yet, or out of the lake."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import dagster as dg
from pyspark.sql import DataFrame

from meter_assets.days.stores import Stores
from meter_assets.figures.device_days import local_day_of, stored
from meter_assets.lake.base import RAW_READINGS_SCHEMA, StagedDays
from metering.calendar import Day
from metering.daily_tables import RAW_READINGS, RAW_READINGS_COLUMNS
from metering.day_ledger import LocalDay
from metering.settings import Settings


@dataclass(frozen=True)
class Staged:
    """Readings to compute from.

    Args:
        readings: columns of lake.RAW_READINGS_SCHEMA.
        days: what is to replace the days in the lake; None where the readings are those in the lake.
    """

    readings: DataFrame
    days: StagedDays | None


@contextmanager
def staged_readings(
    days: Sequence[Day], begun: Collection[LocalDay], assets: Collection[str], stores: Stores, settings: Settings
) -> Iterator[Staged]:
    """The days' readings: fresh from MongoDB where raw_readings is among the assets, else as the lake has them.

    What is staged and not published is deleted after the block.

    Raises:
        dagster.Failure: the lake is asked for readings of a day that it does not have.
    """
    spark, lake = stores.pyspark.spark_session, stores.lake.get()
    dates = [day.date for day in days]
    if RAW_READINGS not in assets:
        _require_readings(begun)
        yield Staged(lake.read(spark, RAW_READINGS, RAW_READINGS_SCHEMA, dates), None)
        return
    with lake.staged(_stored_readings(days, stores, settings), RAW_READINGS) as staged:
        yield Staged(staged.read(spark, RAW_READINGS_SCHEMA, dates), staged)


def _stored_readings(days: Sequence[Day], stores: Stores, settings: Settings) -> DataFrame:
    spark = stores.pyspark.spark_session
    spans = [stores.mongo.read_readings(spark, start=start, end=end) for start, end in _spans(days)]
    frame = stored(reduce(DataFrame.union, spans)).withColumn("day", local_day_of("timestamp", settings.timezone))
    return frame.select(*[column.name for column in RAW_READINGS_COLUMNS])


def _spans(days: Sequence[Day]) -> Iterator[tuple[datetime, datetime]]:
    """Contiguous days joined: [start, end) of each."""
    spans: list[tuple[datetime, datetime]] = []
    for _, start, end in days:
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    yield from spans


def _require_readings(days: Iterable[LocalDay]) -> None:
    """See that the days' readings are in the lake: a day that is not there must not pass for one without readings.

    Raises:
        dagster.Failure: of some day they are not.
    """
    absent = [day.day for day in days if not day.in_force(RAW_READINGS).run]
    if absent:
        raise dg.Failure(
            f"The readings of {len(absent):,} days are not in the lake, the first {absent[0]}: "
            "select raw_readings, too, or launch meters backfill",
            allow_retries=False,
        )
