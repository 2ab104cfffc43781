"""The index of dead letters: fills `iot.dead_letters` from the dead-letter topic, and finds a letter's payload.

Each committed letter becomes one document, whatever is killed and however often the topic is read: documents are
inserted by their key, and the offset to read on from is kept in `iot.dead_letter_offsets` after them.
"""

import hashlib
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from bson import Binary
from kafka.structs import TopicPartition
from pymongo import ReturnDocument, UpdateOne
from pymongo.database import Database

from metering.errors import MetersError
from metering.letters import Letter, State, short_id
from metering.lost_messages import Loss, LossReason, record_losses
from metering.reading import DEVICE_ID_PATTERN, MAX_MESSAGE_BYTES
from metering.settings import DEAD_LETTERS_TOPIC, Settings
from metering.store import DEAD_LETTER_OFFSETS, DEAD_LETTERS
from streaming.kafka.clients import kafka_errors, open_consumer, partitions_of, topic_ids

MAX_KEPT_BYTES = 64 * 1024
"""Key and value of a letter up to this size are kept in MongoDB, too; larger ones on the topic alone."""

MAX_HEADER_CHARACTERS = 1000
POLL_LETTERS = 500
POLL_SECONDS = 0.2
SILENCE_SECONDS = 30
"""How long Kafka may deliver nothing, although letters are there, before the command gives up."""

READER = "dead-letters"

_PREFIX = "__connect.errors."
_NUMBER = re.compile(r"\d{1,18}")
_DEVICE_ID = re.compile(DEVICE_ID_PATTERN)
# A search instead of a JSON parser: what lies here is often no JSON, and some of it is made to hurt a parser.
_DEVICE_ID_FIELD = re.compile(rb'"device_id"\s{0,8}:\s{0,8}"([A-Za-z0-9][A-Za-z0-9_.:-]{0,63})"')

Progress = Callable[[int, int], None]


