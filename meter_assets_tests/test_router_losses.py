"""What a router can never read, because Kafka has lost or damaged it, is passed, recorded and reported."""

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

from local_stack import LocalStack
from meter_assets_tests.router_support import (
    RECOVERY_SECONDS,
    City,
    fault,
    losses,
    own_kafka,
    send,
    wait_stored,
    wait_windows,
)
from meter_assets_tests.support import wait_for
from metering.settings import READINGS_TOPIC
from streaming.kafka.clients import ensure_topics, open_consumer, partitions_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]  # starts of Spark and of services, each with a limit of its own


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    with own_kafka() as stack:
        yield stack


@pytest.fixture(scope="module")
def city(own_stack: LocalStack) -> Iterator[City]:
    fresh = City.fresh(own_stack.settings)
    ensure_topics(own_stack.settings, READINGS_TOPIC)
    yield fresh
    fresh.database.client.close()


def test_what_a_stopped_router_can_never_read_is_passed_and_recorded(city: City, own_stack: LocalStack):
    """A damaged batch, what retention removed, a topic made again under a running router, a checkpoint that is gone."""
    with city.router() as router:
        send(city, fault("routed"))
        wait_stored(city, "routed")
        wait_for(lambda: router.heartbeat()["batches"] >= 2, RECOVERY_SECONDS, "a batch is committed")
        router.stop()
    send(city, *[fault("gone", minute) for minute in range(10)])
    for number in range(4):
        send(city, fault(f"number-{number}"))
    damage(own_stack, batch=12)
    drop(city, 11)
    with city.router() as router:
        wait_stored(city, "number-0", "number-2", "number-3")
        beat = router.wait_caught_up()
        assert losses(city) == [("retention", 0, 1, 11), ("unreadable", 0, 12, 13)]
        assert beat["lost"] == 11
        wait_windows(city, "number-3", 1)  # by the other query
        delete_topic(own_stack)
        ensure_topics(city.settings, READINGS_TOPIC)
        send(city, fault("new-topic"), *[b"{}"] * 30)  # with more in it than the old one had
        wait_stored(city, "new-topic")
        router.wait_caught_up()
        log = router.stop()
    assert "retention removed 10 messages" in log
    assert "was deleted and made again" in log
    assert "Traceback" not in log
    shutil.rmtree(Path(city.settings.router_place) / "faults")
    with city.router("--accept-gap") as router:  # still accepted
        send(city, fault("no-checkpoint"))
        wait_stored(city, "no-checkpoint")
        assert router.wait_caught_up()["lost"] >= 11
        log = router.stop()
    assert "is gone: begins with the oldest readings" in log


def delete_topic(stack: LocalStack) -> None:
    admin: Any = KafkaAdminClient(bootstrap_servers=stack.settings.kafka)
    admin.delete_topics([READINGS_TOPIC])
    wait_for(lambda: READINGS_TOPIC not in admin.list_topics(), 30, "the topic is gone")
    admin.close()


def damage(stack: LocalStack, *, batch: int) -> None:
    """Change a byte of a batch of partition 0 in Kafka's file."""
    stack.stop_service("kafka")
    (segment,) = (stack.settings.home / "kafka").rglob(f"{READINGS_TOPIC}-0/*.log")
    data = bytearray(segment.read_bytes())
    begin = 0
    for _ in range(batch):
        begin += 12 + struct.unpack_from(">i", data, begin + 8)[0]
    data[begin + 75] ^= 0xFF
    segment.write_bytes(data)
    stack.start_service("kafka")


def drop(city: City, until: int) -> None:
    """Have Kafka remove the oldest readings of partition 0, as retention does."""
    consumer: Any = open_consumer(city.settings, group=None)
    (partition,) = (each for each in partitions_of(consumer, READINGS_TOPIC) if each.partition == 0)
    consumer.close()
    admin: Any = KafkaAdminClient(bootstrap_servers=city.settings.kafka)
    admin.delete_records({partition: until})
    admin.close()
