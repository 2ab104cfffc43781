"""What makes a daily figure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pyspark.sql import DataFrame

from meter_assets.figures.check import DayCheck
from meter_assets.figures.day_figures import DayFigures
from metering.daily_tables import Column, DailyTable


@dataclass(frozen=True)
class DayFrames:
    """What figures are computed from.

    Args:
        readings: judged readings of the days.
        meters: registry entries (registry.METER_SPARK_SCHEMA).
        device_days: see device_days.device_days; kept while the query runs.
    """

    readings: DataFrame
    meters: DataFrame
    device_days: DataFrame


@dataclass(frozen=True, kw_only=True)
class DailyFigure:
    """A table of figures, computed for each local day.

    Args:
        table: its row in metering/daily_tables.py.
        description: of the asset, for people.
        compute: builds the documents of the days: the columns of the table.
        describe: metadata of a day's materialization, out of the day's figures.
        checks: of a day.
        prepare: called before days are computed, for what takes time beside Spark.
    """

    table: DailyTable
    description: str
    compute: Callable[[DayFrames], DataFrame]
    describe: Callable[[DayFigures], dict[str, Any]]
    checks: tuple[DayCheck, ...] = ()
    prepare: Callable[[], None] = lambda: None


def column_schema(columns: Iterable[Column]) -> dg.TableSchema:
    """Columns as the UI shows them."""
    return dg.TableSchema([dg.TableColumn(column.name, column.kind, column.meaning) for column in columns])
