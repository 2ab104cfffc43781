"""Messages that Kafka no longer has and that one of our readers never read: `iot.lost_messages`.

One document per reader, partition and range, so that the same loss, found twice, is one document:

    {_id: "ingest|iot-meter|<topic id>|3|1200", reader: "ingest", topic: "iot-meter", topic_id: "…", partition: 3,
     first: 1200, end: 1700, messages: 500, reason: "retention", found_at: …}

The law is produced = stored + duplicates + dead letters + lost. Counts are offsets: an upper bound where the range held
transaction markers, a lower one for a topic that was made again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pymongo import UpdateOne
from pymongo.database import Database

LOST_MESSAGES = "lost_messages"


class LossReason(StrEnum):
    """Why a reader could never read a range of offsets."""

    RETENTION = "retention"
    """Kafka removed the messages before the reader came to them."""
    TOPIC_RECREATED = "topic_recreated"
    """The topic was deleted and made again; what was unread in the old one is gone. A lower bound: what came after the
    reader's last look at the old topic is not known."""
    OFFSETS_MOVED = "offsets_moved"
    """Somebody moved the reader's saved offsets forward."""
    UNREADABLE = "unreadable"
    """The reader cannot unpack or parse what stands there, and went on behind it."""


@dataclass(frozen=True)
class Loss:
    """One range of offsets, `first` <= offset < `end`, of one partition.

    Args:
        reader: `ingest`, `ingest-faults` or `router`.
        topic_id: Kafka's id of the topic that held the range; distinguishes a topic from one made again under its name.
    """

    reader: str
    topic: str
    topic_id: str
    partition: int
    first: int
    end: int
    reason: LossReason

    @property
    def messages(self) -> int:
        """How many messages at most."""
        return self.end - self.first


def record_losses(database: Database, losses: Iterable[Loss]) -> None:
    """Keep the losses; a loss that is found again keeps its first document."""
    now = datetime.now(UTC)
    operations = []
    for loss in losses:
        fields: dict[str, Any] = {**vars(loss), "reason": str(loss.reason)}
        key = f"{loss.reader}|{loss.topic}|{loss.topic_id}|{loss.partition}|{loss.first}"
        change = {"$setOnInsert": {**fields, "messages": loss.messages, "found_at": now}}
        operations.append(UpdateOne({"_id": key}, change, upsert=True))
    if operations:
        database[LOST_MESSAGES].bulk_write(operations, ordered=False)


def lost_counts(database: Database) -> dict[str, int]:
    """How many messages each reader has lost, at most, by reader."""
    sums = database[LOST_MESSAGES].aggregate([{"$group": {"_id": "$reader", "messages": {"$sum": "$messages"}}}])
    return {each["_id"]: each["messages"] for each in sums}
