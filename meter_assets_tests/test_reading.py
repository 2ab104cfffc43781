"""The message contract: what is a reading, what is refused, and how a reading is identified and kept."""

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from metering.reading import (
    AMOUNT_LIMIT,
    DEVICE_ID_PATTERN,
    READING_MODELS,
    encode_message,
    iso_utc,
    parse_reading,
    reading_id,
    reading_id_range,
    reading_json_schema,
    to_document,
)

ELECTRICITY: dict[str, Any] = {"device_id": "em1", "timestamp": "2024-05-27T15:57:54Z", "usage_kwh": 10}
WATER: dict[str, Any] = {"device_id": "wm4", "timestamp": "2024-05-27T15:57:54Z", "usage": 13, "flow_rate": 7.5}
MISSING = object()

device_ids = st.from_regex(DEVICE_ID_PATTERN, fullmatch=True).filter(lambda text: not text.endswith("\n"))
amounts = st.one_of(
    st.integers(-AMOUNT_LIMIT, AMOUNT_LIMIT),
    st.floats(-AMOUNT_LIMIT, AMOUNT_LIMIT, allow_nan=False),
)
instants = st.datetimes(datetime(2000, 1, 2), datetime(2099, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
offsets = st.integers(-18 * 60, 18 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """The fields of any valid message."""
    instant = draw(instants).astimezone(draw(offsets))
    usage = (
        {"usage_kwh": draw(amounts)} if draw(st.booleans()) else {"usage": draw(amounts), "flow_rate": draw(amounts)}
    )
    optional: dict[str, Any] = {}
    if draw(st.booleans()):
        optional["register"] = draw(st.one_of(st.none(), st.floats(-1e15, 1e15), st.integers(-(10**15), 10**15)))
    if draw(st.booleans()):
        optional["schema_version"] = 1
    return {"device_id": draw(device_ids), "timestamp": instant.isoformat(), **usage, **optional}


def with_(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The message with some fields changed, or left out where they are MISSING."""
    return {name: value for name, value in {**base, **changes}.items() if value is not MISSING}


@given(messages())
def test_every_valid_message_becomes_its_document(fields: dict[str, Any]):
    document = to_document(parse_reading(encode_message(fields)))

    instant = datetime.fromisoformat(fields["timestamp"]).astimezone(UTC)
    kept = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
    text = kept.strftime("%Y-%m-%dT%H:%M:%S") + (f".{kept.microsecond // 1000:03}" if kept.microsecond else "") + "Z"
    amounts_sent = {
        name: value for name in ("usage_kwh", "usage", "flow_rate") if (value := fields.get(name)) is not None
    }
    register = {"register": fields["register"]} if fields.get("register") is not None else {}
    assert document == {
        "_id": f"{text}|{fields['device_id']}",
        "device_id": fields["device_id"],
        "timestamp": kept,
        "meter_type": "electricity" if "usage_kwh" in fields else "water",
        **amounts_sent,
        **register,
        "schema_version": 1,
    }
    assert document["timestamp"].utcoffset() is not None
    assert all(type(document[name]) is float for name in [*amounts_sent, *register])


@given(messages(), offsets)
def test_the_offset_does_not_matter(fields: dict[str, Any], offset: timezone):
    elsewhere = datetime.fromisoformat(fields["timestamp"]).astimezone(offset)
    one = to_document(parse_reading(encode_message(fields)))
    other = to_document(parse_reading(encode_message({**fields, "timestamp": elsewhere.isoformat()})))
    assert one == other


@given(messages())
def test_the_model_and_its_document_agree_on_the_identity(fields: dict[str, Any]):
    reading = parse_reading(encode_message(fields))
    assert reading.id == to_document(reading)["_id"]


@given(instants, st.integers(0, 86_400 * 2), st.integers(-3_000_000, 3_000_000), st.booleans(), device_ids)
def test_the_range_of_ids_is_the_range_of_time(
    start: datetime, seconds: int, microseconds: int, at_end: bool, device_id: str
):
    start = start.replace(microsecond=0)
    end = start + timedelta(seconds=seconds)
    instant = (end if at_end else start) + timedelta(microseconds=microseconds)
    low, high = reading_id_range(start, end)
    assert (low <= reading_id(instant, device_id) < high) == (start <= instant < end)


def test_ids_within_a_second_stay_between_its_bounds():
    start = datetime(2024, 5, 27, 23, 59, 59, tzinfo=UTC)
    low, high = reading_id_range(start, start + timedelta(seconds=1))
    for microsecond in (0, 999, 1000, 500_000, 999_000, 999_999):
        assert low <= reading_id(start.replace(microsecond=microsecond), "em1") < high
    assert not low <= reading_id(start + timedelta(seconds=1), "em1") < high
    assert not low <= reading_id(start - timedelta(milliseconds=1), "em1") < high


def test_iso_utc_shows_milliseconds_only_where_there_are_any():
    instant = datetime(2024, 5, 27, 15, 57, 54, tzinfo=UTC)
    assert iso_utc(instant) == "2024-05-27T15:57:54Z"
    assert iso_utc(instant.replace(microsecond=999)) == "2024-05-27T15:57:54Z"
    assert iso_utc(instant.replace(microsecond=1999)) == "2024-05-27T15:57:54.001Z"
    assert iso_utc(instant.astimezone(timezone(timedelta(hours=14)))) == "2024-05-27T15:57:54Z"


@given(st.integers(-AMOUNT_LIMIT, AMOUNT_LIMIT))
def test_ints_and_floats_are_the_same_number(number: int):
    as_int = parse_reading(encode_message(with_(ELECTRICITY, usage_kwh=number)))
    assert as_int == parse_reading(encode_message(with_(ELECTRICITY, usage_kwh=float(number))))


GOOD: dict[str, dict[str, Any]] = {
    "electricity": ELECTRICITY,
    "water": WATER,
    "the meter's own fault": with_(ELECTRICITY, usage_kwh=-1),
    "a fault in the flow": with_(WATER, flow_rate=-1),
    "another negative value": with_(WATER, usage=-3.5),
    "zero": with_(WATER, usage=0, flow_rate=0),
    "largest amount": with_(ELECTRICITY, usage_kwh=AMOUNT_LIMIT),
    "register": with_(ELECTRICITY, register=123456.789),
    "register null": with_(ELECTRICITY, register=None),
    "version": with_(WATER, schema_version=1),
    "longest device id": with_(ELECTRICITY, device_id="e" * 64),
    "every sign in a device id": with_(ELECTRICITY, device_id="0aZ_.:-"),
    "offset": with_(ELECTRICITY, timestamp="2024-05-27T15:57:54.123+05:45"),
    "first instant": with_(ELECTRICITY, timestamp="2000-01-01T00:00:00Z"),
    "last instant": with_(ELECTRICITY, timestamp="2099-12-31T23:59:59.999Z"),
}
# What the JSON Schema can say is refused by it too; what it cannot (times, two decimal texts of one key) only by us.
BAD: dict[str, Any] = {
    "extra key": with_(ELECTRICITY, colour="green"),
    "python's name of the register": with_(ELECTRICITY, register_=1),
    "both usage fields": {**ELECTRICITY, **WATER},
    "a kWh reading with a flow": with_(ELECTRICITY, flow_rate=1),
    "no usage": with_(ELECTRICITY, usage_kwh=MISSING),
    "water without flow": with_(WATER, flow_rate=MISSING),
    "water without usage": with_(WATER, usage=MISSING),
    "no device": with_(ELECTRICITY, device_id=MISSING),
    "no timestamp": with_(ELECTRICITY, timestamp=MISSING),
    "number in a string": with_(ELECTRICITY, usage_kwh="10"),
    "true as usage": with_(ELECTRICITY, usage_kwh=True),
    "false as flow": with_(WATER, flow_rate=False),
    "null usage": with_(ELECTRICITY, usage_kwh=None),
    "null usage_kwh beside usage": with_(WATER, usage_kwh=None),
    "list as usage": with_(ELECTRICITY, usage_kwh=[10]),
    "too much": with_(ELECTRICITY, usage_kwh=AMOUNT_LIMIT + 1),
    "too little": with_(WATER, usage=-AMOUNT_LIMIT - 1),
    "flow out of range": with_(WATER, flow_rate=1e300),
    "register out of range": with_(ELECTRICITY, register=1.1e15),
    "register in a string": with_(ELECTRICITY, register="1"),
    "numeric timestamp": with_(ELECTRICITY, timestamp=1716825474),
    "null timestamp": with_(ELECTRICITY, timestamp=None),
    "empty device id": with_(ELECTRICITY, device_id=""),
    "null device id": with_(ELECTRICITY, device_id=None),
    "number as device id": with_(ELECTRICITY, device_id=7),
    "separator in device id": with_(ELECTRICITY, device_id="em|1"),
    "slash in device id": with_(ELECTRICITY, device_id="em/1"),
    "parent folder": with_(ELECTRICITY, device_id=".."),
    "dot first": with_(ELECTRICITY, device_id=".em1"),
    "space in device id": with_(ELECTRICITY, device_id="em 1"),
    "letter outside ASCII": with_(ELECTRICITY, device_id="em\u00e9"),
    "digit outside ASCII": with_(ELECTRICITY, device_id="em\u0663"),
    "65 characters": with_(ELECTRICITY, device_id="e" * 65),
    "version 2": with_(ELECTRICITY, schema_version=2),
    "version true": with_(ELECTRICITY, schema_version=True),
    "version in a string": with_(ELECTRICITY, schema_version="1"),
    "null version": with_(ELECTRICITY, schema_version=None),
    "null": None,
    "array": [ELECTRICITY],
    "string": "reading",
    "number": 5,
    "empty object": {},
}
BAD_TIMES = {
    "numeric string": "1716825474",
    "numeric string with a dash": "1716-825474",
    "naive": "2024-05-27T15:57:54",
    "date only": "2024-05-27",
    "no such day": "2024-02-30T00:00:00Z",
    "leap second": "2024-05-27T15:57:60Z",
    "space first": " 2024-05-27T15:57:54Z",
    "newline last": "2024-05-27T15:57:54Z\n",
    "text": "yesterday",
    "empty": "",
    "last century": "1999-12-31T23:59:59Z",
    "last century by its offset": "2000-01-01T00:00:00+00:01",
    "next century": "2100-01-01T00:00:00Z",
    "next century by its offset": "2099-12-31T23:59:59-01:00",
}
BAD_BYTES = {
    "nothing": b"",
    "truncated": encode_message(ELECTRICITY)[:-1],
    "two readings": encode_message(ELECTRICITY) * 2,
    "byte order mark": b"\xef\xbb\xbf" + encode_message(ELECTRICITY),
    "invalid UTF-8": encode_message(ELECTRICITY).replace(b"em1", b"em\xff"),
    "UTF-16": encode_message(ELECTRICITY).decode().encode("utf-16"),
    "NaN": encode_message(with_(ELECTRICITY, usage_kwh=float("nan"))),
    "Infinity": encode_message(with_(WATER, flow_rate=float("inf"))),
    "-Infinity": encode_message(with_(WATER, usage=float("-inf"))),
    "number beyond a double": encode_message(ELECTRICITY).replace(b"10", b"1e999"),
    "deeply nested": b"[" * 4000,
    "trailing comma": encode_message(ELECTRICITY)[:-1] + b",}",
    "single quotes": b"{'device_id':'em1'}",
}


def fits(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Does the value satisfy the JSON Schema? Knows the few keywords that ours uses, and fails on any other."""
    known = {"$schema", "$defs", "title", "description", "default"}
    checks: dict[str, Any] = {
        "$ref": lambda ref: fits(root["$defs"][ref.rsplit("/", 1)[1]], value, root),
        "oneOf": lambda options: sum(fits(option, value, root) for option in options) == 1,
        "anyOf": lambda options: any(fits(option, value, root) for option in options),
        "type": lambda name: (
            isinstance(
                value, {"object": dict, "string": str, "number": (int, float), "integer": int}.get(name, type(None))
            )
            and not isinstance(value, bool)
        ),
        "const": lambda constant: value == constant,
        "pattern": lambda pattern: isinstance(value, str) and re.search(pattern, value) is not None,
        "minimum": lambda limit: isinstance(value, int | float) and value >= limit,
        "maximum": lambda limit: isinstance(value, int | float) and value <= limit,
        "required": lambda names: isinstance(value, dict) and set(names) <= set(value),
        "additionalProperties": lambda allowed: allowed or not set(value) - set(schema["properties"]),
        "properties": lambda fields: all(fits(fields[name], value[name], root) for name in fields if name in value),
    }
    if not isinstance(value, dict) and schema.get("type") == "object":
        return False
    return all(checks[keyword](argument) for keyword, argument in schema.items() if keyword not in known)


@pytest.mark.parametrize("fields", GOOD.values(), ids=GOOD)
def test_taken_by_the_parser_and_by_the_published_schema(fields: dict[str, Any]):
    reading = parse_reading(encode_message(fields))
    assert type(reading) is READING_MODELS["electricity" if "usage_kwh" in fields else "water"]
    schema = json.loads(json.dumps(reading_json_schema()))
    assert fits(schema, fields, schema)


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_refused_by_the_parser_and_by_the_published_schema(message: Any):
    with pytest.raises(ValidationError):
        parse_reading(encode_message(message))
    schema = json.loads(json.dumps(reading_json_schema()))
    assert not fits(schema, message, schema)


@pytest.mark.parametrize("timestamp", BAD_TIMES.values(), ids=BAD_TIMES)
def test_a_timestamp_is_iso_8601_with_an_offset_in_this_century(timestamp: str):
    with pytest.raises(ValidationError) as caught:
        parse_reading(encode_message(with_(ELECTRICITY, timestamp=timestamp)))
    assert [error["loc"][-1] for error in caught.value.errors()] == ["timestamp"]


@pytest.mark.parametrize("message", BAD_BYTES.values(), ids=BAD_BYTES)
def test_bytes_that_are_no_reading(message: bytes):
    with pytest.raises(ValidationError):
        parse_reading(message)


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_in_order(message: bytes):
    with pytest.raises(ValidationError):
        parse_reading(message)


def test_a_message_that_names_a_field_twice_says_so():
    message = encode_message(ELECTRICITY)[:-1] + b',"usage_kwh":11}'
    with pytest.raises(ValidationError, match="A field appears more than once"):
        parse_reading(message)


def test_a_number_that_is_too_long_says_so():
    message = encode_message(ELECTRICITY).replace(b"10", b"10." + b"0" * 500)
    with pytest.raises(ValidationError, match="A number has more than 500 characters"):
        parse_reading(message)
