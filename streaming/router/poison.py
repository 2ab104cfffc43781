"""Which batches of a partition Spark's Kafka client cannot take, found by a reader whose memory is bounded.

Spark's client takes up to RECORDS_A_POLL records at once, each as large as it likes, and dies of what is damaged. No
option bounds that. So, when the router's queries have died, this module reads the batches that they had before them.
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import calc_crc32c

from metering.reading import MAX_MESSAGE_BYTES
from streaming.kafka.unpack import CHUNK_BYTES, UnpackError, unpack
from streaming.router.raw_log import HEADER, RawBatch, RawLog

RECORDS_A_POLL = 10_000
"""Readings taken from Kafka at once; some 1.5 MB. Spark asks for a partition's bounds and fetches again at every poll:
with Kafka's default of 500 most of a fetch is thrown out."""

HEAVY_RECORD_BYTES = 2 * MAX_MESSAGE_BYTES
"""A record that is larger is no reading, and is heavy."""

HEAVY_BYTES_A_POLL = 16 << 20
"""Heavy records that one poll may hold. Every task of both queries may have as many, twice, in METERS_SPARK_MEMORY."""

LARGEST_LIGHT_BATCH = 1 << 20
"""A batch that unpacks to less is not looked at record by record: what it may hold of heavy ones is counted whole."""

LOOK_SECONDS = 20
"""How long one search may take. The next one goes on where it ended."""

LARGEST_SNAPPY_BLOCK = 64 << 20
"""A snappy block is unpacked at once; Java's producers write blocks of 32 KiB."""

MAX_VARINT_BYTES = 5


@dataclass(frozen=True)
class Poison:
    """A range of offsets, `first` <= offset < `end`, that the queries cannot pass."""

    partition: int
    first: int
    end: int
    why: str


class Search:
    """Looks for poison in what the queries have yet to pass.

    Args:
        consumer: see RawLog.
        topic: the topic.
        thorough: parse every record as well; for when nothing else was found.
    """

    def __init__(self, consumer: Any, topic: str, *, thorough: bool = False) -> None:
        self._log = RawLog(consumer, topic)
        self._thorough = thorough
        self._deadline = time.monotonic() + LOOK_SECONDS
        self.reached: dict[int, int] = {}

    def run(self, begin: dict[int, int], ends: dict[int, int]) -> list[Poison]:
        """All poison between those offsets of each partition; `reached` is how far the search came.

        Raises:
            KafkaError: the broker does not answer.
        """
        return [
            each
            for partition, start in begin.items()
            for each in _joined(self._partition(partition, start, ends.get(partition, start)))
        ]

    def _partition(self, partition: int, start: int, end: int) -> Iterator[Poison]:
        recent: deque[tuple[int, int]] = deque()  # heavy bytes in the last records, and where those end
        self.reached[partition] = start
        for batch in self._log.batches(partition, start, end):
            if time.monotonic() > self._deadline:
                return
            if batch.delivered:
                while recent and recent[0][0] < batch.first - RECORDS_A_POLL:
                    recent.popleft()
                allowed = HEAVY_BYTES_A_POLL - sum(heavy for _, heavy in recent)
                heavy, why = examine(batch, allowed, thorough=self._thorough)
                if why:
                    yield Poison(partition, max(start, batch.first), min(end, batch.end), why)
                elif heavy:
                    recent.append((batch.end, heavy))
            self.reached[partition] = min(end, batch.end)


def examine(batch: RawBatch, allowed: int = HEAVY_BYTES_A_POLL, *, thorough: bool = False) -> tuple[int, str]:
    """How many bytes of heavy records a batch has, and why it cannot be taken; empty when it can."""
    data = batch.data
    if data is None:
        return 0, "the log is damaged there"
    header = HEADER.unpack_from(data)
    magic, checksum, attributes, records = header[3], header[4], header[5], header[-1]
    if magic != 2:
        return 0, f"its format {magic} is unknown"
    if calc_crc32c(memoryview(data)[DefaultRecordBatch.ATTRIBUTES_OFFSET :]) != checksum:
        return 0, "its checksum does not match"
    try:
        heavy = _heavy_bytes(attributes & DefaultRecordBatch.CODEC_MASK, data[HEADER.size :], records, allowed)
        if heavy > allowed:
            return 0, f"it unpacks to more than {allowed:,} bytes"
        if thorough:
            for _ in DefaultRecordBatch(data):
                pass
    except UnpackError as error:
        return 0, f"it does not unpack: {error}"
    except Exception as error:  # kafka-python raises what it likes over bytes that it does not expect
        return 0, f"its records cannot be parsed: {error}"
    return heavy, ""


def _heavy_bytes(codec: int, packed: bytes, records: int, allowed: int) -> int:
    """Bytes of heavy records; more than `allowed` as soon as that is certain."""
    begun = bytearray()
    source = unpack(codec, packed, largest_block=LARGEST_SNAPPY_BLOCK)
    while piece := source.read(CHUNK_BYTES):
        begun += piece
        if len(begun) > LARGEST_LIGHT_BATCH:
            break
    else:
        return len(begun) if len(begun) > records * HEAVY_RECORD_BYTES else 0
    heavy = seen = 0
    at = 0
    size = None  # of the record at `at`; it may be larger than what is unpacked
    while True:
        if size is None:
            size, at = _size(begun, at)
        if size is not None and at + size <= len(begun):
            heavy += size if size > HEAVY_RECORD_BYTES else 0
            at, size, seen = at + size, None, seen + 1
        else:
            missing = size or 0
            # What is read is dropped: of a record larger than a piece, too.
            drop = min(at + missing, len(begun)) if size is not None else at
            if size is not None:
                size -= drop - at
                heavy += drop - at if missing > HEAVY_RECORD_BYTES else 0
            del begun[:drop]
            at = 0
            if not (piece := source.read(CHUNK_BYTES)):
                break
            begun += piece
        if heavy > allowed:
            return heavy
    if begun or size or seen != records:
        raise UnpackError(f"{seen:,} records in it, not {records:,}")
    return heavy


def _size(data: bytearray, at: int) -> tuple[int | None, int]:
    """A record's size, a varint, and where the record then begins; None where it is not all there."""
    value = shift = 0
    for position in range(at, min(at + MAX_VARINT_BYTES, len(data))):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            size = (value >> 1) ^ -(value & 1)
            if size < 0:
                raise UnpackError("a record has a negative size")
            return size, position + 1
        shift += 7
    if at + MAX_VARINT_BYTES <= len(data):
        raise UnpackError("a record has no size")
    return None, at


def _joined(found: Iterator[Poison]) -> Iterator[Poison]:
    """Neighbours as one range."""
    last: Poison | None = None
    for each in found:
        if last is not None and last.end == each.first:
            last = Poison(each.partition, last.first, each.end, last.why)
            continue
        if last is not None:
            yield last
        last = each
    if last is not None:
        yield last
