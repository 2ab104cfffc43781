"""The message contract: what a meter may send, its JSON Schema, its stored form and its identity.

One definition: ingest validates with it, the simulator and the replayer build with it, and the router's columns, the
schemas of MongoDB and Spark and the published JSON Schema are derived from it. Ingest and the router parse JSON with
different libraries, so the contract takes only what both read alike. Judging whether a reading is faulty is not done
here (see faults.py).
"""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache, reduce
from operator import or_
from typing import Annotated, Any, ClassVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    StringConstraints,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from metering.fields import Field as MessageField
from metering.fields import fields_of
from metering.meter_types import METER_TYPES, MeterType, MeterTypeRow

MAX_MESSAGE_BYTES = 4096
"""A reading is some 100 bytes; whatever is larger than this is no reading and is not even parsed."""

DEVICE_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$"
"""Without '|', which separates the parts of an _id, and without anything that could be a path."""

ID_PATTERN = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{3})?Z\|[A-Za-z0-9]"
"""What an _id looks like, as far as its parts can be told from it."""

TIMESTAMP_PATTERN = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"[Tt _]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.,][0-9]{1,9})?)?"
    r"([Zz]|[+-]((0[0-9]|1[0-7]):?[0-5][0-9]|18:?00))$"
)
"""The forms of ISO 8601 that pydantic and Spark read alike, in ASCII. java.time has no offset beyond 18 hours; those in
use are from -12:00 to +14:00."""

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
BEFORE = datetime(2100, 1, 1, tzinfo=UTC)
"""A timestamp is in [EARLIEST, BEFORE)."""

MAX_NUMBER_CHARACTERS = 500
"""Spark's parser takes no number of more than 1,000 characters. A double has at most 17 digits of meaning."""

LONG_NUMBER_PATTERN = rf"[-+.0-9Ee]{{{MAX_NUMBER_CHARACTERS + 1}}}"

AMOUNT_LIMIT = 999_999_999
"""Largest magnitude of an amount in its unit: ten digits before the point leave nine behind it in exact sums."""


class _InPattern:
    """Has a string match TIMESTAMP_PATTERN before it is parsed: pydantic takes more forms, and numbers as seconds."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.custom_error_schema(
            core_schema.str_schema(strict=True, pattern=TIMESTAMP_PATTERN),
            custom_error_type="timestamp_form",
            custom_error_message="must be an ISO 8601 string with an offset, like 2024-05-27T15:57:54Z",
        )
        return core_schema.chain_schema([text, handler(source)])


Timestamp = Annotated[AwareDatetime, Field(strict=False, ge=EARLIEST, lt=BEFORE), _InPattern()]
Amount = Annotated[float, Field(ge=-AMOUNT_LIMIT, le=AMOUNT_LIMIT)]
Register = Annotated[float, Field(ge=-1e15, le=1e15)]
DeviceId = Annotated[str, StringConstraints(pattern=DEVICE_ID_PATTERN)]


class Reading(BaseModel):
    """A reading of any meter type: what all of them have. See READING_MODELS."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

    meter_type: ClassVar[MeterType]

    device_id: DeviceId
    timestamp: Timestamp = Field(description="ISO 8601 with an offset; kept as UTC, to the millisecond.")
    register_: Register | None = Field(
        default=None, alias="register", description="Cumulative counter, same unit as usage."
    )
    schema_version: Annotated[int, Field(ge=1, le=1)] = 1  # not Literal[1], which takes true for 1

    @property
    def id(self) -> str:
        """Identity of the reading: `<timestamp ISO UTC>|<device_id>`."""
        return reading_id(self.timestamp, self.device_id)


def _model(row: MeterTypeRow) -> type[Reading]:
    fields: dict[str, Any] = {each.name: (Amount, Field(description=each.meaning)) for each in row.amounts}
    article = "an" if row.title[0] in "AEIOU" else "a"
    model = create_model(
        f"{row.title}Reading", __base__=Reading, __doc__=f"One reading of {article} {row.meter_type} meter.", **fields
    )
    model.meter_type = row.meter_type
    return model


READING_MODELS: Mapping[str, type[Reading]] = {name: _model(row) for name, row in METER_TYPES.items()}
"""The model of each meter type's readings: the fields of `Reading`, and the type's amounts."""


def _meter_type(message: Any) -> str | None:
    if not isinstance(message, dict):
        return None
    return next((name for name, row in METER_TYPES.items() if row.usage.name in message), None)


_UNION: Any = reduce(or_, (Annotated[model, Tag(name)] for name, model in READING_MODELS.items()))
_READING: TypeAdapter[Reading] = TypeAdapter(
    Annotated[  # pyright: ignore[reportArgumentType] (made of rows)
        _UNION,  # pyright: ignore[reportInvalidTypeForm]
        Discriminator(
            _meter_type,
            custom_error_type="no_meter_type",
            custom_error_message="A reading is a JSON object with one of the fields "
            + ", ".join(row.usage.name for row in METER_TYPES.values()),
        ),
    ]
)
"""A reading of any type; which one follows from the usage field present."""

_validate_json = _READING.validator.validate_json  # without the adapter's options, which cost a quarter of the time
_long_number = re.compile(LONG_NUMBER_PATTERN.encode()).search


