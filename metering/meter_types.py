"""The meter types: one row for each, with everything in which they differ. A new meter type begins with a row here.

The message contract, the fault rules, the columns of the daily tables, the CSV units, the simulator and the dashboards
are made from these rows. Two things about a meter type are not data and stand elsewhere: how the simulator's meters
behave (streaming/simulator/meter_model.py), and the presets of known data sets (streaming/replay/csv_presets.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import itemgetter

FAULT_SIGN = -1
"""What a meter writes into its fault field to report its own fault."""

DEFAULT_LOWER_BOUND = 0.0
"""What an interval carries at least where the registry names no bound, in the meter type's unit."""


class MeterType(StrEnum):
    """What a meter measures."""

    ELECTRICITY = "electricity"
    WATER = "water"


@dataclass(frozen=True)
class AmountField:
    """A field of a message that holds an amount.

    Args:
        name: in messages, in MongoDB and in the lake.
        title: in tables for people.
        unit: of the amount.
        meaning: for people, in the JSON Schema and in the UI.
    """

    name: str
    title: str
    unit: str
    meaning: str


@dataclass(frozen=True)
class UsageUnit:
    """A unit in which files may state usage: usage in the meter type's unit is `value * numerator / denominator`.

    Args:
        name: on the command line.
        numerator: see above.
        denominator: see above; numerator and denominator apart, since dividing by 1000 rounds better than times 0.001.
        formula: the same for people.
        averaged: the value is a power averaged over the interval: usage is that times the interval in seconds.
    """

    name: str
    numerator: float
    denominator: float
    formula: str
    averaged: bool = False


@dataclass(frozen=True, kw_only=True)
class MeterTypeRow:
    """One meter type.

    Args:
        meter_type: its name.
        amounts: fields of a message beside device, time and register; the first one is the usage of the interval,
            which also tells the type of a message, and the second, if there is one, the rate at that instant.
        fault_field: the one of them in which a meter writes FAULT_SIGN.
        upper_bound_per_hour: usage in an hour at most, where the registry names no bound.
        total_column: column of the daily tables with the day's sum.
        mean_column: column of daily_averages with the mean usage of a reading.
        mean_rate_column: column of daily_averages with the mean rate, where the type has one.
        device_prefix: how the simulator's device ids begin.
        colour: in charts.
        units: in which files may state usage, the type's own unit first.
    """

    meter_type: MeterType
    amounts: tuple[AmountField, ...]
    fault_field: str
    upper_bound_per_hour: float
    total_column: str
    mean_column: str
    mean_rate_column: str | None = None
    device_prefix: str
    colour: str
    units: tuple[UsageUnit, ...]

    @property
    def title(self) -> str:
        """Its name at the beginning of a sentence."""
        return self.meter_type.capitalize()

    @property
    def usage(self) -> AmountField:
        """The field with the usage of the interval."""
        return self.amounts[0]

    @property
    def unit(self) -> str:
        """Unit of the usage."""
        return self.usage.unit

    @property
    def rate(self) -> AmountField | None:
        """The field with the rate at the instant of the reading."""
        return self.amounts[1] if len(self.amounts) > 1 else None


_ROWS = (
    MeterTypeRow(
        meter_type=MeterType.ELECTRICITY,
        amounts=(
            AmountField(
                "usage_kwh",
                "Electricity",
                "kWh",
                "kWh used in the reading's interval; -1 is the meter's own fault sign.",
            ),
        ),
        fault_field="usage_kwh",
        # A household's three-phase connection of 63 A at 230 V: 3 x 63 A x 230 V = 43.5 kW.
        upper_bound_per_hour=43.5,
        total_column="total_usage_kwh",
        mean_column="avg_usage_kwh",
        device_prefix="em",
        colour="#c2410c",
        units=(
            UsageUnit("kWh", 1, 1, "kWh"),
            UsageUnit("Wh", 1, 1000, "kWh = Wh / 1000"),
            UsageUnit("MWh", 1000, 1, "kWh = MWh * 1000"),
            UsageUnit("MJ", 1, 3.6, "kWh = MJ / 3.6"),
            UsageUnit("kW", 1, 3600, "kWh = kW * interval in s / 3600", averaged=True),
            UsageUnit("W", 1, 3_600_000, "kWh = W * interval in s / 3,600,000", averaged=True),
        ),
    ),
    MeterTypeRow(
        meter_type=MeterType.WATER,
        amounts=(
            AmountField(name="usage", title="Water", unit="L", meaning="Litres used in the reading's interval."),
            AmountField(
                name="flow_rate",
                title="Flow rate",
                unit="L/min",
                meaning="Litres a minute at that instant; -1 is the meter's own fault sign.",
            ),
        ),
        fault_field="flow_rate",
        # The overload flow Q4 = 5 m3/h of a Q3 4 water meter (ISO 4064-1).
        upper_bound_per_hour=5_000.0,
        total_column="total_usage",
        mean_column="avg_usage",
        mean_rate_column="avg_flow_rate",
        device_prefix="wm",
        colour="#1d4ed8",
        units=(
            UsageUnit("L", 1, 1, "L"),
            UsageUnit("m3", 1000, 1, "L = m3 * 1000"),
            UsageUnit("gal", 3.785411784, 1, "L = US gallons * 3.785411784 (exact by definition)"),
            UsageUnit("gal-imp", 4.54609, 1, "L = imperial gallons * 4.54609 (exact by definition)"),
            UsageUnit("ft3", 28.316846592, 1, "L = cubic feet * 28.316846592 (exact by definition)"),
        ),
    ),
)

METER_TYPES: Mapping[str, MeterTypeRow] = {str(row.meter_type): row for row in _ROWS}
"""The rows by name, in the order in which a message's type is decided: the first whose usage field it has."""

AMOUNT_FIELDS: tuple[AmountField, ...] = tuple(field for row in _ROWS for field in row.amounts)
"""The amounts of all types."""

FAULT_FIELDS: tuple[str, ...] = tuple(row.fault_field for row in _ROWS)
"""Where meters write FAULT_SIGN."""

USAGE_UNITS = " or ".join(row.unit for row in _ROWS)
"""For texts about an amount of any type."""


def by_column(name: Callable[[MeterTypeRow], str | None]) -> list[tuple[str, MeterTypeRow]]:
    """The columns that meter types have for themselves, sorted by name, each with its type.

    Args:
        name: of a type's column, None where it has none.
    """
    named = ((name(row), row) for row in _ROWS)
    return sorted(((column, row) for column, row in named if column), key=itemgetter(0))
