"""Corrections of a dead letter's payload: fields of its JSON object set or removed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from metering.errors import MetersError

MAX_CORRECTED_BYTES = 64 * 1024


class NotCorrectableError(MetersError):
    """The payload is nothing whose fields could be set."""


@dataclass(frozen=True)
class Correction:
    """What to change in a payload.

    Args:
        fields: new values by name of the field.
        without: names of fields to leave out.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    without: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.fields or self.without)

    def apply(self, value: bytes | None) -> bytes | None:
        """The corrected payload; the very same bytes where there is nothing to correct.

        Raises:
            NotCorrectableError: it is no JSON object.
        """
        if not self:
            return value
        try:
            if value is None or len(value) > MAX_CORRECTED_BYTES:
                raise ValueError
            found = json.loads(value)
            if not isinstance(found, dict):
                raise ValueError
            kept = {name: each for name, each in found.items() if name not in self.without}
            # No parameter allow_nan: a NaN that stays is refused again, by ingest, with its reason.
            return json.dumps({**kept, **self.fields}, separators=(",", ":")).encode()
        except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise NotCorrectableError("its payload is no JSON object, so no field of it can be set") from None

    def to_text(self) -> str | None:
        """The correction as one line of JSON, for its record; None where there is none."""
        return json.dumps({"set": dict(self.fields), "unset": list(self.without)}) if self else None


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Fields and values of `field=value` each; a value is JSON, and text where it is none.

    Raises:
        MetersError: one of them is no assignment.
    """
    fields: dict[str, Any] = {}
    for each in assignments:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise MetersError("--set needs field=value", fix="For example: --set usage_kwh=1.5 --set device_id=em1")
        fields[name] = _value(text)
    return fields


def _value(text: str) -> Any:
    def no_number(constant: str) -> NoReturn:
        raise MetersError(f"--set cannot make a field {constant}, which is no JSON", fix="Give a number")

    try:
        return json.loads(text, parse_constant=no_number)
    except (ValueError, RecursionError):
        return text
