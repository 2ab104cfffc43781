"""Spark columns that depend on the meter type, made from the rows of meter_types.py.

A reading has the usage field of its type and no other one; a row of a daily table has `meter_type`. Building a column
needs a Spark session.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from metering.meter_types import METER_TYPES, MeterTypeRow, by_column


def usage() -> Column:
    """`double`: a reading's usage in the unit of its type."""
    return F.coalesce(*(row.usage.name for row in METER_TYPES.values()))


def rate() -> Column:
    """`double`: a reading's rate in the unit of its type, null where the type has none."""
    return F.coalesce(*(row.rate.name for row in METER_TYPES.values() if row.rate))


def meter_type_of(prefix: str = "") -> Column:
    """`string`: the type of a reading, by the usage field that it has; the last type where it has none.

    Args:
        prefix: before the names of the fields: `message.` where they are in a struct.
    """
    return of_reading(lambda row: str(row.meter_type), prefix=prefix)


def of_reading(choose: Callable[[MeterTypeRow], Any], *, prefix: str = "") -> Column:
    """A value that each meter type has one of, for a reading.

    Args:
        choose: the value, or a column, out of a row.
        prefix: see meter_type_of.
    """
    return _first_that_holds(lambda row: F.col(f"{prefix}{row.usage.name}").isNotNull(), choose)


def of_meter_type(choose: Callable[[MeterTypeRow], Any]) -> Column:
    """A value that each meter type has one of, for a row with `meter_type`.

    Args:
        choose: the value, or a column, out of a row.
    """
    return _first_that_holds(_is_of, choose)


def columns_of_types(name: Callable[[MeterTypeRow], str | None], value: Column) -> list[Column]:
    """A column for each meter type that has one, by their names: the value where `meter_type` is that type, else null.

    Args:
        name: of the type's column, None where it has none.
        value: the same for all types.
    """
    return [F.when(_is_of(row), value).alias(column) for column, row in by_column(name)]


def _is_of(row: MeterTypeRow) -> Column:
    return F.col("meter_type") == str(row.meter_type)


def _first_that_holds(holds: Callable[[MeterTypeRow], Column], choose: Callable[[MeterTypeRow], Any]) -> Column:
    *others, last = METER_TYPES.values()
    return reduce(
        lambda rest, row: F.when(holds(row), _column(choose(row))).otherwise(rest),
        reversed(others),
        _column(choose(last)),
    )


def _column(value: Any) -> Column:
    return value if isinstance(value, Column) else F.lit(value)
