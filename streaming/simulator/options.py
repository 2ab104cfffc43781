"""What a simulation may be asked for, checked, and the stretch of time that its history covers."""

import re
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta

from metering.calendar import local_midnight
from metering.errors import MetersError
from metering.settings import Settings

DAY_SECONDS = 86_400
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": DAY_SECONDS}


def parse_interval(text: str) -> int:
    """Seconds of an interval written like 30s, 15m, 1h or 1d.

    Raises:
        MetersError: it is not written so, or is not between one second and one day.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    seconds = int(match[1]) * _UNIT_SECONDS[match[2]] if match else 0
    if not 0 < seconds <= DAY_SECONDS:
        raise MetersError(f"'{text}' is no interval", fix="Write one from 1s to 1d, like 30s, 15m or 1h")
    return seconds


@dataclass(frozen=True, kw_only=True)
class SimulationOptions:
    """Everything that decides the bytes of a simulation, besides the city and its time zone.

    Args:
        seed: another seed is another course of events.
        interval_seconds: time between two readings of a meter, and what their usage covers; up to a day.
        days: complete local days of history.
        until: the history ends at the beginning of this local day; None is today.
        fault_rate: share of readings with which a meter reports its own fault.
        late_rate: share of readings sent hours of simulated time after they were due.
        out_of_order_rate: share of readings sent right after their meter's next one.
        duplicate_rate: share of readings of which the very same bytes are sent again.
        conflict_rate: share of readings followed by another payload with the same identity.
        garbage_rate: malformed messages for each reading.

    Raises:
        MetersError: a value is out of its range.
    """

    seed: int = 1
    interval_seconds: int = 900
    days: int = 1
    until: date | None = None
    fault_rate: float = 0.01
    late_rate: float = 0.01
    out_of_order_rate: float = 0.01
    duplicate_rate: float = 0.005
    conflict_rate: float = 0.0
    garbage_rate: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.interval_seconds <= DAY_SECONDS:
            raise MetersError(f"An interval of {self.interval_seconds} s is not between one second and one day")
        if self.days < 1:
            raise MetersError(f"A history of {self.days} days is none", fix="Ask for at least 1 day")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_rate") and not 0 <= value <= 1:
                raise MetersError(f"{field.name} is {value}", fix="Rates go from 0 to 1")
        if self.late_rate + self.out_of_order_rate > 1:
            raise MetersError("late_rate and out_of_order_rate are more than 1 together")


def history_window(settings: Settings, options: SimulationOptions) -> tuple[datetime, datetime]:
    """Beginning and end of the history: local midnights, in the city's zone.

    Raises:
        MetersError: it would end in the future, or begin before `settings.first_day`.
    """
    zone = settings.zone
    today = datetime.now(zone).date()
    until = options.until or today
    if until > today:
        raise MetersError(f"The history would end in the future, at {until}", fix=f"Choose at most {today}")
    if (until - settings.first_day).days < options.days:
        raise MetersError(
            f"{options.days} days before {until} begin before the first day, {settings.first_day}",
            fix="Ask for fewer days, a later end or set METERS_FIRST_DAY",
        )
    first = until - timedelta(days=options.days)
    return local_midnight(first, zone), local_midnight(until, zone)