class DeadLetterIndex:
    """Keeps `iot.dead_letters` up to date with the topic. Use as a context manager.

    Args:
        settings: where Kafka is.
        database: holds the index.
        topic: the dead-letter topic.
    """

    def __init__(self, settings: Settings, database: Database, *, topic: str = DEAD_LETTERS_TOPIC) -> None:
        self._settings = settings
        self._database = database
        self._topic = topic
        # Any: pyright's stubs describe kafka-python 2.
        self._consumer: Any = open_consumer(settings, group=None, max_poll_records=POLL_LETTERS)

    def catch_up(self, on_progress: Progress | None = None) -> int:
        """Index the letters that are on the topic now; returns how many messages were read.

        Args:
            on_progress: called after each poll with the messages read so far and those there were at the start, both
                counted in offsets.

        Raises:
            MetersError: Kafka does not answer or delivers nothing; what was indexed until then is kept.
        """
        consumer = self._consumer
        with kafka_errors(self._settings):
            partitions = partitions_of(consumer, self._topic)
            if not partitions:
                return 0
            topic_id = topic_ids(consumer, self._topic).get(self._topic, "")
            suffix = self._suffix(topic_id)
            ends: dict[TopicPartition, int] = consumer.end_offsets(partitions)
            starts = self._starts(partitions, topic_id)
            consumer.assign(partitions)
            for partition, offset in starts.items():
                consumer.seek(partition, min(offset, ends[partition]))
            backlog = sum(max(0, ends[each] - starts[each]) for each in partitions)
            read, done, moved_at = 0, 0, time.monotonic()
            while any(consumer.position(each) < ends[each] for each in partitions):
                polled = consumer.poll(timeout_ms=int(POLL_SECONDS * 1000))
                records = [record for of_partition in polled.values() for record in of_partition]
                self._insert(records, topic_id, suffix)
                self._keep_offsets({each: consumer.position(each) for each in partitions}, topic_id)
                read += len(records)
                position = sum(min(consumer.position(each), ends[each]) - starts[each] for each in partitions)
                if position > done:
                    done, moved_at = position, time.monotonic()
                elif time.monotonic() - moved_at > SILENCE_SECONDS:
                    raise MetersError(
                        f"Kafka at {self._settings.kafka} delivers nothing from {self._topic}",
                        fix="See whether all brokers are up: meters status",
                    )
                if on_progress:
                    on_progress(done, backlog)
        return read

    def payload(self, letter: Letter) -> tuple[bytes | None, bytes | None]:
        """Key and value of a letter: from MongoDB, else from the topic.

        Raises:
            MetersError: Kafka no longer has them.
        """
        if "value" in letter:
            return letter["key"], letter["value"]
        gone = MetersError(
            f"The payload of {letter['_id']} ({letter['size']:,} bytes) is no longer on {self._topic}",
            fix="Drop the letter: meters dlq drop",
        )
        consumer = self._consumer
        with kafka_errors(self._settings):
            partition = TopicPartition(self._topic, letter["partition"])
            if partition not in partitions_of(consumer, self._topic):
                raise gone
            if topic_ids(consumer, self._topic).get(self._topic, "") != letter["topic_id"]:
                raise gone
            if not consumer.beginning_offsets([partition])[partition] <= letter["offset"]:
                raise gone
            consumer.assign([partition])
            consumer.seek(partition, letter["offset"])
            give_up_at = time.monotonic() + SILENCE_SECONDS
            while time.monotonic() < give_up_at and consumer.position(partition) <= letter["offset"]:
                for record in consumer.poll(timeout_ms=1000, max_records=1).get(partition, []):
                    if record.offset == letter["offset"] and _digest(record.value) == letter["sha256"]:
                        return record.key, record.value
        raise gone

    def close(self) -> None:
        """Close the connection to Kafka."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _suffix(self, topic_id: str) -> str:
        """What ids of letters end in: nothing, unless the topic was made again and offsets begin at 0 once more."""
        first: Any = self._database[DEAD_LETTER_OFFSETS].find_one_and_update(
            {"_id": self._topic},
            {"$setOnInsert": {"topic_id": topic_id}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return "" if first["topic_id"] == topic_id else f"|{topic_id}"

    def _starts(self, partitions: list[TopicPartition], topic_id: str) -> dict[TopicPartition, int]:
        begins = self._consumer.beginning_offsets(partitions)
        starts: dict[TopicPartition, int] = {}
        losses: list[Loss] = []
        for tp in partitions:
            kept = self._database[DEAD_LETTER_OFFSETS].find_one({"_id": self._offset_key(tp, topic_id)})
            first = kept["next"] if kept else 0
            starts[tp] = max(first, begins[tp])
            if first < begins[tp]:
                lost = Loss(READER, tp.topic, topic_id, tp.partition, first, begins[tp], LossReason.RETENTION)
                losses.append(lost)
        record_losses(self._database, losses)
        return starts

    def _insert(self, records: list[Any], topic_id: str, suffix: str) -> None:
        operations = []
        for record in records:
            letter = letter_document(record, topic_id, suffix)
            operations.append(UpdateOne({"_id": letter["_id"]}, {"$setOnInsert": letter}, upsert=True))
        if operations:
            self._database[DEAD_LETTERS].bulk_write(operations, ordered=False)

    def _keep_offsets(self, positions: dict[TopicPartition, int], topic_id: str) -> None:
        operations = [
            UpdateOne({"_id": self._offset_key(tp, topic_id)}, {"$max": {"next": offset}}, upsert=True)
            for tp, offset in positions.items()
        ]
        self._database[DEAD_LETTER_OFFSETS].bulk_write(operations, ordered=False)

    def _offset_key(self, tp: TopicPartition, topic_id: str) -> str:
        return f"{self._topic}|{topic_id}|{tp.partition}"


def letter_document(record: Any, topic_id: str, suffix: str = "") -> Letter:
    """The document of one letter; whatever the record holds, it is one.

    Args:
        record: the consumer's record.
        topic_id: Kafka's id of the topic.
        suffix: what its `_id` ends in; for a topic that was made again.
    """
    headers = _texts(record.headers)
    letter_id = f"{record.topic}|{record.partition}|{record.offset}{suffix}"
    key, value = record.key, record.value
    letter: Letter = {
        "_id": letter_id,
        "short_id": short_id(letter_id),
        "topic": record.topic,
        "topic_id": topic_id,
        "partition": record.partition,
        "offset": record.offset,
        "at": _instant(record.timestamp),
        "source": _source(headers),
        "stage": headers.get(f"{_PREFIX}stage", ""),
        "reason": headers.get("reason", ""),
        "error": {
            "class": headers.get(f"{_PREFIX}exception.class.name", ""),
            "message": headers.get(f"{_PREFIX}exception.message", ""),
        },
        "device_id": device_of(key, value),
        "size": len(value or b""),
        "sha256": _digest(value),
        "state": str(State.OPEN),
        "state_at": _instant(record.timestamp),
        "attempts": 1,
        "replays": [],
        "dropped": None,
    }
    if len(key or b"") + len(value or b"") <= MAX_KEPT_BYTES:
        letter["key"] = None if key is None else Binary(key)
        letter["value"] = None if value is None else Binary(value)
    return letter


def device_of(key: bytes | None, value: bytes | None) -> str | None:
    """The meter that a message is about, as far as it can be recognised: its device_id field, else its key."""
    if found := _DEVICE_ID_FIELD.search((value or b"")[:MAX_MESSAGE_BYTES]):
        return found[1].decode()
    text = (key or b"")[:100].decode("ascii", "replace")
    return text if _DEVICE_ID.fullmatch(text) else None


def _texts(headers: Any) -> dict[str, str]:
    """The first header of each name, as text of bounded length."""
    texts: dict[str, str] = {}
    for name, value in headers:
        texts.setdefault(name, (value or b"")[: 4 * MAX_HEADER_CHARACTERS].decode("utf-8", "replace"))
    return {name: text[:MAX_HEADER_CHARACTERS] for name, text in texts.items()}


def _source(headers: dict[str, str]) -> dict[str, Any] | None:
    """Where the message came from: an offset of a topic, or a line of a file that `meters replay` has read."""
    topic, partition, offset = (headers.get(_PREFIX + name, "") for name in ("topic", "partition", "offset"))
    if topic and _NUMBER.fullmatch(partition) and _NUMBER.fullmatch(offset):
        return {"topic": topic, "partition": int(partition), "offset": int(offset)}
    return {"file": headers["source"]} if headers.get("source") else None


def _digest(value: bytes | None) -> str:
    return hashlib.sha256(value or b"").hexdigest()


def _instant(millis: int) -> datetime:
    # By the broker's clock on topics that the platform makes; elsewhere a producer may have written anything.
    if not 0 <= millis < 4_102_444_800_000:
        return datetime.now(UTC).replace(microsecond=0)
    return datetime.fromtimestamp(millis / 1000, UTC)
