"""The law, message by message: produced = stored + duplicates + dead letters + lost, out of what stands there."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo.database import Database

from fault_injection.oracle import Expected, Place, expect, same_reading
from fault_injection.topics import Message
from metering.settings import READINGS_TOPIC

SOURCE = "__connect.errors."
SHOWN = 3


@dataclass
class Account:
    """Where every message went.

    Attributes:
        missing: what is nowhere, in words.
        doubled: what is there twice.
        wrong: what is there and should not be, or otherwise than it should.
    """

    produced: int
    stored: int
    duplicates: int
    dead_letters: int
    lost: int
    expected: Expected
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def lost_places(database: Database, eras: Mapping[str, int], reader: str) -> set[Place]:
    """The offsets that the product itself has recorded as lost to a reader.

    Args:
        database: the installation's.
        eras: of each id that the topic had.
        reader: `ingest` or `router`.
    """
    found = database["lost_messages"].find({"reader": reader, "topic": READINGS_TOPIC})
    return {
        (eras.get(loss["topic_id"], -1), loss["partition"], offset)
        for loss in found
        for offset in range(loss["first"], loss["end"])
    }


def account(database: Database, sent: Sequence[Message], letters: Iterable[Message], lost: set[Place]) -> Account:
    """Hold what was sent against what is stored, dead-lettered and recorded as lost.

    Args:
        database: the installation's.
        sent: every message that was ever on iot-meter.
        letters: the committed messages of iot-meter-dlq.
        lost: see lost_places.
    """
    of_lost = [message for message in sent if _place(message) in lost]
    expected = expect(message for message in sent if _place(message) not in lost)
    stored = {document["_id"]: document for document in database["iot-meter"].find()}
    written = list(letters)
    result = Account(
        produced=len(sent),
        stored=len(stored),
        duplicates=expected.repeats,
        dead_letters=len(written),
        lost=len(of_lost),
        expected=expected,
    )
    _check_readings(result, stored)
    _check_letters(result, written)
    if result.produced != result.stored + result.duplicates + result.dead_letters + result.lost and not (
        result.missing or result.doubled or result.wrong
    ):
        result.wrong.append("produced is not stored + duplicates + dead letters + lost")
    return result


def source_of(letter: Message) -> tuple[int, int]:
    """Partition and offset of the message that the dead letter was."""
    partition, offset = (int(letter.headers.get(SOURCE + name, b"-1")) for name in ("partition", "offset"))
    return partition, offset


def sources_of(letter: Message) -> set[tuple[int, int]]:
    """All that the dead letter stands for: one for a batch that cannot be unpacked stands for several messages."""
    partition, first = source_of(letter)
    count = int(letter.headers.get("messages", b"1"))
    return {(partition, first + number) for number in range(count)}


def _place(message: Message) -> Place:
    return message.era, message.partition, message.offset


def _check_readings(result: Account, stored: Mapping[str, Mapping[str, Any]]) -> None:
    readings = result.expected.readings
    result.missing += [f"reading {key} is not stored" for key in readings if key not in stored]
    for key, document in stored.items():
        if key not in readings:
            result.wrong.append(f"reading {key} is stored and was never sent")
        elif not same_reading(dict(document), readings[key]):
            result.wrong.append(f"reading {key} is stored with another payload than its first one")


def _check_letters(result: Account, written: Iterable[Message]) -> None:
    # A topic made again counts its offsets from 0 again: the value distinguishes the letters of one offset.
    wanted = Counter((place[1], place[2], value) for place, value in result.expected.letters.items())
    found = Counter((*source_of(letter), letter.value) for letter in written)
    for (partition, offset, value), count in wanted.items():
        have = found.pop((partition, offset, value), 0)
        if have < count:
            result.missing.append(f"the bad message at {partition}/{offset} is no committed dead letter")
        elif have > count:
            result.doubled += [f"the dead letter of {partition}/{offset} is there {have} times"] * (have - count)
    for (partition, offset, _), count in found.items():
        result.wrong += [f"a dead letter of {partition}/{offset}, which is no bad message"] * count


def in_short(problems: Sequence[str]) -> list[str]:
    """The first few of many problems, and how many there are."""
    if len(problems) <= SHOWN:
        return list(problems)
    return [*problems[:SHOWN], f"and {len(problems) - SHOWN:,} more like these"]
