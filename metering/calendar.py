"""The calendar: local days of a zone, as dates with their bounds as instants."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import NamedTuple


class Day(NamedTuple):
    """A local day.

    Args:
        date: its date.
        start: its first instant, UTC.
        end: the first instant after it, UTC; 23 to 25 hours later.
    """

    date: date
    start: datetime
    end: datetime


def local_midnight(day: date, zone: tzinfo) -> datetime:
    """The first instant of that date in the zone, as a time of the zone."""
    return datetime.combine(day, time(), zone)


def local_day(day: date, zone: tzinfo) -> Day:
    """The local day of that date in the zone."""
    return Day(day, *(local_midnight(each, zone).astimezone(UTC) for each in (day, day + timedelta(days=1))))


def dates_between(first: date, end: date) -> Iterator[date]:
    """The dates in [first, end)."""
    while first < end:
        yield first
        first += timedelta(days=1)
