"""The fault event: what the router says on `iot-abnormal` about one faulty reading, and how MongoDB keeps it.

One event a reading: its id is the reading's, so an event that is sent again, after a crash or because the reading was
sent twice, is recognised as the same.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from metering.meter_types import METER_TYPES, MeterType
from metering.reading import MAX_MESSAGE_BYTES, DeviceId

MAX_EVENT_BYTES = 16 * MAX_MESSAGE_BYTES
"""A payload may grow sixfold as a JSON string (`\\u0001`), and the rules add some 2 KiB."""


class Severity(StrEnum):
    """How bad a fault is; the worst first."""

    CRITICAL = "critical"
    WARNING = "warning"


class BrokenRule(BaseModel):
    """One rule that the reading breaks."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: str = Field(max_length=64)
    version: int
    severity: str = Field(pattern="^(critical|warning)$")
    explanation: str = Field(max_length=500)


class Source(BaseModel):
    """Where the reading's message stands."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    topic: str
    partition: int
    offset: int


class FaultEvent(BaseModel):
    """A faulty reading, the rules it breaks, and its original message."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    event_id: str = Field(max_length=128, description="The reading's id: <timestamp ISO UTC>|<device_id>.")
    device_id: DeviceId
    timestamp: AwareDatetime = Field(strict=False)
    meter_type: MeterType = Field(strict=False)
    severity: Severity = Field(strict=False, description="That of the worst rule.")
    rules: list[BrokenRule] = Field(min_length=1, max_length=20)
    payload: str = Field(max_length=MAX_MESSAGE_BYTES, description="The meter's message, untouched.")
    received_at: AwareDatetime = Field(strict=False, description="When the broker had received the message.")
    source: Source


def parse_fault_event(message: bytes) -> FaultEvent:
    """Parse one message value of `iot-abnormal`.

    Raises:
        pydantic.ValidationError: it is no fault event.
    """
    return FaultEvent.model_validate_json(message)


def fault_document(event: FaultEvent) -> dict[str, Any]:
    """The event as MongoDB keeps it in `iot-abnormal`."""
    fields = event.model_dump()
    return {
        "_id": fields.pop("event_id"),
        **fields,
        "meter_type": str(event.meter_type),
        "severity": str(event.severity),
        "timestamp": _milliseconds(event.timestamp),
        "received_at": _milliseconds(event.received_at),
    }


def _milliseconds(instant: datetime) -> datetime:
    instant = instant.astimezone(UTC)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


FAULT_DOCUMENT_SCHEMA: dict[str, Any] = {
    "bsonType": "object",
    "required": ["_id", "device_id", "timestamp", "meter_type", "severity", "rules", "payload", "received_at"],
    "properties": {
        "_id": {"bsonType": "string"},
        "device_id": {"bsonType": "string"},
        "timestamp": {"bsonType": "date"},
        "meter_type": {"enum": list(METER_TYPES)},
        "severity": {"enum": [str(severity) for severity in Severity]},
        "rules": {"bsonType": "array", "minItems": 1},
        "payload": {"bsonType": "string"},
        "received_at": {"bsonType": "date"},
        "stored_at": {"bsonType": "date"},
    },
}
"""The stored fault as a MongoDB `$jsonSchema`."""
