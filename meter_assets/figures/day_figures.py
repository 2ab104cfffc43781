"""What was computed of one local day before it is published: the input of the checks and of the UI's metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from metering.meter_types import METER_TYPES

Document = dict[str, Any]


@dataclass(frozen=True)
class DayFigures:
    """One day.

    Args:
        day: its date.
        start: its first instant.
        end: the first instant after it; 23 to 25 hours later.
        profile: rows of hourly_profile.hourly_profile.
        documents: documents to publish, by asset; only of the assets that are computed.
    """

    day: date
    start: datetime
    end: datetime
    profile: list[Document] = field(default_factory=list)
    documents: Mapping[str, list[Document]] = field(default_factory=dict)

    @property
    def hours(self) -> int:
        """How many hours the day has."""
        return round((self.end - self.start).total_seconds() / 3600)

    @property
    def readings(self) -> int:
        """All readings of the day, faulty ones included."""
        return sum(hour["readings"] + hour["faulty_readings"] for hour in self.profile)


def total(document: Document) -> float:
    """A document's consumption in its own unit, 0 without any."""
    return document[METER_TYPES[document["meter_type"]].total_column] or 0.0
