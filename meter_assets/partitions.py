"""The one partitions definition: the city's local days.

Its zone and first day are settings. A day is a partition once it is complete: the newest one is yesterday.
"""

import dagster as dg

from metering.calendar import Day, dates_between, local_day
from metering.settings import load_settings

LOCAL_DAY_PARTITIONS = dg.DailyPartitionsDefinition(
    start_date=load_settings().first_day.isoformat(), timezone=load_settings().timezone
)


def days_between(window: dg.TimeWindow) -> list[Day]:
    """The local days of a partition time window, as dates with their UTC bounds; 23 to 25 hours each."""
    zone = load_settings().zone
    first, end = (bound.astimezone(zone).date() for bound in (window.start, window.end))
    return [local_day(day, zone) for day in dates_between(first, end)]
