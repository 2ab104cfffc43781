"""What a healthy meter reports at an instant: daily and weekly shape, level of its household, chance.

Pure: the same seed, meter, instant and interval give the same reading in every process and on every machine. Faults
are put in by streaming/simulator/fault_plan.py, sending is done elsewhere.

A reading's timestamp is the beginning of its interval, so a local day's readings add up to what that day used.
"""

import math
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from hashlib import blake2b
from typing import Any
from zoneinfo import ZoneInfo

from metering.meter_types import FAULT_SIGN, METER_TYPES, MeterType
from metering.reading import iso_utc
from metering.registry import UNASSIGNED, Meter

SLOT_SECONDS = 900
"""Resolution of the daily shape."""
SLOTS_PER_DAY = 86_400 // SLOT_SECONDS

AWAY_SHARE = 0.03
"""Share of a household's days on which nobody is at home."""
AWAY_LEVEL = 0.3

_MASK = (1 << 64) - 1
_BITS = 20
_SCALE = 1.0 / (1 << _BITS)
_LOW = (1 << _BITS) - 1


def stable_hash(text: str) -> int:
    """64 bits that depend on the text alone; the built-in hash() changes from process to process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def mix(key: int, number: int) -> int:
    """64 well-mixed bits out of a key and a counter (the finalizer of splitmix64)."""
    x = (key + number * 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@dataclass(frozen=True, slots=True)
class Instant:
    """One point in time, with everything about it that all meters of a round share."""

    epoch: int
    text: str
    day: str
    day_number: int
    weekend: bool
    slot: int

    @classmethod
    def at(cls, epoch: int, zone: ZoneInfo) -> "Instant":
        """The instant at `epoch` (whole seconds since 1970), on the clocks of `zone`."""
        moment = datetime.fromtimestamp(epoch, UTC)
        local = moment.astimezone(zone)
        day: date = local.date()
        return cls(
            epoch=epoch,
            text=iso_utc(moment),
            day=day.isoformat(),
            day_number=day.toordinal(),
            weekend=day.weekday() >= 5,
            slot=(local.hour * 3600 + local.minute * 60 + local.second) // SLOT_SECONDS,
        )


def _bump(hour: float, centre: float, width_hours: float) -> float:
    distance = (hour - centre + 12) % 24 - 12
    return math.exp(-0.5 * (distance / width_hours) ** 2)


@dataclass(frozen=True)
class _Habits:
    """When a household is up and at home; both of its meters follow it."""

    level: float
    wake_hour: float
    home_hour: float
    weekend_wake_hour: float
    base_watts: float

    @classmethod
    def of(cls, seed: int, household: str) -> "_Habits":
        chance = random.Random(f"{seed}|habits|{household}")  # noqa: S311 - reproducible, no secret
        return cls(
            level=min(2.5, max(0.4, chance.lognormvariate(0.0, 0.35))),
            wake_hour=chance.uniform(6.25, 8.0),
            home_hour=chance.uniform(18.5, 20.5),
            weekend_wake_hour=chance.uniform(9.0, 10.5),
            base_watts=chance.uniform(60.0, 140.0),
        )

    def watts(self, hour: float, weekend: bool) -> float:
        """Mean electric power at a local hour."""
        if weekend:
            active = 400 * _bump(hour, self.weekend_wake_hour, 1.3) + 300 * _bump(hour, 14.0, 2.5)
        else:
            active = 600 * _bump(hour, self.wake_hour, 0.8) + 60 * _bump(hour, 13.0, 3.0)
        return self.base_watts + self.level * (active + 1100 * _bump(hour, self.home_hour, 1.7))

    def litres_an_hour(self, hour: float, weekend: bool) -> float:
        """Mean water use at a local hour; next to nothing while everybody sleeps or is out."""
        if weekend:
            active = 32 * _bump(hour, self.weekend_wake_hour, 1.2) + 9 * _bump(hour, 14.5, 2.5)
        else:
            active = 45 * _bump(hour, self.wake_hour, 0.7) + 3 * _bump(hour, 13.0, 2.0)
        return 0.2 + self.level * (active + 28 * _bump(hour, self.home_hour + 0.75, 1.5))


@dataclass(frozen=True)
class Behaviour:
    """How the meters of one type count what a household uses.

    Args:
        use: mean use in an hour of a household, at a local hour, on a weekend or not.
        steps_per_use: steps of the counter for each of those.
        thousandths_per_step: how many thousandths of the meter type's unit a step is.
        spread: out of a chance in [0, 1), how much the use of one interval is of the mean; 1 on average.
    """

    use: Callable[[_Habits, float, bool], float]
    steps_per_use: int
    thousandths_per_step: int
    spread: Callable[[float], float]


BEHAVIOURS = {
    MeterType.ELECTRICITY: Behaviour(
        use=_Habits.watts, steps_per_use=1, thousandths_per_step=1, spread=lambda chance: 0.6 + 0.8 * chance
    ),
    # Taps are shut most of the time: the square makes many small readings and a few large ones.
    MeterType.WATER: Behaviour(
        use=_Habits.litres_an_hour,
        steps_per_use=10,
        thousandths_per_step=100,
        spread=lambda chance: 3.0 * chance * chance,
    ),
}


def _daily_shape(rate: Callable[[float, bool], float], weekend: bool, interval_seconds: int) -> array:
    """Mean rate in the interval that begins in each slot of a day."""
    slots = [rate((slot + 0.5) * 24 / SLOTS_PER_DAY, weekend) for slot in range(SLOTS_PER_DAY)]
    span = max(1, round(interval_seconds / SLOT_SECONDS))
    if span == 1:
        return array("d", slots)
    wrapped = slots + slots[: span - 1]
    return array("d", (sum(wrapped[slot : slot + span]) / span for slot in range(SLOTS_PER_DAY)))


class MeterModel:
    """The readings of one meter.

    Args:
        seed: the simulation's.
        meter: the meter; its household decides its habits.
        interval_seconds: length of the interval that a reading's usage covers.
    """

    def __init__(self, seed: int, meter: Meter, interval_seconds: int) -> None:
        self.device_id = meter.device_id
        row = METER_TYPES[meter.meter_type]
        self._usage, self._rate, self._fault_field = row.usage.name, row.rate and row.rate.name, row.fault_field
        self._behaviour = BEHAVIOURS[meter.meter_type]
        household = meter.device_id if meter.household_id == UNASSIGNED else meter.household_id
        habits = _Habits.of(seed, household)
        use = partial(self._behaviour.use, habits)
        self._shapes = tuple(_daily_shape(use, weekend, interval_seconds) for weekend in (False, True))
        self._key = stable_hash(f"{seed}|meter|{meter.device_id}")
        self._household_key = stable_hash(f"{seed}|household|{household}")
        self._hours = interval_seconds / 3600
        self._minutes = interval_seconds / 60
        self._day_number = 0
        self._day_level = 1.0

    def read(self, instant: Instant) -> tuple[int, int]:
        """Usage of the interval in thousandths of the unit, and the rate in hundredths of its unit, 0 without one.

        Rounding goes up or down by chance, so that short intervals keep the right sum instead of losing everything
        below half a step.
        """
        if instant.day_number != self._day_number:
            self._begin_day(instant.day_number)
        bits = mix(self._key, instant.epoch)
        chance = (bits & _LOW) * _SCALE
        rounding = (bits >> _BITS & _LOW) * _SCALE
        mean = self._shapes[instant.weekend][instant.slot] * self._day_level * self._hours
        behaviour = self._behaviour
        steps = int(mean * behaviour.steps_per_use * behaviour.spread(chance) + rounding)
        amount = steps * behaviour.thousandths_per_step
        if not self._rate:
            return amount, 0
        moment = 0.5 + (bits >> 2 * _BITS & _LOW) * _SCALE
        return amount, int(amount // 10 / self._minutes * moment)

    def _begin_day(self, day_number: int) -> None:
        bits = mix(self._household_key, day_number)
        away = (bits & _LOW) * _SCALE < AWAY_SHARE
        self._day_level = AWAY_LEVEL if away else 0.8 + 0.4 * (bits >> _BITS & _LOW) * _SCALE
        self._day_number = day_number

    def fields(self, instant: Instant, amount: int, rate: int, *, faulty: bool) -> dict[str, Any]:
        """The message for what `read` gave; a faulty meter writes the fault sign over its measurement."""
        fields: dict[str, Any] = {
            "device_id": self.device_id,
            "timestamp": instant.text,
            self._usage: amount / 1000,
        }
        if self._rate:
            fields[self._rate] = rate / 100
        if faulty:
            fields[self._fault_field] = FAULT_SIGN
        return fields