def parse_reading(message: bytes) -> Reading:
    """Parse one message value, strictly.

    Raises:
        pydantic.ValidationError: it is not a reading.
    """
    reading = _validate_json(message)
    # pydantic takes the last of several fields with one name. But each name has two quotes, and so have the two texts,
    # in which a reading has none: one more field than names shows.
    if message.count(b'"') != 2 * len(reading.__pydantic_fields_set__) + 4:
        raise _refusal("repeated_field", "A field appears more than once")
    if len(message) > MAX_NUMBER_CHARACTERS and _long_number(message):
        raise _refusal("number_too_long", f"A number has more than {MAX_NUMBER_CHARACTERS} characters")
    return reading


def _refusal(kind: Any, message: Any) -> ValidationError:
    error = PydanticCustomError(kind, message)
    return ValidationError.from_exception_data("Reading", [{"type": error, "loc": (), "input": None}])


def reading_json_schema() -> dict[str, Any]:
    """The published JSON Schema (2020-12) of a message."""
    schema = _READING.json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Meter reading", **schema}


def encode_message(fields: dict[str, Any]) -> bytes:
    """The message value for the fields of a reading: compact UTF-8 JSON, `timestamp` given as a string."""
    return json.dumps(fields, separators=(",", ":")).encode()


@lru_cache(maxsize=1024)  # meters report by the clock: many readings share an instant
def iso_utc(instant: datetime) -> str:
    """`2024-05-27T15:57:54Z`, with `.123` before the Z only where there are milliseconds."""
    instant = instant.astimezone(UTC)
    if instant.microsecond >= 1000:
        return instant.isoformat(timespec="milliseconds")[:-6] + "Z"
    return instant.isoformat(timespec="seconds")[:-6] + "Z"


def reading_id(timestamp: datetime, device_id: str) -> str:
    """`<timestamp ISO UTC>|<device_id>`: time first, so that inserts and a day's range are local in the index."""
    return f"{iso_utc(timestamp)}|{device_id}"


def reading_id_range(start: datetime, end: datetime) -> tuple[str, str]:
    """Bounds `low <= _id < high` of the readings in [start, end), both at whole seconds.

    The bounds carry no Z: '.' and 'Z' both sort after the end of the string, so readings with and without
    milliseconds fall on the right side.
    """
    return iso_utc(start)[:-1], iso_utc(end)[:-1]


def to_document(reading: Reading) -> dict[str, Any]:
    """The reading as MongoDB keeps it in `iot-meter`, without `received_at`, the broker's time of arrival."""
    timestamp = reading.timestamp
    if timestamp.microsecond % 1000:
        timestamp = timestamp.replace(microsecond=timestamp.microsecond // 1000 * 1000)
    meter_type, amounts = _STORED[type(reading)]
    document: dict[str, Any] = {
        "_id": reading_id(timestamp, reading.device_id),
        "device_id": reading.device_id,
        "timestamp": timestamp,
        "meter_type": meter_type,
    }
    for name in amounts:
        document[name] = getattr(reading, name)
    if reading.register_ is not None:
        document["register"] = reading.register_
    document["schema_version"] = reading.schema_version
    return document


_STORED = {
    READING_MODELS[name]: (name, tuple(field.name for field in row.amounts)) for name, row in METER_TYPES.items()
}
"""Meter type and amounts of each model."""

FIELDS: Mapping[str, tuple[MessageField, ...]] = {name: fields_of(model) for name, model in READING_MODELS.items()}
"""What a message of each type has, for those who cannot ask pydantic."""

ALL_FIELDS = {field.name: field for fields in FIELDS.values() for field in fields}

NUMBERS = tuple(
    field.name for field in sorted(ALL_FIELDS.values(), key=lambda field: not field.required) if field.kind == "number"
)
"""Names of the numbers of either type, the required ones first."""

_SPARK_NUMBERS = ", ".join(f"`{name}` double" for name in NUMBERS)

SPARK_SCHEMA = f"device_id string, timestamp timestamp, meter_type string, {_SPARK_NUMBERS}, received_at timestamp"
"""A reading as a Spark DDL schema; a field that the meter type lacks is null."""

STORED_SPARK_SCHEMA = f"_id string, {_SPARK_NUMBERS}, received_at timestamp"
"""What Spark reads of a stored reading: the rest follows from it (see figures.device_days.stored), and the MongoDB
connector takes as long for each field of a document as for finding the document."""

DOCUMENT_SCHEMA: dict[str, Any] = {
    "bsonType": "object",
    "required": ["_id", "device_id", "timestamp", "meter_type", "schema_version", "received_at"],
    "additionalProperties": False,
    "properties": {
        "_id": {"bsonType": "string", "pattern": ID_PATTERN},
        "device_id": {"bsonType": "string"},
        "timestamp": {"bsonType": "date"},
        "meter_type": {"enum": list(METER_TYPES)},
        **{name: {"bsonType": "double"} for name in NUMBERS},
        "schema_version": {"bsonType": "int"},
        "received_at": {"bsonType": "date"},
    },
}
"""The stored reading as a MongoDB `$jsonSchema`: a last guard against writers other than ingest."""
