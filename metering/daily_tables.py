"""The daily tables: what is computed of each local day, with the columns, units and indexes of each table.

A row here and a module of the same name in meter_assets/figures make a daily figure. `raw_readings` is in the lake;
the others are collections of MongoDB, each with an index on calculation_date.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from metering.meter_types import METER_TYPES, MeterTypeRow, by_column


class Column(NamedTuple):
    """A column.

    Args:
        name: of the column, or field of the documents.
        kind: its type in Spark.
        meaning: for people, with its unit.
    """

    name: str
    kind: str
    meaning: str


Index = tuple[tuple[str, int], ...]

_METER_TYPES = " or ".join(METER_TYPES)

PUBLISHED = (
    Column("computed_at", "timestamp", "When these figures were published; stays while they stay the same."),
    Column("revision", "int", "1 as first published, one more with each change; what was before: `meters history`."),
)
"""Columns that publishing adds to every table in MongoDB."""


@dataclass(frozen=True)
class DailyTable:
    """A table of figures in MongoDB.

    Args:
        name: of the collection, and of the asset.
        columns: of its documents, without those that publishing adds; `_id` begins with the day.
        indexes: beside that on calculation_date.
    """

    name: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """Its columns, and those that publishing adds."""
        return (*self.columns, *PUBLISHED)

    @property
    def instants(self) -> tuple[str, ...]:
        """Names of the columns that hold an instant."""
        return tuple(column.name for column in self.columns if column.kind == "timestamp")


def _by_type(name: Callable[[MeterTypeRow], str | None], kind: str, meaning: str) -> Iterator[Column]:
    """A column for each meter type that has one, by their names; other types have null in it."""
    for column, row in by_column(name):
        unit = row.rate.unit if row.rate and column == row.mean_rate_column else row.unit
        yield Column(column, kind, f"{row.title}: {meaning}, {unit}.")


_DAY = Column("calculation_date", "string", "Local day, ISO 8601.")
_METER_TYPE = Column("meter_type", "string", f"{_METER_TYPES}.")
_TOTALS = tuple(_by_type(lambda row: row.total_column, "double", "sum of healthy readings"))
MEASURED = (
    Column("readings", "bigint", "Healthy readings of the day."),
    Column("faulty_readings", "bigint", "Faulty readings of the day; they stay out of every other figure."),
    Column("meters_seen", "bigint", "Meters with at least one healthy reading."),
    Column("meters_expected", "bigint", "Meters that the registry has in service."),
    Column(
        "expected_readings",
        "bigint",
        "Readings that the registry's meters should have sent: 96 each of 15 minutes, 92 or 100 "
        "on the days of a clock change.",
    ),
    Column(
        "completeness",
        "double",
        "Σ min(readings, expected) / Σ expected over the registered meters, 0 to 1; "
        "expected = ceil(seconds in service that day / interval).",
    ),
)
"""What every table of sums says of the readings behind them; the formulas are device_days.measured."""

RAW_READINGS = "raw_readings"
DAILY_AVERAGES = "daily_averages"
ABNORMAL_DEVICE_SUMMARY = "abnormal_device_summary"
DAILY_CONSUMPTION = "daily_consumption"

RAW_READINGS_COLUMNS = (
    Column("day", "date", "Local day of the timestamp (partition)."),
    Column("device_id", "string", "Meter."),
    Column("timestamp", "timestamp", "Instant of the reading, UTC."),
    _METER_TYPE,
    *(
        Column(field.name, "double", f"{row.title}, {field.unit}: {field.meaning}")
        for row in METER_TYPES.values()
        for field in row.amounts
    ),
    Column("register", "double", "Cumulative counter in the unit of usage, where the meter sends it."),
    Column("received_at", "timestamp", "When the broker received it, UTC."),
)

_ROWS = (
    DailyTable(
        name=DAILY_AVERAGES,
        columns=(
            Column("_id", "string", "<calculation_date>|<meter_type>"),
            _DAY,
            _METER_TYPE,
            Column("unit", "string", "Unit of min, max, median and p95: per reading."),
            *_by_type(lambda row: row.mean_column, "double", "mean of a healthy reading"),
            *_by_type(lambda row: row.mean_rate_column, "double", "mean rate of healthy readings"),
            *_TOTALS,
            Column("min", "double", "Smallest usage of a reading."),
            Column("max", "double", "Largest usage of a reading."),
            Column("median", "double", "Median usage of a reading (exact, linear interpolation)."),
            Column("p95", "double", "95th percentile of usage of a reading (exact, linear interpolation)."),
            *MEASURED,
        ),
    ),
    DailyTable(
        name=ABNORMAL_DEVICE_SUMMARY,
        columns=(
            Column("_id", "string", "<calculation_date>|<device_id>"),
            _DAY,
            Column("device_id", "string", "Meter."),
            _METER_TYPE,
            Column("household_id", "string", "Household, or unassigned."),
            Column("district", "string", "District, or unassigned."),
            Column("faulty_readings", "bigint", "Faulty readings of the day."),
            Column("faulty_share", "double", "faulty_readings / all readings of the meter that day, 0 to 1."),
            Column(
                "reasons",
                "array<struct<rule:string,count:bigint>>",
                "Rules broken, each with its number of readings.",
            ),
            Column("first_fault_at", "timestamp", "Instant of the day's first faulty reading, UTC."),
            Column("last_fault_at", "timestamp", "Instant of the day's last faulty reading, UTC."),
            Column("longest_fault_run", "bigint", "Largest number of consecutive faulty readings within the day."),
        ),
        indexes=((("device_id", 1), ("calculation_date", 1)),),
    ),
    DailyTable(
        name=DAILY_CONSUMPTION,
        columns=(
            Column("_id", "string", "<calculation_date>|<level>|<key>|<meter_type>"),
            _DAY,
            Column("level", "string", "device, household or district."),
            Column("key", "string", "Device, household or district; unassigned where the registry has no place."),
            _METER_TYPE,
            *_TOTALS,
            *MEASURED,
        ),
        indexes=((("level", 1), ("key", 1), ("calculation_date", 1)),),
    ),
)

DAILY_TABLES: Mapping[str, DailyTable] = {row.name: row for row in _ROWS}
"""The tables by name, in the order in which a day's tables are published."""

DAILY_ASSETS = (RAW_READINGS, *DAILY_TABLES)
"""Everything that is computed of a day: the readings in the lake, and the tables."""
