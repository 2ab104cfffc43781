"""A Kafka client that no batch can stop: memory is bounded, and what cannot be unpacked becomes a `PutAside`.

kafka-python unpacks a batch whole and raises at a batch that is damaged or of an unknown codec, at each poll again.
Here the records before the damage are given out as usual; the rest of their batch follows as one record whose value
is a `PutAside` with the raw batch. Names of kafka-python are used that are not public: the version is pinned, and
tests guard them.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch

from streaming.kafka.unpack import CHUNK_BYTES, CODEC_NAMES, UnpackError, unpack

WHOLE_BYTES = 4 * 1024 * 1024
"""Batches that unpack to so much are unpacked at once; larger ones a record at a time, which is slower."""

MAX_RECORD_BYTES = 8 * 1024 * 1024
"""The largest record that is unpacked: a reading has at most 4 KiB. It fits into the dead letters' topic (16 MiB) also
where it cannot be compressed again."""

MAX_POLL_BYTES = 32 * 1024 * 1024
"""Values that one poll gives out, apart from the record that goes beyond."""

_VARINT_BYTES = 10


@dataclass(frozen=True)
class PutAside:
    """Messages of one batch that cannot be unpacked.

    Args:
        first: offset of the first of them.
        last: offset of the last one.
        reason: why, in words.
        raw: the batch as Kafka keeps it, header and all.
    """

    first: int
    last: int
    reason: str
    raw: bytes

    @property
    def messages(self) -> int:
        """How many messages at most; markers count."""
        return self.last - self.first + 1

    @property
    def digest(self) -> str:
        """SHA-256 of `raw`, in hexadecimal digits."""
        return hashlib.sha256(self.raw).hexdigest()

    def __len__(self) -> int:
        return len(self.raw)


class BoundedFetcher(Fetcher):
    """The part of a consumer that unpacks, with bounds; see `bound`."""

    _bytes_taken = 0

    def fetched_records(self, *arguments: Any, **options: Any) -> Any:
        """As the client's own, with no more than MAX_POLL_BYTES of values, apart from the record that goes beyond."""
        self._bytes_taken = 0
        return super().fetched_records(*arguments, **options)

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        taken = super()._append(drained, part, max_records, update_offsets)  # pyright: ignore[reportAttributeAccessIssue]
        if taken:
            self._bytes_taken += part.bytes_taken
        # The caller counts records; enough bytes are enough records, too.
        return max_records if self._bytes_taken >= MAX_POLL_BYTES else taken

    class PartitionRecords(Fetcher.PartitionRecords):  # pyright: ignore[reportAttributeAccessIssue]
        """The records of one fetch of one partition."""

        bytes_taken = 0

        def __init__(self, fetch_offset: int, tp: Any, records: Any, **options: Any) -> None:
            super().__init__(fetch_offset, tp, _Batches(records), **options)

        def take(self, n: int | None = None) -> list[Any]:
            """At most `n` records, and no more once they hold MAX_POLL_BYTES."""
            self.bytes_taken = 0
            taken = []
            for record in self.record_iterator or ():
                taken.append(record)
                self.bytes_taken += max(0, record.serialized_value_size)
                if len(taken) == n or self.bytes_taken >= MAX_POLL_BYTES:
                    break
            return taken


def bound(consumer: Any) -> None:
    """Have the consumer, which has not fetched yet, unpack with bounds."""
    consumer._fetcher.__class__ = BoundedFetcher


def read_batch(data: bytes) -> Iterator[Any]:
    """The records of one batch as Kafka keeps it; what cannot be unpacked is one record whose value is a PutAside."""
    return iter(_Batch(DefaultRecordBatch(data)))


class _Batches:
    """Kafka-python's batches of a fetch, each made harmless."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        try:
            batch = self._records.next_batch()
        except CorruptRecordError:  # no batch begins here; the partition is asked for it again
            return None
        return batch if batch is None or batch.magic != 2 else _Batch(batch)


class _Batch:
    """One batch; iterating over it never raises."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch
        self._is_damaged = not batch.validate_crc()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    @property
    def is_control_batch(self) -> bool:
        return self._batch.is_control_batch and not self._is_damaged

    def has_producer_id(self) -> bool:
        return self._batch.has_producer_id() and not self._is_damaged

    def validate_crc(self) -> bool:
        return True  # a damaged batch is put aside where its records would be

    def __next__(self) -> Any:  # the one record of a marker
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        batch = self._batch
        if self._is_damaged:
            yield self._aside(batch.base_offset, bytes(batch._buffer), "its checksum is wrong")
            return
        raw = bytes(batch._buffer) if batch.compression_type else memoryview(batch._buffer)
        offset = batch.base_offset
        try:
            for record in self._records(raw):
                offset = record.offset + 1
                yield record
        except (UnpackError, CorruptRecordError) as error:
            yield self._aside(offset, bytes(raw), str(error))

    def _records(self, raw: Any) -> Iterator[Any]:
        batch = self._batch
        codec = batch.compression_type
        if not codec:
            batch._decompressed = True
            yield from batch
            return
        source = unpack(codec, raw[batch._pos :], largest_block=MAX_RECORD_BYTES)
        begin = _read(source, WHOLE_BYTES + 1)
        batch._buffer, batch._pos, batch._decompressed = bytearray(begin), 0, True
        if len(begin) <= WHOLE_BYTES:
            yield from batch
        else:
            yield from self._one_by_one(source)

    def _one_by_one(self, source: Any) -> Iterator[Any]:
        """Records out of a window that holds little more than one of them."""
        batch = self._batch
        window = batch._buffer
        for _ in range(batch.records_count):
            if batch._pos > CHUNK_BYTES:
                del window[: batch._pos]
                batch._pos = 0
            self._fill(window, source, _VARINT_BYTES)
            size, length_bytes = _varint(window, batch._pos)
            if size > MAX_RECORD_BYTES:
                raise UnpackError(
                    f"a message of {size:,} bytes, packed with {CODEC_NAMES[batch.compression_type]}; "
                    f"at most {MAX_RECORD_BYTES:,} are unpacked"
                )
            self._fill(window, source, length_bytes + size)
            if size < 0 or len(window) < batch._pos + length_bytes + size:
                raise UnpackError("a record is cut off")
            yield next(batch)

    def _fill(self, window: bytearray, source: Any, size: int) -> None:
        missing = self._batch._pos + size - len(window)
        if missing > 0:
            window += _read(source, max(missing, CHUNK_BYTES))

    def _aside(self, first: int, raw: bytes, reason: str) -> "_AsideRecord":
        last = max(first, self._batch.last_offset)
        return _AsideRecord(last, self._batch.max_timestamp, PutAside(first, last, reason, raw))


class _AsideRecord:
    """Looks to kafka-python like the last record of the batch."""

    key = None
    headers: tuple[()] = ()
    checksum = None
    timestamp_type = 0

    def __init__(self, offset: int, timestamp: int, value: PutAside) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self.value = value
        self.size_in_bytes = len(value)

    def validate_crc(self) -> bool:
        return True


def _read(source: Any, size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    parts = []
    while size > 0 and (part := source.read(min(size, CHUNK_BYTES))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _varint(window: bytearray, position: int) -> tuple[int, int]:
    """Kafka's zigzag varint at a position, and how many bytes it takes."""
    value = 0
    for index, byte in enumerate(window[position : position + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), index + 1
    raise UnpackError("a record's length is cut off")
