"""Messages that are wrong on purpose: a second payload for one reading, and things that are no reading at all.

Made out of a good message, with none of them reporting a fault: what a router finds faulty stays exactly what the
ledger lists.
"""

import json
from collections.abc import Callable
from typing import Any

from metering.meter_types import FAULT_FIELDS, FAULT_SIGN, METER_TYPES, MeterTypeRow
from metering.reading import encode_message

GARBLED_AMOUNT = 0.5


def conflicting(message: bytes) -> bytes:
    """A valid reading with the identity of `message` and another payload."""
    fields: dict[str, Any] = json.loads(message)
    row = _row_of(fields)
    name = row.usage.name
    if row.fault_field == name:
        fields[name] = round(max(fields[name], 0) + 1, 3)
    else:
        fields[name] = round(fields[name] + 10, 1)
        if fields[row.fault_field] == FAULT_SIGN:
            fields[row.fault_field] = 0.0
    return encode_message(fields)


def _row_of(fields: dict[str, Any]) -> MeterTypeRow:
    return next(row for row in METER_TYPES.values() if row.usage.name in fields)


def _amount_field(fields: dict[str, Any]) -> str:
    return _row_of(fields).usage.name


def _truncated(fields: dict[str, Any]) -> bytes:
    return encode_message(fields)[:-5]


def _wrong_type(fields: dict[str, Any]) -> bytes:
    return encode_message({**fields, _amount_field(fields): "plenty"})


def _extra_key(fields: dict[str, Any]) -> bytes:
    return encode_message({**fields, "colour": "green"})


def _not_a_number(fields: dict[str, Any]) -> bytes:
    return encode_message({**fields, _amount_field(fields): float("nan")})


def _missing_field(fields: dict[str, Any]) -> bytes:
    return encode_message({name: value for name, value in fields.items() if name != _amount_field(fields)})


def _naive_timestamp(fields: dict[str, Any]) -> bytes:
    return encode_message({**fields, "timestamp": fields["timestamp"].removesuffix("Z")})


def _empty(_: dict[str, Any]) -> bytes:
    return b""


GARBLERS: tuple[Callable[[dict[str, Any]], bytes], ...] = (
    _truncated,
    _wrong_type,
    _extra_key,
    _not_a_number,
    _missing_field,
    _naive_timestamp,
    _empty,
)


def garbled(message: bytes, kind: int) -> bytes:
    """Something that is no reading, in the way `GARBLERS[kind]`."""
    fields: dict[str, Any] = json.loads(message)
    for name in FAULT_FIELDS:
        if fields.get(name) == FAULT_SIGN:
            fields[name] = GARBLED_AMOUNT
    return GARBLERS[kind](fields)
