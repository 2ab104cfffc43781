"""What must become of each message, found out without the product's code: plain json, rules written down a second time.

It knows what the suite sends: the simulator's messages and the odd ones of the rows. The contract in full, with every
strange value, is the corpus's matter.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fault_injection.topics import Message

DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
UTC_STAMP = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")
ELECTRICITY = {"device_id", "timestamp", "usage_kwh"}
WATER = {"device_id", "timestamp", "usage", "flow_rate"}
LONGEST_BYTES = 4096

Place = tuple[int, int, int]
"""Era, partition and offset of a message."""


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a field twice")
    return dict(pairs)


def reading_of(value: bytes | None) -> dict[str, Any] | None:
    """The fields of a reading; None for a message that is none."""
    if value is None or len(value) > LONGEST_BYTES:
        return None
    try:
        fields = json.loads(value.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)
    except ValueError:
        return None
    if not isinstance(fields, dict) or set(fields) not in (ELECTRICITY, WATER):
        return None
    device, stamp = fields["device_id"], fields["timestamp"]
    if not isinstance(device, str) or not DEVICE.fullmatch(device):
        return None
    if not isinstance(stamp, str) or not UTC_STAMP.fullmatch(stamp):
        return None
    amounts = (fields[name] for name in fields if name not in ("device_id", "timestamp"))
    return fields if all(type(amount) in (int, float) for amount in amounts) else None


def is_faulty(fields: dict[str, Any]) -> bool:
    """Does the meter report its own fault, the only one that the suite's cities have?"""
    return -1 in (fields.get("usage_kwh"), fields.get("flow_rate"))


@dataclass
class Expected:
    """What must be there at the end.

    Attributes:
        readings: the first reading of each identity.
        repeats: further messages that say the same.
        letters: messages that must be dead letters, by where they stand, with their value.
        faulty: identities of which some message reports a fault.
    """

    readings: dict[str, dict[str, Any]] = field(default_factory=dict)
    repeats: int = 0
    letters: dict[Place, bytes | None] = field(default_factory=dict)
    faulty: set[str] = field(default_factory=set)

    def healthy_sums(self) -> dict[tuple[str, str], tuple[int, int, Decimal]]:
        """By UTC day and meter: healthy readings, faulty ones, and the exact usage of the healthy ones."""
        sums: dict[tuple[str, str], tuple[int, int, Decimal]] = {}
        for fields in self.readings.values():
            key = (fields["timestamp"][:10], fields["device_id"])
            healthy, faulty, usage = sums.get(key, (0, 0, Decimal(0)))
            if is_faulty(fields):
                sums[key] = (healthy, faulty + 1, usage)
            else:
                amount = Decimal(str(fields.get("usage_kwh", fields.get("usage"))))
                sums[key] = (healthy + 1, faulty, usage + amount)
        return sums


def expect(messages: Iterable[Message]) -> Expected:
    """Judge messages in the order in which they must be read: eras, then each partition's offsets."""
    expected = Expected()
    for message in sorted(messages, key=lambda each: (each.era, each.partition, each.offset)):
        fields = reading_of(message.value)
        place = (message.era, message.partition, message.offset)
        if fields is None:
            expected.letters[place] = message.value
            continue
        identity = f"{fields['timestamp']}|{fields['device_id']}"
        if is_faulty(fields):
            expected.faulty.add(identity)
        first = expected.readings.setdefault(identity, fields)
        if first is fields:
            continue
        if first == fields:
            expected.repeats += 1
        else:
            expected.letters[place] = message.value
    return expected


def same_reading(document: dict[str, Any], fields: dict[str, Any]) -> bool:
    """Does the stored document say what the message said?"""
    amounts = ("usage_kwh", "usage", "flow_rate", "register")
    return document["device_id"] == fields["device_id"] and all(
        document.get(name) == fields.get(name) for name in amounts
    )


def count_values(values: Iterable[bytes | None]) -> Counter[bytes | None]:
    """How often each value is there."""
    return Counter(values)
