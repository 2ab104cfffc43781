"""Raw readings of a day: their metadata for the UI, and their check. They are staged in days/stage.py."""

from typing import Any

from pymongo.database import Database

from meter_assets.figures.check import DayCheck, Finding, evidence_table
from meter_assets.figures.day_figures import DayFigures
from metering.daily_tables import RAW_READINGS
from metering.settings import Settings


def describe(figures: DayFigures) -> dict[str, Any]:
    """Metadata of the day's materialization."""
    return {
        "dagster/partition_row_count": figures.readings,
        "faulty readings": sum(hour["faulty_readings"] for hour in figures.profile),
    }


def _own_day(figures: DayFigures, _: Database, __: Settings) -> Finding:
    strangers = [hour for hour in figures.profile if hour["first_at"] < figures.start or hour["last_at"] >= figures.end]
    says = "every reading is of this day"
    if strangers:
        first, last = min(hour["first_at"] for hour in strangers), max(hour["last_at"] for hour in strangers)
        says = f"readings from {first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ} lie outside the day"
    return Finding(
        not strangers, says, {"hours of another day": evidence_table(strangers), "hours of the day": figures.hours}
    )


CHECKS = (
    DayCheck(RAW_READINGS, "no_reading_of_another_day", "Every reading lies within the local day.", True, _own_day),
)
