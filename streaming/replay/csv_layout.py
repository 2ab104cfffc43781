"""What a CSV file of readings looks like: columns, time format, zone and unit. Known data sets: csv_presets.py.

The units are in metering/meter_types.py. Reading files is done in csv_source.py, building messages in csv_readings.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from metering.errors import MetersError
from metering.meter_types import METER_TYPES, MeterType, UsageUnit
from metering.reading import DEVICE_ID_PATTERN

ISO = "iso"
"""Time format of ISO 8601 texts, with or without an offset."""

LONGEST_INTERVAL_SECONDS = 86_400


_DEVICE_ID = re.compile(DEVICE_ID_PATTERN)


def is_device_id(text: str) -> bool:
    """Whether the message contract takes this device id."""
    return _DEVICE_ID.fullmatch(text) is not None


UNIT_NAMES = tuple(dict.fromkeys(unit.name for row in METER_TYPES.values() for unit in row.units))
"""Units of any meter type."""


def types_with_unit(name: str) -> list[MeterType]:
    """The meter types whose usage files may state in that unit."""
    return [row.meter_type for row in METER_TYPES.values() if any(unit.name == name for unit in row.units)]


@dataclass(frozen=True, kw_only=True)
class CsvLayout:
    """Where a file keeps its readings.

    Args:
        meter_type: what the meters measure.
        time_columns: columns that make up the time, joined by a space.
        value_column: usage in the interval that ends (or begins) at the time, in `unit`.
        unit: the name of one of the meter type's units.
        timezone: zone of times that carry no offset: an IANA name or a fixed offset like +10:00.
        device_column: column of the meter's id; or else
        device_id: the one meter of the file.
        time_format: strptime format, or "iso".
        register_column: cumulative counter in the same unit; none by default.
        household_column: household of the meter, for the registry; none by default.
        separator: between two cells.
        decimal: decimal mark of numbers.
        interval_seconds: usual time between two readings of a meter; None: learned from the file's first rows.
        missing: cells of the value column that mean "the meter reported nothing".

    Raises:
        MetersError: the parts do not fit together.
    """

    meter_type: MeterType
    time_columns: tuple[str, ...]
    value_column: str
    unit: str
    timezone: str = "UTC"
    device_column: str | None = None
    device_id: str | None = None
    time_format: str = ISO
    register_column: str | None = None
    household_column: str | None = None
    separator: str = ","
    decimal: str = "."
    interval_seconds: int | None = None
    missing: frozenset[str] = frozenset({""})

    def __post_init__(self) -> None:
        units = METER_TYPES[self.meter_type].units
        unit = next((each for each in units if each.name == self.unit), None)
        if unit is None:
            usable = ", ".join(each.name for each in units)
            raise MetersError(f"'{self.unit}' is no unit of {self.meter_type} usage", fix=f"Choose one of: {usable}")
        if (self.device_column is None) == (self.device_id is None):
            raise MetersError("A file's meters are named either by a column or by one id for the whole file")
        if self.device_id is not None and not is_device_id(self.device_id):
            raise MetersError(f"'{self.device_id}' is no device id", fix="Use letters, digits and _ . : - (64 at most)")
        if unit.averaged and self.register_column is not None:
            raise MetersError(f"A register cannot be in {self.unit}, which is a power", fix="Leave out the register")
        if len(self.separator) != 1 or self.separator in '"\r\n' or self.separator == self.decimal:
            raise MetersError("The separator is one character, and no quote or decimal mark")
        if len(self.decimal) != 1 or self.decimal not in ".,":
            raise MetersError("The decimal mark is . or ,")
        if not self.time_columns or not all(self.time_columns):
            raise MetersError("The time needs a column, or two as in Date,Time")
        if self.interval_seconds is not None and not 0 < self.interval_seconds <= LONGEST_INTERVAL_SECONDS:
            raise MetersError(f"The interval is between 1 and {LONGEST_INTERVAL_SECONDS} seconds")

    @property
    def usage_unit(self) -> UsageUnit:
        """The unit with its formula."""
        return next(each for each in METER_TYPES[self.meter_type].units if each.name == self.unit)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that the file must have."""
        named = (self.device_column, *self.time_columns, self.value_column, self.register_column, self.household_column)
        return tuple(column for column in named if column is not None)


def _day_month_year(text: str) -> datetime:
    # strptime takes 6 µs a row, this 0.3: a preset's files are long. Whatever looks unusual goes to strptime.
    if len(text) == 19 and text[2] == text[5] == "/" and text[10] == " ":
        try:
            time = datetime.fromisoformat(f"{text[6:10]}-{text[3:5]}-{text[0:2]}T{text[11:]}")
        except ValueError:
            pass
        else:
            if time.tzinfo is None:  # "10:28+01" is as long as "10:28:01"
                return time
    return datetime.strptime(text, "%d/%m/%Y %H:%M:%S")  # noqa: DTZ007 the zone is applied by local_time.py


def time_parser(time_format: str) -> Callable[[str], datetime]:
    """The function that reads a time in this format; it raises ValueError for anything else."""
    if time_format == ISO:
        return datetime.fromisoformat
    if time_format == "%d/%m/%Y %H:%M:%S":
        return _day_month_year
    return lambda text: datetime.strptime(text, time_format)  # noqa: DTZ007 the zone is applied by local_time.py
