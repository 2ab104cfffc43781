"""How far ingest has come on each partition: `iot.ingest_positions`, beside the group's offsets in Kafka.

Kafka's offsets alone cannot tell what was lost: they may be moved, may expire, and mean nothing for a topic that was
made again. One document per group and partition, written before the offsets are committed:

    {_id: "meters-ingest|iot-meter|3", topic_id: "…", next: 1200, settled: 1100, end_seen: 1500, unsettled: [], at: …}

Offsets below `next` are stored. Offsets below `settled` are committed, too, with their dead letters: when they are read
again, after somebody has moved the offsets back, no second dead letter is written. `unsettled` has the ranges below
`settled` that were skipped and are not committed yet, because the offsets were moved back.

Both numbers only grow: what a member has stored stays stored. So a member that wakes late, when another one has its
partitions, may write what it knows, and takes nothing back of what the other one has written since.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from kafka.errors import UnknownTopicOrPartitionError
from kafka.structs import OffsetAndMetadata, TopicPartition
from pymongo import UpdateOne
from pymongo.database import Database

from metering.lost_messages import LOST_MESSAGES, Loss, LossReason, record_losses
from metering.store import INGEST_POSITIONS
from streaming.kafka.clients import topic_ids


@dataclass(frozen=True)
class Position:
    """What is known of one partition; see the module's docstring.

    Args:
        end_seen: where the partition ended when it was last looked at.
        unsettled: first offset and end of each range.
    """

    topic_id: str
    next: int
    settled: int
    end_seen: int
    unsettled: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Kept:
    """What Kafka has of one partition.

    Args:
        first: the oldest offset it still has.
        end: the offset of the next message.
        committed: the group's offset; None where there is none.
    """

    topic_id: str
    first: int
    end: int
    committed: int | None


def resume(reader: str, tp: TopicPartition, known: Position | None, kept: Kept) -> tuple[int, Position, list[Loss]]:
    """Where to read on, what is known then, and what can never be read.

    Args:
        reader: who reads, for the losses.
        tp: the partition.
        known: its document; None: this group has never read it.
        kept: what Kafka has of it.
    """

    def loss(first: int, end: int, reason: LossReason) -> list[Loss]:
        return [Loss(reader, tp.topic, kept.topic_id, tp.partition, first, end, reason)] if end > first else []

    lost: list[Loss] = []
    if known and known.topic_id != kept.topic_id:
        # Also where nothing was seen to wait: what came after the last look went with the topic, and nobody counted it.
        end = max(known.next, known.end_seen)
        lost.append(Loss(reader, tp.topic, known.topic_id, tp.partition, known.next, end, LossReason.TOPIC_RECREATED))
        start = stored = settled = 0  # the group's offset, if any, is of the old topic
    else:
        stored, settled = (known.next, known.settled) if known else (0, 0)
        start = kept.committed if kept.committed is not None else settled
        if known and start > stored:
            lost += loss(stored, start, LossReason.OFFSETS_MOVED)
        if not known or start <= stored:
            settled = max(settled, start)  # a commit carries its dead letters
    unsettled = known.unsettled if known and known.topic_id == kept.topic_id else ()
    if start < kept.first:
        never_read = [*_beyond(start, unsettled), (max(start, settled), kept.first)]
        for first, end in never_read:
            lost += loss(first, min(end, kept.first), LossReason.RETENTION)
        start = kept.first
        settled = max(settled, start)
    start = min(start, kept.end)  # a broker that lost its newest messages gives their offsets to others
    stored = min(max(stored, start), kept.end)
    position = Position(kept.topic_id, stored, min(settled, kept.end), kept.end, _beyond(start, unsettled))
    return start, position, lost


def _beyond(offset: int, ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """What of the ranges is not below the offset."""
    return tuple((max(first, offset), end) for first, end in ranges if end > offset)


class Positions:
    """The positions of the partitions that one member has.

    Args:
        database: where they are kept.
        group: the consumer group.
        reader: its name in `iot.lost_messages`.
    """

    def __init__(self, database: Database, *, group: str, reader: str) -> None:
        self._database = database
        self._collection = database[INGEST_POSITIONS]
        self._group = group
        self._reader = reader
        self._positions: dict[TopicPartition, Position] = {}
        self._read_again: set[TopicPartition] = set()
        self.lost = 0
        """Messages that this member has found to be lost, at most."""

    def take_up(self, consumer: Any) -> list[Loss]:
        """Have the consumer read on where its assigned partitions stand; keeps and returns what is lost.

        Raises:
            kafka.errors.KafkaError, pymongo.errors.PyMongoError: one of them does not answer.
        """
        assigned = sorted(consumer.assignment())
        # The order matters. The member that has a partition stores its position before it commits, and reads no further
        # than the end. So a committed offset that is read first is never beyond the position, nor that beyond the end.
        committed = {tp: consumer.committed(tp) for tp in assigned}
        documents = {
            each["_id"]: each for each in self._collection.find({"_id": {"$in": list(map(self._id, assigned))}})
        }
        first, end = consumer.beginning_offsets(assigned), consumer.end_offsets(assigned)
        ids = topic_ids(consumer, *{tp.topic for tp in assigned})
        if missing := {tp.topic for tp in assigned} - set(ids):
            raise UnknownTopicOrPartitionError(f"the topic {missing.pop()} is gone")
        lost: list[Loss] = []
        begin: dict[TopicPartition, int] = {}
        known: dict[TopicPartition, Position] = {}
        positions: dict[TopicPartition, Position] = {}
        for tp in assigned:
            if document := documents.get(self._id(tp)):
                fields = {name: document[name] for name in ("topic_id", "next", "settled", "end_seen")}
                unsettled = tuple((first, end) for first, end in document.get("unsettled", ()))
                known[tp] = Position(**fields, unsettled=unsettled)
            kept = Kept(ids[tp.topic], first[tp], end[tp], committed[tp])
            begin[tp], positions[tp], missed = resume(self._reader, tp, known.get(tp), kept)
            lost += missed
        record_losses(self._database, lost)  # first: a position that is kept hides what was lost before it
        found = {tp: self._found_again(tp, positions[tp].topic_id, begin[tp]) for tp in assigned}
        for tp, again in found.items():
            if again:
                ranges = tuple(sorted({*positions[tp].unsettled, *_beyond(begin[tp], again.values())}))
                first = min(first for first, _ in ranges)
                positions[tp] = replace(positions[tp], next=min(positions[tp].next, first), unsettled=ranges)
        self._positions = positions
        self._read_again = {tp for tp, position in positions.items() if position.unsettled}
        self._keep(positions, replaced=[tp for tp in assigned if _is_replaced(known.get(tp), positions[tp])])
        for tp, again in found.items():  # now that they are kept as unsettled
            self._forget(again, begin[tp])
        for tp in assigned:
            consumer.seek(tp, begin[tp])
        self.lost += sum(loss.messages for loss in lost)
        return lost

    def is_of(self, consumer: Any) -> bool:
        """Are the topics still those of the positions? A topic made again under its name has another id."""
        topics = {tp.topic: position.topic_id for tp, position in self._positions.items()}
        return topics.items() <= topic_ids(consumer, *topics).items() if topics else True

    def is_settled(self, record: Any) -> bool:
        """Was the message read and committed before, with its dead letter if it got one?"""
        tp = TopicPartition(record.topic, record.partition)
        position = self._positions.get(tp)
        if position is None or record.offset >= position.settled:
            return False
        return not any(first <= record.offset < end for first, end in position.unsettled)

    def store(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], ends: Mapping[TopicPartition, int]) -> None:
        """Keep that all below the offsets is stored; call it after the write and before the commit.

        Args:
            offsets: the next offset of each partition.
            ends: where partitions end, as far as that is known.
        """
        changed = {}
        for tp, offset in offsets.items():
            position = self._positions[tp]
            changed[tp] = replace(
                position,
                next=max(position.next, offset.offset),
                end_seen=max(offset.offset, ends.get(tp, position.end_seen)),
            )
        self._keep(changed)
        self._positions.update(changed)

    def settle(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        """Note that the offsets are committed; MongoDB gets to know with the next `store`, or with `flush`."""
        for tp, offset in offsets.items():
            position = self._positions[tp]
            unsettled = _beyond(offset.offset, position.unsettled)
            self._positions[tp] = replace(position, settled=max(position.settled, offset.offset), unsettled=unsettled)

    def flush(self) -> None:
        """Keep what `settle` has noted."""
        self._keep(self._positions)

    def _id(self, tp: TopicPartition) -> str:
        return f"{self._group}|{tp.topic}|{tp.partition}"

    def _keep(self, positions: Mapping[TopicPartition, Position], *, replaced: Collection[TopicPartition] = ()) -> None:
        now = datetime.now(UTC)
        operations = []
        for tp, position in positions.items():
            numbers = {"next": position.next, "settled": position.settled, "end_seen": position.end_seen}
            if tp in replaced:
                change = {
                    "$set": {"topic_id": position.topic_id, **numbers, "unsettled": position.unsettled, "at": now}
                }
                operations.append(UpdateOne({"_id": self._id(tp)}, change, upsert=True))
            else:
                # Only the member that reads the ranges may change them: one that wakes late has an older list.
                unsettled = {"unsettled": position.unsettled} if tp in self._read_again else {}
                change = {"$max": numbers, "$set": {**unsettled, "at": now}}
                operations.append(UpdateOne({"_id": self._id(tp), "topic_id": position.topic_id}, change))
        if operations:
            self._collection.bulk_write(operations, ordered=False)

    def _found_again(self, tp: TopicPartition, topic_id: str, begin: int) -> dict[str, tuple[int, int]]:
        """Losses that can be read after all, because somebody moved the offsets back: their ranges by id."""
        skipped = {
            "reader": self._reader,
            "topic": tp.topic,
            "topic_id": topic_id,
            "partition": tp.partition,
            "end": {"$gt": begin},
            "reason": str(LossReason.OFFSETS_MOVED),
        }
        return {each["_id"]: (each["first"], each["end"]) for each in self._database[LOST_MESSAGES].find(skipped)}

    def _forget(self, losses: Mapping[str, tuple[int, int]], begin: int) -> None:
        """Delete losses that are read now, and shorten those that began before `begin`: their first part stays lost."""
        lost = self._database[LOST_MESSAGES]
        for key, (first, _) in losses.items():
            if first < begin:
                lost.update_one({"_id": key}, {"$set": {"end": begin, "messages": begin - first}})
            else:
                lost.delete_one({"_id": key})


def _is_replaced(known: Position | None, position: Position) -> bool:
    """Must the document be written as it is? It is new, or less is known than before.

    Less is known when the topic was made again, has lost its newest messages, or skipped ones are read after all.
    """
    if known is None or known.topic_id != position.topic_id:
        return True
    return bool(position.unsettled) or position.next < known.next or position.settled < known.settled


def describe_losses(losses: Iterable[Loss]) -> str:
    """One sentence about losses: how many messages, why, and where."""
    losses = list(losses)
    reasons = {
        LossReason.RETENTION: "Kafka's retention removed them before they were read",
        LossReason.TOPIC_RECREATED: "their topic was deleted and made again, and more may have come before that",
        LossReason.OFFSETS_MOVED: "somebody moved the group's offsets forward",
        LossReason.UNREADABLE: "they cannot be unpacked",
    }
    parts = []
    for reason in dict.fromkeys(loss.reason for loss in losses):
        of_reason = [loss for loss in losses if loss.reason == reason]
        messages = sum(loss.messages for loss in of_reason)
        where = ", ".join(f"{loss.topic}-{loss.partition} from {loss.first} up to {loss.end}" for loss in of_reason[:3])
        more = f" and {len(of_reason) - 3} more" if len(of_reason) > 3 else ""
        what = f"{messages:,} messages are lost" if messages else "Messages may be lost"
        parts.append(f"{what}: {reasons[reason]} ({where}{more})")
    return "; ".join(parts)
