"""A partition's record batches as Kafka keeps them, without unpacking any: their headers and their bytes.

Kafka's ordinary clients unpack a whole batch at once, whatever it grows to, and stop at one that is damaged. This
reader asks for a few MB at a time and goes on behind a batch that it cannot parse.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka.errors import CorruptRecordError, KafkaError, OffsetOutOfRangeError, UnknownError, for_code
from kafka.protocol.consumer import FetchRequest
from kafka.record.default_records import DefaultRecordBatch
from kafka.structs import TopicPartition

FETCH_BYTES = 4 << 20
"""Most bytes of one answer. A batch that is larger still comes whole: the topic's max.message.bytes bounds it."""

ANSWER_WITHIN_MS = 10_000
HEADER = DefaultRecordBatch.HEADER_STRUCT
LENGTH_ENDS_AT = DefaultRecordBatch.AFTER_LEN_OFFSET
DAMAGED = (CorruptRecordError, UnknownError)
"""What a broker answers that cannot read its own log there."""

READ_COMMITTED = 1
FIRST_VERSION, LAST_VERSION = 4, 12
"""Of the fetch protocol: with transactions, and with topics by name."""


@dataclass(frozen=True)
class RawBatch:
    """One batch: offsets `first` <= offset < `end`.

    Args:
        data: its bytes; None where the log is damaged and holds no batch that can be parsed.
        delivered: does a reader of committed messages get its records? False for markers of transactions, and for
            what an aborted transaction wrote.
    """

    first: int
    end: int
    data: bytes | None
    delivered: bool = True


class RawLog:
    """Reads one topic's batches.

    Args:
        consumer: whose connections are used, from the consumer's own thread only.
        topic: the topic.
    """

    # Any: pyright's stubs describe kafka-python 2.
    def __init__(self, consumer: Any, topic: str) -> None:
        consumer.partitions_for_topic(topic)  # has the client know the leaders
        self._client = consumer._client
        self._topic = topic

    def batches(self, partition: int, start: int, end: int) -> Iterator[RawBatch]:
        """The batches that hold offsets from `start` to before `end`, in order.

        Raises:
            KafkaError: the broker does not answer, or no longer has `start`.
        """
        at = start
        while at < end:
            try:
                fetched = self._fetch(partition, at)
            except DAMAGED:
                behind = self._next_readable(partition, at, end)
                yield RawBatch(at, behind, None)
                at = behind
                continue
            before = at
            for batch in _parse(fetched, at):
                if batch.first < end:
                    yield batch
                at = max(at, batch.end)
            if at == before:  # an empty answer, or one that does not begin with a batch
                if not fetched.records:
                    return
                behind = self._next_readable(partition, at, end)
                yield RawBatch(at, behind, None)
                at = behind

    def _next_readable(self, partition: int, damaged: int, end: int) -> int:
        """The first offset behind a damaged one at which the log can be read; in steps that double."""
        step = 1
        while damaged + step < end:
            try:
                first = next(_parse(self._fetch(partition, damaged + step), damaged + step), None)
            except DAMAGED:
                first = None
            if first is not None and first.end > damaged + step:
                return max(first.first, damaged + 1)
            step *= 2
        return end

    def _fetch(self, partition: int, offset: int) -> Any:
        wanted = FetchRequest.FetchTopic.FetchPartition(
            partition=partition,
            current_leader_epoch=-1,
            fetch_offset=offset,
            last_fetched_epoch=-1,
            log_start_offset=-1,
            partition_max_bytes=FETCH_BYTES,
        )
        request = FetchRequest(
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=FETCH_BYTES,
            isolation_level=READ_COMMITTED,
            session_id=0,
            session_epoch=-1,
            topics=[FetchRequest.FetchTopic(topic=self._topic, partitions=[wanted])],
            forgotten_topics_data=[],
            rack_id="",
            min_version=FIRST_VERSION,
            max_version=LAST_VERSION,
        )
        leader = self._client.cluster.leader_for_partition(TopicPartition(self._topic, partition))
        if leader is None or leader < 0:
            self._client.cluster.request_update()
            raise KafkaError(f"partition {partition} of {self._topic} has no leader")
        manager = self._client._manager

        async def answer() -> Any:
            return await manager.send(request, node_id=leader, request_timeout_ms=ANSWER_WITHIN_MS)

        found = manager.run(answer).responses[0].partitions[0]
        if found.error_code:
            error = for_code(found.error_code)
            if not issubclass(error, (*DAMAGED, OffsetOutOfRangeError)):
                self._client.cluster.request_update()
            raise error(f"partition {partition} of {self._topic} at offset {offset}")
        return found


def _parse(fetched: Any, at: int) -> Iterator[RawBatch]:
    """The whole batches of an answer; it ends before one that is cut off, and before what is no batch."""
    data = bytes(fetched.records or b"")
    aborted = sorted((each.first_offset, each.producer_id) for each in fetched.aborted_transactions or ())
    aborting: set[int] = set()
    begin = 0
    while begin + HEADER.size <= len(data):
        base, length, _, _, _, attributes, delta, _, _, producer, _, _, _ = HEADER.unpack_from(data, begin)
        stop = begin + LENGTH_ENDS_AT + length
        if length < HEADER.size - LENGTH_ENDS_AT or stop > len(data) or base < 0:
            return
        # The number of offsets is covered by the checksum, the beginning of the next batch is not: where they differ,
        # that beginning counts.
        end = base + delta + 1
        if stop + LENGTH_ENDS_AT <= len(data):
            following = int.from_bytes(data[stop : stop + 8], "big", signed=True)
            if delta < 0 or end > following > base:
                end = following
        if delta < 0 and end <= base:
            end = base + 1
        while aborted and aborted[0][0] < end:
            aborting.add(aborted.pop(0)[1])
        control = bool(attributes & DefaultRecordBatch.CONTROL_MASK)
        transactional = bool(attributes & DefaultRecordBatch.TRANSACTIONAL_MASK)
        delivered = not control and not (transactional and producer in aborting)
        if control:
            aborting.discard(producer)
        if end > at:
            yield RawBatch(base, end, data[begin:stop], delivered)
        begin = stop


class Undelivered:
    """Counts offsets that no reader ever gets as a message: markers of transactions, and what those aborted.

    Args:
        log: where they are.
    """

    def __init__(self, log: RawLog) -> None:
        self._log = log
        self._seen: dict[int, tuple[int, int, int]] = {}

    def count(self, begin: dict[int, int], ends: dict[int, int]) -> int:
        """How many of them are from `begin` to before `ends`, of all partitions; only what is new is read."""
        return sum(self._count(partition, at, ends.get(partition, at)) for partition, at in begin.items())

    def _count(self, partition: int, begin: int, end: int) -> int:
        since, at, found = self._seen.get(partition, (begin, begin, 0))
        if since != begin or at > end:
            since, at, found = begin, begin, 0
        for batch in self._log.batches(partition, at, end):
            start = max(batch.first, at)
            found += start - at  # what compaction has removed
            if not batch.delivered:
                found += batch.end - start
            at = batch.end
        self._seen[partition] = (since, at, found)
        return found
