"""The parts of the router that need no Spark: raw batches, poison, transaction markers, checkpoints, old ids."""

import json
import shutil
import struct
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lz4.frame
import pytest
import snappy
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.codec import gzip_encode, snappy_encode, zstd_encode
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c
from pymongo.database import Database

from local_stack import LocalStack
from meter_assets_tests.router_support import own_kafka
from meter_assets_tests.support import wait_for
from metering.lost_messages import LOST_MESSAGES
from metering.settings import READINGS_TOPIC, Settings
from metering.store import WINDOW_AGGREGATES, ensure_collections
from runtime.database import connect
from streaming.kafka.clients import ensure_topics, open_consumer
from streaming.kafka.unpack import CHUNK_BYTES, GZIP, LZ4, NONE, SNAPPY, ZSTD, UnpackError, unpack
from streaming.router.checkpoint import AGGREGATES_QUERY, FAULTS_QUERY, KnownTopic, Place
from streaming.router.failures import explain, innermost
from streaming.router.old_windows import WINDOWS_A_BATCH, after_id, rename_old_windows
from streaming.router.poison import HEAVY_BYTES_A_POLL, Search, examine
from streaming.router.raw_log import HEADER, RawBatch, RawLog, Undelivered
from streaming.router.settlement import Settlement

NOON = datetime(2024, 5, 18, 12, tzinfo=UTC)
MIB = 1 << 20


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    """A Kafka of this module's own: the topic's name is the platform's."""
    with own_kafka() as stack:
        yield stack


@pytest.fixture
def own(own_stack: LocalStack) -> Iterator[Settings]:
    """An empty topic, an empty database, and no checkpoint."""
    delete_topic(own_stack.settings)
    shutil.rmtree(own_stack.settings.router_place, ignore_errors=True)
    settings = own_stack.settings.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    ensure_topics(settings, READINGS_TOPIC)
    yield settings


@pytest.fixture
def documents(own: Settings) -> Iterator[Database]:
    database = connect(own)
    ensure_collections(database)
    yield database
    database.client.drop_database(database.name)
    database.client.close()


def delete_topic(settings: Settings) -> None:
    admin: Any = KafkaAdminClient(bootstrap_servers=settings.kafka)
    if READINGS_TOPIC in admin.list_topics():
        admin.delete_topics([READINGS_TOPIC])
        wait_for(lambda: READINGS_TOPIC not in admin.list_topics(), 30, "the topic is gone")
    admin.close()


def send(settings: Settings, *values: bytes, partition: int = 0, **options: Any) -> None:
    """Each value as a batch of its own."""
    producer: Any = KafkaProducer(bootstrap_servers=settings.kafka, max_request_size=1 << 30, **options)
    for value in values:
        producer.send(READINGS_TOPIC, key=b"em1", value=value, partition=partition)
        producer.flush()
    producer.close()


@contextmanager
def raw(settings: Settings) -> Iterator[tuple[Any, RawLog]]:
    consumer: Any = open_consumer(settings, group=None)
    consumer.partitions_for_topic(READINGS_TOPIC)
    try:
        yield consumer, RawLog(consumer, READINGS_TOPIC)
    finally:
        consumer.close()


def pieces(codec: int, packed: bytes) -> list[bytes]:
    source = unpack(codec, packed, largest_block=64 * MIB)
    return list(iter(lambda: source.read(CHUNK_BYTES), b""))


@pytest.mark.parametrize(
    ("codec", "packed"),
    [
        (NONE, lambda data: data),
        (GZIP, gzip_encode),
        (GZIP, lambda data: gzip_encode(data[:10]) + gzip_encode(data[10:])),
        (SNAPPY, snappy_encode),
        (SNAPPY, snappy.compress),
        (LZ4, lz4.frame.compress),
        (ZSTD, zstd_encode),
    ],
)
def test_every_codec_is_unpacked_in_pieces(codec: int, packed: Any):
    data = bytes(range(256)) * 20_000
    unpacked = pieces(codec, packed(data))
    assert b"".join(unpacked) == data
    assert max(map(len, unpacked)) <= CHUNK_BYTES


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD, 5])
def test_what_does_not_unpack_is_an_error_of_one_kind(codec: int):
    for data in (b"nonsense", b"\x82SNAPPY\x00" + b"\x00" * 12, b"\x1f\x8b\x08" + b"\x00" * 20):
        with pytest.raises(UnpackError):
            pieces(codec, data)


