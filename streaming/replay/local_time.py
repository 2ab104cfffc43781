"""Local clock times of a file as instants in UTC: time zones by name or offset, doubled and missing hours.

Only the resolution lives here; which text holds a time, and in which format, is known by csv_layout.py.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metering.errors import MetersError

_OFFSET = re.compile(r"([+-])(\d{2}):?(\d{2})")


def parse_zone(name: str) -> tzinfo:
    """The zone of an IANA name (Europe/Madrid) or of a fixed offset (+10:00), the latter without summer time.

    Raises:
        MetersError: it is neither.
    """
    if match := _OFFSET.fullmatch(name):
        sign, hours, minutes = match.groups()
        if int(hours) < 24 and int(minutes) < 60:
            offset = timedelta(hours=int(hours), minutes=int(minutes))
            return timezone(-offset if sign == "-" else offset)
    else:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of the zone database, like "Europe"
            pass
    raise MetersError(f"'{name}' is no time zone", fix="Write an IANA name like Europe/Madrid or an offset like +10:00")


def to_instant(time: datetime, zone: tzinfo, after: datetime | None = None) -> datetime:
    """The instant in UTC that a clock in `zone` meant, to the millisecond.

    A doubled local time (clocks go back) is the earliest of its two instants that is later than `after`, the meter's
    own previous row; if neither is, the first, so that a true repetition stays a repetition. A missing local time
    (clocks go forward) is read with the offset from before the change, as zoneinfo does for fold=0: 02:30 becomes
    03:30 summer time. A time that carries its own offset needs no zone.
    """
    if time.microsecond:
        # The contract keeps milliseconds: two rows that differ by less are the same instant here as well.
        time = time.replace(microsecond=time.microsecond // 1000 * 1000)
    if time.tzinfo is not None:
        return time.astimezone(UTC)
    # No cache: two look-ups cost under a microsecond, and some zones change at 00:01, so no hour is safe to share.
    local = time.replace(tzinfo=zone)
    offset = local.utcoffset() or timedelta()
    later_offset = local.replace(fold=1).utcoffset() or timedelta()
    utc = time.replace(tzinfo=UTC)
    if later_offset < offset and after is not None and utc - offset <= after < utc - later_offset:
        return utc - later_offset
    return utc - offset
