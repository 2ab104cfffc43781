"""One running router goes on: past compression bombs and markers, and through the ends of Spark and of MongoDB.

Each test has devices of its own, and leaves the router running and caught up.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from kafka import KafkaProducer

from local_stack import LocalStack
from meter_assets_tests.router_support import (
    RECOVERY_SECONDS,
    City,
    Router,
    end_of,
    fault,
    losses,
    own_kafka,
    send,
    wait_stored,
    wait_windows,
)
from meter_assets_tests.support import wait_for
from metering.settings import READINGS_TOPIC
from metering.store import FAULTS, WINDOW_AGGREGATES
from streaming.kafka.clients import ensure_topics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
]  # starts of Spark and of services, each with a limit of its own

MIB = 1 << 20


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


def jvm(router: Router) -> psutil.Process:
    """The router's Spark."""
    (found,) = (each for each in psutil.Process(router.process.pid).children() if each.name() == "java")
    return found


@pytest.fixture(scope="module")
def router(city: City) -> Iterator[Router]:
    with city.router() as running:
        running.wait_running()
        yield running
        assert "Traceback" not in running.stop()


@pytest.fixture(autouse=True)
def goes_on(router: Router) -> Iterator[None]:
    before = router.wait_running()
    yield
    after = router.wait_caught_up()
    assert after["pid"] == before["pid"]


def test_one_meter_with_two_types_has_windows_of_both(city: City, router: Router):
    restarts = router.heartbeat()["restarts"]
    send(city, b'{"device_id":"combi","timestamp":"2024-06-01T10:00:00Z","usage_kwh":1.5}')
    send(city, b'{"device_id":"combi","timestamp":"2024-06-01T10:00:01Z","usage":10,"flow_rate":1}')
    ids = {f"{m}m|2024-06-01T10:00:00Z|combi|{kind}" for m in (1, 10, 60) for kind in ("electricity", "water")}
    wait_for(
        lambda: ids == {each["_id"] for each in city.database[WINDOW_AGGREGATES].find({"device_id": "combi"})},
        RECOVERY_SECONDS,
        "windows of both",
    )
    send(city, fault("after-combi"))
    wait_stored(city, "after-combi")
    assert router.heartbeat()["restarts"] == restarts


def test_a_dead_spark_is_replaced_within_the_same_process(city: City, router: Router):
    restarts = router.heartbeat()["restarts"]
    jvm(router).kill()
    send(city, fault("dead-spark", 0))
    wait_stored(city, "dead-spark")
    # The windows' query does work in the new one, too.
    wait_windows(city, "dead-spark", 1)
    assert router.wait_caught_up()["restarts"] == restarts + 1, router.log()
    assert "Spark died: its process ended with code -9. Starts again in 1 s" in router.log()


def test_a_silent_mongodb_costs_no_fault_and_no_window(city: City, router: Router, own_stack: LocalStack):
    send(city, fault("before-silence"))
    wait_stored(city, "before-silence")
    child = own_stack.services["mongo"].child
    assert child
    mongod = psutil.Process(child.pid)
    mongod.suspend()
    try:
        silent_since = datetime.now(UTC)
        send(city, *[fault("silence", minute) for minute in range(10)])
        # Not a wait for a condition: the silence itself is what is tested.
        wait_for(lambda: datetime.now(UTC) - silent_since > timedelta(seconds=40), 60)
        assert router.process.poll() is None
    finally:
        mongod.resume()
    send(city, fault("after-silence"))
    wait_stored(city, "after-silence")
    wait_windows(city, "silence", 10)
    wait_windows(city, "after-silence", 1)
    assert city.database[FAULTS].count_documents({"device_id": "silence"}) == 10
    router.wait_caught_up()
    wait_windows(city, "silence", 10)


def test_transaction_markers_are_not_waited_for(city: City, router: Router):
    producer: Any = KafkaProducer(bootstrap_servers=city.settings.kafka, transactional_id="other-app")
    producer.init_transactions()
    for device, commits in (("committed-1", True), ("aborted", False), ("committed-2", True)):
        producer.begin_transaction()
        producer.send(READINGS_TOPIC, value=fault(device), partition=0).get(30)
        (producer.commit_transaction if commits else producer.abort_transaction)()
    producer.close()
    wait_stored(city, "committed-1", "committed-2")
    # The topic ends with a marker, which nobody reads: waiting for it, the router stopped its query after 60 s.
    assert router.wait_caught_up()["lag"] == 0
    assert city.database[FAULTS].count_documents({"device_id": "aborted"}) == 0


def test_bombs_are_passed_and_what_stands_beside_them_is_routed(city: City, router: Router):
    send(city, fault("before-bombs"))
    at = end_of(city, partition=0)
    send(city, b" " * 400 * MIB, compression_type="gzip")
    send(city, fault("behind-bomb"))
    send(city, fault("beside-bomb"), partition=1)
    wait_stored(city, "before-bombs", "behind-bomb", "beside-bomb")
    assert losses(city) == [("unreadable", 0, at, at + 1)]
    send(city, *[b" " * 60 * MIB] * 10, compression_type="lz4")
    send(city, fault("behind-bombs"))
    wait_stored(city, "behind-bombs")
    beat = router.wait_caught_up()
    assert ("unreadable", 0, at, at + 1) in losses(city)
    assert beat["restarts"] >= 1
    assert beat["lost"] == sum(end - first for _, _, first, end in losses(city))
    line = rf"route: Spark cannot take iot-meter partition 0, offset {at}: .*\. Goes on behind \(1 messages\)"
    assert re.search(line, router.log())
