"""The parts of the router that need no Spark: raw batches, poison, transaction markers, checkpoints, old ids."""

import json
import shutil
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from pymongo.database import Database

from local_stack import LocalStack
from meter_assets_tests.router_support import own_kafka
from meter_assets_tests.support import wait_for
from metering.lost_messages import LOST_MESSAGES
from metering.settings import READINGS_TOPIC, Settings
from metering.store import ensure_collections
from runtime.database import connect
from streaming.kafka.clients import ensure_topics, open_consumer
from streaming.router.checkpoint import AGGREGATES_QUERY, FAULTS_QUERY, KnownTopic, Place
from streaming.router.poison import Search
from streaming.router.raw_log import RawLog, Undelivered
from streaming.router.restart_offsets import RestartOffsets

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
        self.restart_offsets = RestartOffsets(
            settings, self.place, database, queries=[FAULTS_QUERY, AGGREGATES_QUERY], report=self.lines.append
        )

    def losses(self) -> list[tuple[str, int, int, int]]:
        """Of the router: reason, partition, first, end."""
        kept = self._database[LOST_MESSAGES].find({"reader": "router"}).sort("_id")
        return [(each["reason"], each["partition"], each["first"], each["end"]) for each in kept]


def test_a_first_start_begins_with_the_oldest_and_says_nothing(own: Settings, documents: Database):
    send(own, b"1", b"2")
    settled = Settled(own, documents)
    bounds = settled.restart_offsets.settle()
    for query in (FAULTS_QUERY, AGGREGATES_QUERY):
        assert settled.place.position(query) == {0: 0, 1: 0}
    assert (settled.lines, settled.losses()) == ([], [])
    assert settled.place.topic() == KnownTopic(bounds.topic_id, {0: 2, 1: 0})
    settled.restart_offsets.settle(has_routed=True)
    assert settled.lines == []


def test_what_retention_removed_is_recorded_once_and_passed(own: Settings, documents: Database):
    send(own, *[b"1"] * 10)
    settled = Settled(own, documents)
    settled.restart_offsets.settle()
    settled.place.advance(FAULTS_QUERY, {0: 2, 1: 0})
    before = settled.place.query_id(FAULTS_QUERY)
    drop(own, 7)
    for _ in range(2):
        settled.restart_offsets.settle(has_routed=True)
    assert settled.place.position(FAULTS_QUERY) == {0: 7, 1: 0}
    assert settled.place.query_id(FAULTS_QUERY) == before
    assert settled.place.position(AGGREGATES_QUERY) == {0: 0, 1: 0}  # micro-batches pass it by themselves
    assert settled.losses() == [("retention", 0, 2, 7)]
    assert settled.restart_offsets.lost() == 5
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
    settled.restart_offsets.settle(has_routed=True)
    assert settled.place.position(FAULTS_QUERY) == {0: 4, 1: 0}
    assert settled.losses() == [("retention", 0, 0, 4)]


@pytest.mark.parametrize("messages", [2, 30])
def test_a_topic_made_again_is_known_by_its_id_however_much_is_in_it(own: Settings, documents: Database, messages: int):
    send(own, *[b"1"] * 10)
    settled = Settled(own, documents)
    settled.restart_offsets.settle()
    settled.place.advance(FAULTS_QUERY, {0: 6, 1: 0})
    windows = settled.place.query_id(AGGREGATES_QUERY)
    old = settled.place.topic()
    delete_topic(own)
    ensure_topics(own, READINGS_TOPIC)
    send(own, *[b"1"] * messages)
    settled.restart_offsets.settle(has_routed=True)
    assert settled.place.position(FAULTS_QUERY) == settled.place.position(AGGREGATES_QUERY) == {0: 0, 1: 0}
    assert settled.place.query_id(AGGREGATES_QUERY) != windows  # windows are taken from the beginning
    assert settled.losses() == [("topic_recreated", 0, 6, 10)]
    assert old and old.topic_id in documents[LOST_MESSAGES].find_one({})["_id"]  # pyright: ignore
    assert len(settled.lines) == 1 and "up to 4 readings" in settled.lines[0]


@pytest.mark.parametrize("harm", ["gone", "metadata", "offsets"])
def test_a_checkpoint_that_is_gone_or_damaged_begins_with_the_oldest(own: Settings, documents: Database, harm: str):
    send(own, *[b"1"] * 10)
    settled = Settled(own, documents)
    settled.restart_offsets.settle()
    settled.place.advance(FAULTS_QUERY, {0: 6, 1: 0})
    faults = settled.place.of(FAULTS_QUERY)
    if harm == "gone":
        shutil.rmtree(faults)
    elif harm == "metadata":
        (faults / "metadata").unlink()
    else:
        (faults / "offsets" / "1").write_text("v1\n{")
    settled.restart_offsets.settle(has_routed=True)
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
