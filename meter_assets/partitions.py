"""The one partitions definition: the city's local days.

Its zone and first day are settings. A day is a partition once it is complete: the newest one is yesterday.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

import dagster as dg

from meter_assets.transforms.readings import Day
from metering.settings import load_settings

LOCAL_DAYS = dg.DailyPartitionsDefinition(
    start_date=load_settings().first_day.isoformat(), timezone=load_settings().timezone
)


def days_between(window: dg.TimeWindow) -> list[Day]:
    """The local days of a partition time window, as dates with their UTC bounds; 23 to 25 hours each."""
    zone = load_settings().zone
    return [local_day(day) for day in _dates(window.start.astimezone(zone).date(), window.end.astimezone(zone).date())]


def _dates(first: date, end: date) -> Iterator[date]:
    while first < end:
        yield first
        first += timedelta(days=1)


def local_day(day: date) -> Day:
    """The city's local day of that date, with its UTC bounds."""

    def midnight(day: date) -> datetime:
        return datetime.combine(day, time(), load_settings().zone).astimezone(UTC)

    return day, midnight(day), midnight(day + timedelta(days=1))
