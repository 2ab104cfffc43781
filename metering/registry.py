"""The registry: which meters the city has, of which type, in which household and district, and how often they report.

The model and its storage form; `iot.meters` holds one document a meter. Made-up cities: streaming/simulator/city.py.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pymongo import UpdateOne
from pymongo.database import Database

from metering.meter_types import USAGE_UNITS, MeterType
from metering.reading import DeviceId

METERS = "meters"

UNASSIGNED = "unassigned"
"""Household and district of a meter that the registry cannot place; it keeps sums over districts complete."""


class Meter(BaseModel):
    """One meter of the registry."""

    model_config = ConfigDict(frozen=True)

    device_id: DeviceId
    meter_type: MeterType
    interval_seconds: int = Field(gt=0, le=86_400, description="Usual time between two readings, in seconds.")
    installed_at: datetime = Field(description="When readings are expected from.")
    removed_at: datetime | None = Field(default=None, description="When readings are no longer expected.")
    lower_bound: float | None = Field(default=None, description=f"Least plausible usage in an interval, {USAGE_UNITS}.")
    upper_bound: float | None = Field(default=None, description=f"Most plausible usage in an interval, {USAGE_UNITS}.")
    household_id: str = UNASSIGNED
    household_name: str | None = None
    address: str | None = None
    district: str = UNASSIGNED
    source: str = Field(default="registry", description="Who entered it: simulate, replay or registry.")

    def to_document(self) -> dict[str, Any]:
        """The meter as `iot.meters` keeps it."""
        fields = self.model_dump()
        return {"_id": fields.pop("device_id"), **fields, "meter_type": str(self.meter_type)}


METER_SPARK_SCHEMA = (
    "_id string, meter_type string, interval_seconds int, installed_at timestamp, removed_at timestamp, "
    "household_id string, district string, lower_bound double, upper_bound double"
)
"""What the assets and the fault rules need of a registry entry, as a Spark DDL schema."""


def register_meters(database: Database, meters: Iterable[Meter]) -> int:
    """Enter meters, or bring entries up to date with what their source knows; returns how many are new or changed.

    What a source does not know (no household, no address) leaves standing what another one has entered.
    `installed_at` only ever moves back in time: a second file with older readings widens what is expected.
    """
    operations = []
    for meter in meters:
        document = meter.to_document()
        earliest = {"installed_at": document.pop("installed_at")}
        key = document.pop("_id")
        unknown = {name: value for name, value in document.items() if value in (None, UNASSIGNED)}
        known = {name: value for name, value in document.items() if name not in unknown}
        operations.append(
            UpdateOne({"_id": key}, {"$set": known, "$setOnInsert": unknown, "$min": earliest}, upsert=True)
        )
    if not operations:
        return 0
    result = database[METERS].bulk_write(operations, ordered=False)
    return result.upserted_count + result.modified_count
