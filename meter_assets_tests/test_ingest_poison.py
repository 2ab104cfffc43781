"""Ingest and what cannot be unpacked: every codec is read, bombs and damage are put aside, memory is bounded."""

import gzip
import hashlib
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import lz4.frame
import pytest
import snappy
import zstandard
from kafka import KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.record.util import calc_crc32c

from meter_assets_tests.ingest_support import Pipe, electricity, header, source
from meter_assets_tests.support import wait_for
from metering.settings import Settings
from streaming.dead_letter_topic import MAX_DEAD_LETTER_BYTES, ensure_dead_letters_topic
from streaming.kafka.bounded_client import MAX_RECORD_BYTES, WHOLE_BYTES, PutAside, _Batches
from streaming.kafka.unpack import UnpackError, unpack

CODECS = {"gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
MEBIBYTE = 1024 * 1024


@pytest.fixture
def pipe(database: Settings) -> Pipe:
    return Pipe.fresh(database)


def producer(pipe: Pipe, codec: str) -> KafkaProducer:
    """A producer that packs all that is sent to a partition into one batch."""
    return KafkaProducer(
        bootstrap_servers=pipe.settings.kafka,
        linger_ms=500,
        compression_type=codec,
        batch_size=2**30,
        max_request_size=2**31 - 1,
    )


@pytest.mark.parametrize("codec", CODECS)
def test_messages_of_every_codec_are_stored(pipe: Pipe, codec: str):
    sender = producer(pipe, codec)
    for second in range(24):
        sender.send(pipe.feed.topics[0], value=electricity("k1", second)[1], partition=0)
    sender.close()

    counts = pipe.ingest()

    assert (counts.stored, counts.dead_letters) == (24, 0)


@pytest.mark.parametrize("codec", ["gzip", "lz4", "zstd"])
def test_a_bomb_is_put_aside_and_its_neighbours_are_stored(pipe: Pipe, codec: str):
    (topic,) = pipe.feed.topics
    bomb = b" " * (100 * MEBIBYTE)
    pipe.send([electricity("em1", second) for second in range(10)])
    sender = producer(pipe, codec)
    sent = sender.send(topic, key=b"bomb", value=bomb, partition=0).get(60)
    sender.close()
    pipe.send([electricity("em1", second) for second in range(10, 20)])

    counts = pipe.ingest()

    assert (counts.messages, counts.stored, counts.refused) == (21, 20, 1)
    pipe.check_conservation(counts)
    (letter,) = pipe.letters()
    assert header(letter, "reason") == "unreadable"
    assert source(letter) == (topic, 0, sent.offset)
    assert f"at most {MAX_RECORD_BYTES:,} are unpacked" in header(letter, "__connect.errors.exception.message")
    assert unpacked(codec, DefaultRecordBatch(letter.value)) == len(bomb)  # the whole of it is kept


def unpacked(codec: str, batch: Any) -> int:
    """Length of the first value of a batch, by the codec's own library."""
    packed = bytes(batch._buffer[batch._pos :])
    libraries = {
        "gzip": gzip.decompress,
        "lz4": lz4.frame.decompress,
        "zstd": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    return libraries[codec](packed).count(b" ")


def test_what_comes_before_a_bomb_in_its_batch_is_stored(pipe: Pipe):
    (topic,) = pipe.feed.topics
    sender = producer(pipe, "zstd")
    for second in range(10):
        sender.send(topic, value=electricity("em1", second)[1], partition=0)
    first = sender.send(topic, value=b" " * (2 * MAX_RECORD_BYTES), partition=0)
    last = sender.send(topic, value=electricity("em1", 10)[1], partition=0)
    sender.flush()
    assert (first.get(1).offset, last.get(1).offset) == (10, 11)
    sender.close()

    counts = pipe.ingest()

    assert (counts.messages, counts.stored, counts.refused) == (12, 10, 2)
    (letter,) = pipe.letters()
    assert source(letter) == (topic, 0, 10)
    assert header(letter, "messages") == "2"
    assert pipe.committed() == 12


def test_large_batches_of_small_messages_are_stored_one_by_one(pipe: Pipe):
    """More than WHOLE_BYTES in one batch: readings that happen to compress well are no bomb."""
    (topic,) = pipe.feed.topics
    sender = producer(pipe, "zstd")
    readings = WHOLE_BYTES // 60
    for second in range(readings):
        sender.send(topic, value=electricity("em1", second)[1], partition=0)
    sender.close()

    counts = pipe.ingest()

    assert (counts.stored, counts.dead_letters) == (readings, 0)


def batch_of(codec: str, values: list[bytes]) -> bytearray:
    builder = MemoryRecordsBuilder(magic=2, compression_type=CODECS[codec], batch_size=2**30)
    for value in values:
        builder.append(timestamp=0, key=b"key", value=value, headers=[])
    builder.close()
    return bytearray(builder.buffer())


def taken(raw: bytes | bytearray) -> list[Any]:
    """What a consumer is given of a batch: values, and at the end perhaps a PutAside."""
    batches = _Batches(MemoryRecords(bytes(raw)))
    found: list[Any] = []
    while batch := batches.next_batch():
        found += [record.value for record in batch]
    return found


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("at", [20, 60, -1])
def test_a_damaged_batch_is_put_aside_whole(codec: str, at: int):
    raw = batch_of(codec, [b"one", b"two"])
    raw[at] ^= 0xFF

    (aside,) = taken(raw)

    assert isinstance(aside, PutAside)
    assert aside.raw == bytes(raw)
    assert aside.digest == hashlib.sha256(raw).hexdigest()
    assert "checksum" in aside.reason


def resealed(raw: bytearray) -> bytes:
    """With a checksum that fits, as a broken producer would send it."""
    batch: Any = DefaultRecordBatch(raw)
    crc = calc_crc32c(memoryview(batch._buffer)[batch.ATTRIBUTES_OFFSET :])
    raw[batch.CRC_OFFSET : batch.CRC_OFFSET + 4] = crc.to_bytes(4, "big")
    return bytes(raw)


@pytest.mark.parametrize("codec", CODECS)
def test_packed_bytes_that_are_no_packed_bytes_are_put_aside(codec: str):
    raw = batch_of(codec, [b"x" * 500, b"y" * 500])
    raw[70:80] = b"\xff" * 10

    *before, aside = taken(resealed(raw))

    assert isinstance(aside, PutAside)
    assert all(value in (b"x" * 500, b"y" * 500) for value in before)


def test_an_unknown_codec_is_put_aside():
    raw = batch_of("gzip", [b"one", b"two", b"three"])
    raw[22] = (raw[22] & ~0x07) | 0x06

    (aside,) = taken(resealed(raw))

    assert (aside.first, aside.last, aside.messages) == (0, 2, 3)
    assert aside.reason == "codec 6 is unknown"


@pytest.mark.parametrize("codec", CODECS)
def test_unpacking_holds_little_more_than_a_record(codec: str):
    raw = bytes(batch_of(codec, [b" " * (6 * MEBIBYTE)] * 20))
    tracemalloc.start()
    try:
        batches = _Batches(MemoryRecords(raw))
        lengths = [len(record.value) for record in batches.next_batch()]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lengths == [6 * MEBIBYTE] * 20
    assert peak < 64 * MEBIBYTE


def test_a_snappy_block_that_claims_too_much_is_refused_unread():
    huge = snappy.compress(b" " * (2 * MAX_RECORD_BYTES))
    with pytest.raises(UnpackError, match="a snappy block holds"):
        unpack(2, bytes(huge), largest_block=MAX_RECORD_BYTES).read(1)


def test_a_dead_letter_topic_that_takes_too_little_is_named_and_waited_for(pipe: Pipe):
    ensure_dead_letters_topic(pipe.settings, pipe.dead_letters_topic)
    notices: list[str] = []
    ingest = pipe.new_ingest(notices.append)
    with closing(KafkaAdminClient(bootstrap_servers=pipe.settings.kafka)) as admin, ThreadPoolExecutor(1) as thread:
        configure: Any = lambda size: admin.alter_configs(  # noqa: E731
            [ConfigResource(ConfigResourceType.TOPIC, pipe.dead_letters_topic, {"max.message.bytes": str(size)})]
        )
        configure(200)
        pipe.send([electricity("em1", 1), (None, b"garbage"), electricity("em1", 2)])
        running = thread.submit(ingest.run)
        try:
            wait_for(lambda: notices or running.done(), 60, "it says so")
            assert f"{pipe.dead_letters_topic} takes no dead letter of this size" in notices[0]
            with pytest.raises(TimeoutError):
                running.result(timeout=5)  # it waits
            assert len(notices) == 1
            configure(MAX_DEAD_LETTER_BYTES)
            wait_for(lambda: pipe.committed() == 3 or running.done(), 60, "it goes on")
        finally:
            ingest.stop()
    assert running.result().dead_letters == len(pipe.letters()) == 1
    assert pipe.stored_count() == 2
