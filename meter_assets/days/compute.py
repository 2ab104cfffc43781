"""Compute: the figures of a range of days in one Spark query, given out day by day."""

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from meter_assets.figures.all_figures import FIGURES
from meter_assets.figures.day_figures import DayFigures, Document
from meter_assets.figures.device_days import days_frame, device_days, judged
from meter_assets.figures.figure import DayFrames
from meter_assets.figures.hourly_profile import hourly_profile
from metering.calendar import Day
from metering.daily_tables import DAILY_TABLES
from metering.fault_rules import FaultRule

PROFILE = "hourly_profile"

INSTANTS = {PROFILE: ("first_at", "last_at"), **{name: table.instants for name, table in DAILY_TABLES.items()}}
"""Columns that hold an instant. Asking Spark for the types would cost it an analysis of each plan."""


def computed_days(
    spark: SparkSession,
    readings: DataFrame,
    meters: DataFrame,
    days: Sequence[Day],
    assets: Collection[str],
    rules: tuple[FaultRule, ...],
) -> Iterator[DayFigures]:
    """The figures of each of the days, in their order, one day in memory at a time.

    Args:
        spark: the session that the frames are of.
        readings: of those days, columns of lake.RAW_READINGS_SCHEMA.
        meters: registry entries (registry.METER_SPARK_SCHEMA).
        days: in the order of time.
        assets: whose figures are wanted.
        rules: the fault rules that apply.
    """
    bounds = days_frame(spark, days)
    judged_readings = judged(readings, meters, rules)
    # Persisted while the query runs: Spark would otherwise compute it from the readings for each use.
    kept = device_days(judged_readings, meters, bounds).persist()
    try:
        frames = DayFrames(readings=judged_readings, meters=meters, device_days=kept)
        wanted = {name: figure.compute(frames) for name, figure in FIGURES.items() if name in assets}
        by_day = _documents_by_day({PROFILE: hourly_profile(judged_readings, bounds), **wanted})
        found = next(by_day, None)
    finally:
        # Its rows are sorted: with the first one, all is computed. Later the staged days are no longer there, and
        # Spark would look for them to find out what it is to forget.
        kept.unpersist()
    for day in days:
        documents: dict[str, list[Document]] = {}
        if found and found[0] == day.date:  # a day that has none still replaces what was published before
            documents, found = found[1], next(by_day, None)
        profile = documents.pop(PROFILE, [])
        yield DayFigures(*day, profile, {name: documents.get(name, []) for name in wanted})


def _documents_by_day(frames: Mapping[str, DataFrame]) -> Iterator[tuple[date, dict[str, list[Document]]]]:
    """Documents of all frames in the order of days, one day in memory at a time.

    One query for all of them: what they have in common is computed once, and its fixed costs are paid once.
    """
    parts = [_as_json(name, frame) for name, frame in frames.items()]
    # One partition, sorted: a global sort would run most of the plan a second time to sample its ranges.
    rows = reduce(DataFrame.union, parts).repartition(1).sortWithinPartitions("day", "frame", "id").toLocalIterator()
    for day, of_day in itertools.groupby(rows, key=lambda row: row["day"]):
        documents: dict[str, list[Document]] = {}
        for row in of_day:
            document = json.loads(row["document"])
            for column in INSTANTS[row["frame"]]:
                document[column] = datetime.fromtimestamp(document[column] / 1000, UTC)
            documents.setdefault(row["frame"], []).append(document)
        yield date.fromisoformat(day), documents


def _as_json(name: str, frame: DataFrame) -> DataFrame:
    # Instants travel as numbers: as text they would come in the session's zone. Doubles survive JSON bit by bit.
    for column in INSTANTS[name]:
        frame = frame.withColumn(column, F.unix_millis(column))
    return frame.select(
        F.col("calculation_date").alias("day"),
        F.lit(name).alias("frame"),
        F.col("_id").alias("id"),
        F.to_json(F.struct("*"), {"ignoreNullFields": "false"}).alias("document"),
    )