def batch(*values: bytes, codec: int = NONE, first: int = 0) -> RawBatch:
    """A batch as a producer makes it."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 30)
    for number, value in enumerate(values):
        builder.append(number, 1_700_000_000_000, b"em1", value, [])
    return RawBatch(first, first + len(values), bytes(builder.build()))


def damaged(good: RawBatch, at: int, byte: int, *, checksum: bool) -> RawBatch:
    """The batch with another byte there; with a checksum that matches, or not."""
    data = bytearray(good.data or b"")
    data[at] = byte
    if checksum:
        struct.pack_into(">I", data, DefaultRecordBatch.CRC_OFFSET, calc_crc32c(bytes(data[21:])))
    return RawBatch(good.first, good.end, bytes(data))


ATTRIBUTES = DefaultRecordBatch.ATTRIBUTES_OFFSET + 1


def test_sound_batches_are_taken_and_each_kind_of_poison_is_named():
    good = batch(*[b'{"device_id":"em1"}'] * 1000)
    assert examine(good, thorough=True) == (0, "")
    for codec in (GZIP, SNAPPY, LZ4, ZSTD):
        assert examine(batch(*[b"x" * 200] * 50_000, codec=codec)) == (0, "")
        heavy, why = examine(batch(b"x" * 2 * MIB, b"y", codec=codec))
        assert heavy == pytest.approx(2 * MIB, rel=0.01) and not why
        assert "unpacks to more than" in examine(batch(b" " * (HEAVY_BYTES_A_POLL + MIB), codec=codec))[1]
    assert "checksum" in examine(damaged(good, 100, 0xFF, checksum=False))[1]
    assert "codec 7 is unknown" in examine(damaged(good, ATTRIBUTES, 7, checksum=True))[1]
    assert "does not unpack" in examine(damaged(good, ATTRIBUTES, GZIP, checksum=True))[1]
    assert "format 9" in examine(damaged(good, 16, 9, checksum=True))[1]
    broken = damaged(good, HEADER.size + 4, 0x7E, checksum=True)
    assert examine(broken) == (0, "") and "cannot be parsed" in examine(broken, thorough=True)[1]
    assert "damaged" in examine(RawBatch(0, 1, None))[1]


def test_many_heavy_batches_are_poison_together_and_readings_between_them_are_not(own: Settings):
    reading = b'{"device_id":"em1","timestamp":"2024-05-18T12:00:00Z","usage_kwh":1}'
    for _ in range(4):
        send(own, b" " * 7 * MIB, compression_type="gzip")
        send(own, reading)
    send(own, *[reading] * 3, partition=1)
    with raw(own) as (consumer, log):
        search = Search(consumer, READINGS_TOPIC)
        found = search.run({0: 0, 1: 0}, {0: 8, 1: 3})
        assert [(each.partition, each.first, each.end) for each in found] == [(0, 4, 5), (0, 6, 7)]
        assert search.reached == {0: 8, 1: 3}
        assert [(each.first, each.end) for each in log.batches(0, 3, 8)] == [(n, n + 1) for n in range(3, 8)]


def test_a_log_that_the_broker_cannot_read_is_passed_in_steps(own: Settings, own_stack: LocalStack):
    for number in range(40):
        send(own, b"%d" % number * 2000)
    own_stack.stop_service("kafka")
    (segment,) = (own.home / "kafka").rglob(f"{READINGS_TOPIC}-0/*.log")
    data = bytearray(segment.read_bytes())
    begin = 0
    for _ in range(7):
        begin += 12 + struct.unpack_from(">i", data, begin + 8)[0]
    data[begin + 70] ^= 0xFF  # a value: the checksum does not match
    segment.write_bytes(data)
    own_stack.start_service("kafka")
    with raw(own) as (consumer, _):
        (found,) = Search(consumer, READINGS_TOPIC).run({0: 0}, {0: 40})
    assert (found.first, found.end) == (7, 8)
    assert "checksum" in found.why


def test_offsets_that_nobody_reads_are_counted(own: Settings):
    send(own, b"1", b"2")
    producer: Any = KafkaProducer(bootstrap_servers=own.kafka, transactional_id="other-app")
    producer.init_transactions()
    for commits in (True, False, True):
        producer.begin_transaction()
        producer.send(READINGS_TOPIC, value=b"3", partition=0).get(30)
        producer.send(READINGS_TOPIC, value=b"4", partition=0).get(30)
        (producer.commit_transaction if commits else producer.abort_transaction)()
    producer.close()
    with raw(own) as (_, log):
        counted = Undelivered(log)
        # 2 readings; 2 and a marker; 2 aborted and a marker; 2 and a marker.
        assert counted.count({0: 0, 1: 0}, {0: 11, 1: 0}) == 5
        assert counted.count({0: 0, 1: 0}, {0: 11, 1: 0}) == 5
        assert counted.count({0: 5}, {0: 11}) == 4
        assert counted.count({0: 6}, {0: 11}) == 3
        send(own, b"5")
        assert counted.count({0: 6}, {0: 12}) == 3
        assert counted.count({0: 10}, {0: 12}) == 1


class Settled:
    """A checkpoint, settled with Kafka; the lines that a user saw."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.place = Place(settings.router_place)
        self.lines: list[str] = []
        self._database = database
        self.settlement = Settlement(
            settings, self.place, database, queries=[FAULTS_QUERY, AGGREGATES_QUERY], report=self.lines.append
        )

    def losses(self) -> list[tuple[str, int, int, int]]:
        """Of the router: reason, partition, first, end."""
        kept = self._database[LOST_MESSAGES].find({"reader": "router"}).sort("_id")
        return [(each["reason"], each["partition"], each["first"], each["end"]) for each in kept]


