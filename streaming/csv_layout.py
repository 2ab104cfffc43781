"""What a CSV file of readings looks like: columns, time format, zone and unit; with presets for well-known data sets.

Units with their formulas are here too. Reading files is not (csv_source.py), nor building messages (csv_readings.py).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from metering.errors import MetersError
from metering.reading import DEVICE_ID_PATTERN, MeterType

ISO = "iso"
"""Time format of ISO 8601 texts, with or without an offset."""

LONGEST_INTERVAL_SECONDS = 86_400


_DEVICE_ID = re.compile(DEVICE_ID_PATTERN)


def is_device_id(text: str) -> bool:
    """Whether the message contract takes this device id."""
    return _DEVICE_ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Unit:
    """A unit of usage: usage in the meter type's own unit (kWh, L) is `value * numerator / denominator`.

    Args:
        meter_type: which meters use it.
        numerator: see above.
        denominator: see above; numerator and denominator apart, since dividing by 1000 rounds better than times 0.001.
        averaged: the value is a power averaged over the interval: usage is that times the interval in seconds.
        formula: the same for people.
    """

    meter_type: MeterType
    numerator: float
    denominator: float
    formula: str
    averaged: bool = False


_E, _W = MeterType.ELECTRICITY, MeterType.WATER

UNITS: dict[str, Unit] = {
    "kWh": Unit(_E, 1, 1, "kWh"),
    "Wh": Unit(_E, 1, 1000, "kWh = Wh / 1000"),
    "MWh": Unit(_E, 1000, 1, "kWh = MWh * 1000"),
    "MJ": Unit(_E, 1, 3.6, "kWh = MJ / 3.6"),
    "kW": Unit(_E, 1, 3600, "kWh = kW * interval in s / 3600", averaged=True),
    "W": Unit(_E, 1, 3_600_000, "kWh = W * interval in s / 3,600,000", averaged=True),
    "L": Unit(_W, 1, 1, "L"),
    "m3": Unit(_W, 1000, 1, "L = m3 * 1000"),
    "gal": Unit(_W, 3.785411784, 1, "L = US gallons * 3.785411784 (exact by definition)"),
    "gal-imp": Unit(_W, 4.54609, 1, "L = imperial gallons * 4.54609 (exact by definition)"),
    "ft3": Unit(_W, 28.316846592, 1, "L = cubic feet * 28.316846592 (exact by definition)"),
}


@dataclass(frozen=True, kw_only=True)
class CsvLayout:
    """Where a file keeps its readings.

    Args:
        meter_type: electricity or water.
        time_columns: columns that make up the time, joined by a space.
        value_column: usage in the interval that ends (or begins) at the time, in `unit`.
        unit: a key of UNITS.
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
        unit = UNITS.get(self.unit)
        if unit is None or unit.meter_type != self.meter_type:
            usable = ", ".join(name for name, unit in UNITS.items() if unit.meter_type == self.meter_type)
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
    def columns(self) -> tuple[str, ...]:
        """Every column that the file must have."""
        named = (self.device_column, *self.time_columns, self.value_column, self.register_column, self.household_column)
        return tuple(column for column in named if column is not None)


PRESETS: dict[str, CsvLayout] = {
    # DAIAD trial A, Alicante: about hourly, litres since the last reading and the cumulative counter.
    "daiad": CsvLayout(
        meter_type=MeterType.WATER,
        device_column="user key",
        time_columns=("datetime",),
        time_format="%d/%m/%Y %H:%M:%S",
        timezone="Europe/Madrid",
        value_column="diff",
        register_column="meter reading",
        unit="L",
        separator=";",
        interval_seconds=3600,
    ),
    # Smart-Grid Smart-City, New South Wales: 48 slots every day of the year, hence standard time without summer time.
    "sgsc": CsvLayout(
        meter_type=MeterType.ELECTRICITY,
        device_column="customer_id",
        household_column="customer_id",
        time_columns=("reading_datetime",),
        timezone="+10:00",
        value_column="general_supply_kwh",
        unit="kWh",
        interval_seconds=1800,
    ),
    # UCI household near Paris: kW averaged over each minute; '?' where nothing was measured.
    "uci": CsvLayout(
        meter_type=MeterType.ELECTRICITY,
        device_id="uci-household-1",
        time_columns=("Date", "Time"),
        time_format="%d/%m/%Y %H:%M:%S",
        timezone="Europe/Paris",
        value_column="Global_active_power",
        unit="kW",
        separator=";",
        interval_seconds=60,
        missing=frozenset({"", "?"}),
    ),
}


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
