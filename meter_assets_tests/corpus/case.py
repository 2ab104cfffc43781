"""One case of the corpus: a message, and what must become of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Verdict = Literal["healthy", "faulty", "duplicate", "conflict", "refused"]

INVALID_JSON, INVALID_READING = "invalid_json", "invalid_reading"

ELECTRICITY = '{"device_id":"em1","timestamp":"2024-05-27T15:57:54Z","usage_kwh":-1}'
"""Accepted and faulty: a router that takes what ingest refuses, or the other way round, shows in what is routed."""

WATER = '{"device_id":"em1","timestamp":"2024-05-27T15:57:54Z","usage":13,"flow_rate":-1}'

OWN_ID = '"em1"'
"""Replaced by the case's own device id, so that no two cases are one reading."""


@dataclass(frozen=True)
class Case:
    """One message.

    Args:
        kind: the class of messages that it belongs to.
        name: what it is within that class.
        value: the message; None is a tombstone.
        verdict: `healthy` and `faulty` are stored, and `faulty` is routed, too.
        reason: that of its dead letter.
        stored: fields that its document must have, `timestamp` as text.
        schema_misses: refused, though the published JSON Schema cannot say why.
        key: the Kafka key.
        headers: the Kafka headers.
        codec: how its batch is compressed.
    """

    kind: str
    name: str
    value: bytes | None
    verdict: Verdict
    reason: str = ""
    stored: Mapping[str, Any] = field(default_factory=dict)
    schema_misses: bool = False
    key: bytes | None = b"corpus"
    headers: tuple[tuple[str, bytes], ...] = ()
    codec: str | None = None

    @property
    def id(self) -> str:
        """The case's name in a test report."""
        return f"{self.kind}: {self.name}"

    @property
    def is_reading(self) -> bool:
        """Is the message a reading? Ingest and the router must both say so."""
        return self.verdict != "refused"


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8")


def taken(kind: str, texts: Mapping[str, str | bytes], verdict: Verdict = "faulty", **stored: Any) -> list[Case]:
    """Cases that are stored, and routed when they are faulty."""
    return [Case(kind, name, _bytes(text), verdict, stored=stored) for name, text in texts.items()]


def refused(
    kind: str, texts: Mapping[str, str | bytes], reason: str = INVALID_READING, *, schema_misses: bool = False
) -> list[Case]:
    """Cases that become dead letters, and are not routed."""
    return [
        Case(kind, name, _bytes(text), "refused", reason, schema_misses=schema_misses) for name, text in texts.items()
    ]


def numbered(cases: Iterable[Case]) -> tuple[Case, ...]:
    """The cases, each with a device id of its own in the place of OWN_ID."""
    return tuple(
        replace(case, value=case.value and case.value.replace(OWN_ID.encode(), f'"c{number}"'.encode()))
        for number, case in enumerate(cases)
    )