def test_a_first_start_begins_with_the_oldest_and_says_nothing(own: Settings, documents: Database):
    send(own, b"1", b"2")
    settled = Settled(own, documents)
    bounds = settled.settlement.settle()
    for query in (FAULTS_QUERY, AGGREGATES_QUERY):
        assert settled.place.position(query) == {0: 0, 1: 0}
    assert (settled.lines, settled.losses()) == ([], [])
    assert settled.place.topic() == KnownTopic(bounds.topic_id, {0: 2, 1: 0})
    settled.settlement.settle(has_routed=True)
    assert settled.lines == []


def test_what_retention_removed_is_recorded_once_and_passed(own: Settings, documents: Database):
    send(own, *[b"1"] * 10)
    settled = Settled(own, documents)
    settled.settlement.settle()
    settled.place.advance(FAULTS_QUERY, {0: 2, 1: 0})
    before = settled.place.query_id(FAULTS_QUERY)
    drop(own, 7)
    for _ in range(2):
        settled.settlement.settle(has_routed=True)
    assert settled.place.position(FAULTS_QUERY) == {0: 7, 1: 0}
    assert settled.place.query_id(FAULTS_QUERY) == before
    assert settled.place.position(AGGREGATES_QUERY) == {0: 0, 1: 0}  # micro-batches pass it by themselves
    assert settled.losses() == [("retention", 0, 2, 7)]
    assert settled.settlement.lost() == 5
    assert len(settled.lines) == 1 and "retention removed 5 messages" in settled.lines[0]


