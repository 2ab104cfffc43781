"""What a replay remembers of each meter, in small and bounded state: its last instants and its usual interval."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

USUAL_INTERVALS_SECONDS = (60, 300, 600, 900, 1800, 3600, 86_400)

_NEAR = 0.05  # of the usual interval: real meters drift by some seconds, yet mean the hour
_GAPS_KEPT = 16


@lru_cache(maxsize=4096)
def snap_interval(seconds: int) -> int:
    """The usual interval within 5 % of this one, or this one."""
    for usual in USUAL_INTERVALS_SECONDS:
        if abs(seconds - usual) <= usual * _NEAR:
            return usual
    return seconds


class GapCounter:
    """The most common gaps, by the Misra-Gries rule: exact for whatever makes up more than a 17th of all gaps."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, seconds: int) -> None:
        """Count one gap, as the usual interval it comes near to."""
        gap = snap_interval(seconds)
        counts = self._counts
        if gap in counts:
            counts[gap] += 1
        elif len(counts) < _GAPS_KEPT:
            counts[gap] = 1
        else:
            self._counts = {gap: count - 1 for gap, count in counts.items() if count > 1}

    def usual(self) -> int | None:
        """The most common gap in seconds, the shortest of several; None without any gap."""
        return usual_gap([self])

    @property
    def counts(self) -> dict[int, int]:
        """Gap in seconds to how often it was seen, at least."""
        return self._counts


def usual_gap(counters: Iterable[GapCounter]) -> int | None:
    """The most common gap of all counters together, the shortest of several; None without any gap."""
    total: Counter[int] = Counter()
    for counter in counters:
        total.update(counter.counts)
    return min(total, key=lambda gap: (-total[gap], gap)) if total else None


class MeterTrack:
    """One meter's way through the file."""

    __slots__ = ("_base", "_base_before", "_previous_row", "clock", "first", "gaps", "household", "last")

    def __init__(self) -> None:
        self.clock: datetime | None = None
        """Latest instant of any row, also of one without a value: its clock was running."""
        self.first: datetime | None = None
        """Earliest instant of a reading."""
        self.last: datetime | None = None
        """Latest instant of a reading."""
        self.household = ""
        self.gaps = GapCounter()
        self._base: datetime | None = None  # the reading before `last`
        self._base_before: datetime | None = None  # and the one before that
        self._previous_row: datetime | None = None

    def base_of(self, instant: datetime) -> datetime | None:
        """Instant of the reading that this one counts from; None where it is unknown.

        A repeated instant keeps its base, so that an exact repetition makes an exactly equal message. That also holds
        for the last reading but one, for a row repeated a third time in the doubled hour.
        """
        if self.last is None or instant > self.last:
            return self.last
        if instant == self.last:
            return self._base
        if instant == self._base:
            return self._base_before
        return None  # late and out of order: what came before it is forgotten

    def saw(self, instant: datetime) -> None:
        """A row of this meter had this time, whether or not it had a value."""
        if self.clock is None or instant > self.clock:
            self.clock = instant

    def accept(self, instant: datetime) -> None:
        """A reading of this meter was taken over."""
        self.saw(instant)
        if self._previous_row is not None:
            # Files sorted newest first teach the interval as well.
            seconds = round(abs((instant - self._previous_row).total_seconds()))
            if seconds:
                self.gaps.add(seconds)
        self._previous_row = instant
        if self.last is None or instant > self.last:
            self._base_before, self._base, self.last = self._base, self.last, instant
        if self.first is None or instant < self.first:
            self.first = instant