def test_a_first_batch_that_never_ended_is_no_excuse(own: Settings, documents: Database):
    """Spark's own first entry, without a commit: as routers before this one left it."""
    send(own, *[b"1"] * 10)
    settled = Settled(own, documents)
    source = settled.place.of(FAULTS_QUERY) / "sources" / "0"
    source.mkdir(parents=True)
    (source / "0").write_text('\0v1\n{"iot-meter":{"0":0,"1":0}}')
    (settled.place.of(FAULTS_QUERY) / "metadata").write_text(json.dumps({"id": str(uuid.uuid4())}))
    drop(own, 4)
    settled.settlement.settle(has_routed=True)
    assert settled.place.position(FAULTS_QUERY) == {0: 4, 1: 0}
    assert settled.losses() == [("retention", 0, 0, 4)]


@pytest.mark.parametrize("messages", [2, 30])
def test_a_topic_made_again_is_known_by_its_id_however_much_is_in_it(own: Settings, documents: Database, messages: int):
    send(own, *[b"1"] * 10)
    settled = Settled(own, documents)
    settled.settlement.settle()
    settled.place.advance(FAULTS_QUERY, {0: 6, 1: 0})
    windows = settled.place.query_id(AGGREGATES_QUERY)
    old = settled.place.topic()
    delete_topic(own)
    ensure_topics(own, READINGS_TOPIC)
    send(own, *[b"1"] * messages)
    settled.settlement.settle(has_routed=True)
    assert settled.place.position(FAULTS_QUERY) == settled.place.position(AGGREGATES_QUERY) == {0: 0, 1: 0}
    assert settled.place.query_id(AGGREGATES_QUERY) != windows  # windows are taken from the beginning
    assert settled.losses() == [("topic_recreated", 0, 6, 10)]
    assert old and old.topic_id in documents[LOST_MESSAGES].find_one({})["_id"]  # pyright: ignore
    assert len(settled.lines) == 1 and "up to 4 readings" in settled.lines[0]


@pytest.mark.parametrize("harm", ["gone", "metadata", "offsets"])
def test_a_checkpoint_that_is_gone_or_damaged_begins_with_the_oldest(own: Settings, documents: Database, harm: str):
    send(own, *[b"1"] * 10)
    settled = Settled(own, documents)
    settled.settlement.settle()
    settled.place.advance(FAULTS_QUERY, {0: 6, 1: 0})
    faults = settled.place.of(FAULTS_QUERY)
    if harm == "gone":
        shutil.rmtree(faults)
    elif harm == "metadata":
        (faults / "metadata").unlink()
    else:
        (faults / "offsets" / "1").write_text("v1\n{")
    settled.settlement.settle(has_routed=True)
    assert settled.place.position(FAULTS_QUERY) == {0: 0, 1: 0}
    assert len(settled.lines) == 1
    assert ("is gone" if harm == "gone" else "is damaged") in settled.lines[0]
    assert "begins with the oldest readings" in settled.lines[0]
    assert settled.losses() == []


def drop(settings: Settings, until: int) -> None:
    """Have Kafka remove the oldest readings of partition 0, as retention does."""
    with raw(settings) as (consumer, _):
        (partition,) = (each for each in topic_partitions(consumer) if each.partition == 0)
    admin: Any = KafkaAdminClient(bootstrap_servers=settings.kafka)
    admin.delete_records({partition: until})
    admin.close()


def topic_partitions(consumer: Any) -> list[Any]:
    from streaming.kafka.clients import partitions_of

    return partitions_of(consumer, READINGS_TOPIC)


def old_window(device: str, minutes: int = 10) -> dict[str, Any]:
    return {
        "_id": f"{minutes}m|2024-05-18T12:00:00Z|{device}",
        "device_id": device,
        "meter_type": "water",
        "count": 3,
        "expires_at": NOON + timedelta(days=40_000),
    }


def test_windows_with_old_ids_are_renamed_once_and_an_interrupted_rename_goes_on(documents: Database):
    windows = documents[WINDOW_AGGREGATES]
    count = 2 * WINDOWS_A_BATCH + 10
    windows.insert_many([old_window(f"wm{number}") for number in range(count)])
    # A rename that was interrupted between its two steps, and a window of the new form.
    half = old_window("wm3")
    windows.insert_one({**half, "_id": f"{half['_id']}|water", "count": 4})
    windows.insert_one({**old_window("em1"), "_id": "10m|2024-05-18T12:00:00Z|em1|electricity", "count": 5})
    assert rename_old_windows(documents) == count
    assert windows.count_documents({}) == count + 1
    assert windows.count_documents({"_id": {"$regex": r"\|water$"}}) == count
    assert windows.find_one({"_id": "10m|2024-05-18T12:00:00Z|wm3|water"}, {"_id": 0, "count": 1}) == {"count": 4}
    assert windows.find_one({"_id": "10m|2024-05-18T12:00:00Z|wm7|water"}, {"_id": 0, "device_id": 1, "count": 1}) == {
        "device_id": "wm7",
        "count": 3,
    }
    windows.insert_one(old_window("wm8"))
    assert rename_old_windows(documents) == 0  # it is noted as done: no later start reads the windows


def test_a_batch_of_the_rename_reads_a_range_of_the_index(documents: Database):
    documents[WINDOW_AGGREGATES].insert_many([old_window(f"wm{number}") for number in range(200)])
    query = documents[WINDOW_AGGREGATES].find(after_id("10m|2024-05-18T12:00:00Z|wm50")).sort("_id", 1).limit(20)
    stats = query.explain()["executionStats"]
    assert (stats["totalKeysExamined"], stats["totalDocsExamined"]) == (20, 20)


PYTHON_IN_JAVA = """[STREAM_FAILED] Query [id = 1] terminated with exception: An exception was raised by the \
Python Proxy. Return Message: Traceback (most recent call last):
  File "/x/py4j/clientserver.py", line 645, in _call_proxy
    return_value = getattr(self.pool[obj_id], method)(*params)
  File "/x/streaming/router/windows.py", line 46, in add_parts
    windows.insert_many(new, ordered=False)
pymongo.errors.BulkWriteError: batch op errors occurred, full error: {'writeErrors': []}
 SQLSTATE: XXKST
\tat org.apache.spark.sql.execution.streaming.StreamExecution.runStream(StreamExecution.scala:1)
Caused by: py4j.Py4JException: An exception was raised. Return Message: Traceback (most recent call last):
  File "/x/y.py", line 1, in z
"""


def test_the_innermost_cause_is_found_in_python_and_java_traces():
    assert innermost(PYTHON_IN_JAVA).startswith("pymongo.errors.BulkWriteError: batch op errors occurred")
    java = (
        "[STREAM_FAILED] x terminated with exception: Job aborted\n\tat a.b.C(D.scala:1)\nCaused by: a.B: outer\n\tat"
    )
    assert innermost(f"{java} c.d(E.java:2)\nCaused by: java.io.IOException: inner\n\t... 3 more") == (
        "java.io.IOException: inner"
    )
    assert innermost("Traceback (most recent call last):\n") == "it ended without a reason"
    assert "Traceback" not in explain(Exception(PYTHON_IN_JAVA)).why


@pytest.mark.parametrize(
    "text",
    [
        "java.io.IOException: No space left on device",
        "[X] SQLSTATE: 58030",
        "java.lang.InternalError: a fault occurred in a recent unsafe memory access operation in compiled Java code",
    ],
)
def test_a_full_disk_is_named_with_its_folder(text: str, tmp_path: Path):
    failure = explain(Exception(f"Job aborted\n\tat a.b(C.java:1)\nCaused by: {text}"), folders=[tmp_path])
    assert failure.service and "is full" in failure.why and "make room there" in failure.why
    assert str(tmp_path) in failure.why or tempfile.gettempdir() in failure.why
