"""The real-time router as its users run it: what it routes, what it survives, and what it refuses."""

import random
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient

from local_stack import LocalStack
from meter_assets.routing.decision import HEARTBEAT_SECONDS
from meter_assets_tests.router_support import City, own_kafka
from meter_assets_tests.support import read_topic, wait_for
from metering.settings import DEAD_LETTERS_TOPIC, READINGS_TOPIC
from metering.store import LATEST_READINGS, READINGS, WINDOW_AGGREGATES
from streaming.ingest.member import Ingest
from streaming.kafka.clients import Sender

pytestmark = pytest.mark.timeout(600)  # several starts of Spark and of services, each with a limit of its own


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    with own_kafka() as stack:
        yield stack


@pytest.fixture
def city(own_stack: LocalStack) -> Iterator[City]:
    """Empty topics, an empty database and no checkpoint."""
    settings = own_stack.settings
    admin: Any = KafkaAdminClient(bootstrap_servers=settings.kafka)
    ours = [topic for topic in admin.list_topics() if topic.startswith("iot-")]
    if ours:
        admin.delete_topics(ours)
        wait_for(lambda: not set(ours) & set(admin.list_topics()), 30, "the topics are gone")
    admin.close()  # the groups' offsets go with their topics
    shutil.rmtree(settings.router_place, ignore_errors=True)
    fresh = City.fresh(settings)
    fresh.database.client.drop_database(fresh.database.name)
    fresh = City.fresh(settings)
    yield fresh
    fresh.database.client.close()


def test_every_injected_fault_is_routed_and_windows_and_latest_readings_are_kept(city: City):
    sent = city.send(until="2024-05-19", garbage_rate=0.01, duplicate_rate=0.02, late_rate=0.02)
    assert sent.garbage > 10
    with city.router() as router:
        router.wait_caught_up()
        city.wait_exactly_the_injected()

        messages = sent.readings + sent.duplicates
        expected = dict.fromkeys((1, 10, 60), messages)  # by minutes; a batch writes one length after another
        wait_for(lambda: all(windows(city).get(each, 0) >= messages for each in expected), 100, "all windows are full")
        assert windows(city) == expected
        check_an_hour(city)
        check_latest(city)

        # Of its own clock's future, and late: neither moves the latest reading.
        device, newest = "em1", city.database[LATEST_READINGS].find_one({"_id": "em1"})
        assert newest
        with Sender(city.settings, READINGS_TOPIC) as sender:
            for at in (datetime.now(UTC) + timedelta(days=400), datetime(2024, 5, 1, 7, tzinfo=UTC)):
                text = f'{{"device_id":"{device}","timestamp":"{at.isoformat()}","usage_kwh":0.125}}'
                sender.send(text.encode(), key=device.encode())
        late = {"_id": "60m|2024-05-01T07:00:00Z|em1|electricity", "count": 1, "late": 1, "sum": 0.125}
        wait_for(lambda: city.database[WINDOW_AGGREGATES].find_one(late), 60, "the late reading is in its window")
        future = wait_for(lambda: city.store_faults() and city.stored() - city.injected(), 60, "the future is a fault")
        assert [key.split("|")[1] for key in future] == ["em1"]
        assert wait_for(lambda: router.heartbeat()["late_rows"], 30, "late rows are counted") >= 1
        # Written before they are counted.
        assert city.database[LATEST_READINGS].find_one({"_id": "em1"}) == newest

        # A second one by mistake.
        with city.router() as second:
            line = second.wait_failed()
            assert second.process.returncode == 75
            assert "A router is at work" in line
            assert str(router.process.pid) in line
        log = router.stop()
    assert "Exception" not in log

    # Malformed messages are dead-lettered once, by ingest; the router has kept silent about them.
    Ingest(city.settings).run(until_caught_up=True)
    assert len(read_topic(city.settings, DEAD_LETTERS_TOPIC)) == sent.garbage


def windows(city: City) -> dict[int, int]:
    """Readings in the windows of each length in minutes."""
    group = {"_id": "$minutes", "readings": {"$sum": {"$add": ["$count", "$faulty"]}}}
    return {row["_id"]: row["readings"] for row in city.database[WINDOW_AGGREGATES].aggregate([{"$group": group}])}


def check_an_hour(city: City) -> None:
    """One hour's window against the readings that ingest has stored, each message once."""
    Ingest(city.settings).run(until_caught_up=True)
    windows = list(city.database[WINDOW_AGGREGATES].find({"minutes": 60, "device_id": "em2", "faulty": 0, "count": 4}))
    assert windows
    for window in windows:
        inside = {"device_id": "em2", "timestamp": {"$gte": window["window_start"], "$lt": window["window_end"]}}
        values = [reading["usage_kwh"] for reading in city.database[READINGS].find(inside)]
        if len(values) == 4:  # no duplicate among them, which a window counts and storage does not
            assert (window["min"], window["max"]) == (min(values), max(values))
            assert window["sum"] == pytest.approx(sum(values))
            assert window["mean"] == pytest.approx(sum(values) / 4)


def check_latest(city: City) -> None:
    newest = {"$group": {"_id": "$device_id", "timestamp": {"$max": "$timestamp"}}}
    expected = {row["_id"]: row["timestamp"] for row in city.database[READINGS].aggregate([newest])}

    def kept() -> bool:  # after the windows
        return expected == {row["_id"]: row["timestamp"] for row in city.database[LATEST_READINGS].find()}

    wait_for(kept, 30, "the newest reading of each meter")


@pytest.mark.slow
def test_killed_under_load_with_the_broker_it_loses_and_repeats_nothing(city: City, own_stack: LocalStack):
    chance = random.Random(3)
    # All meters: those that come later than a batch of the router are unknown to it, and their readings are faults.
    city.send(until="2024-05-19", households=40)
    for day in range(2):
        with city.router("--no-aggregates") as router:
            router.wait_running()
            city.send(until=f"2024-05-{20 + day}", households=40)
            router.heartbeat()
            time.sleep(chance.random() * 2)  # a random moment is what is tested
            router.kill()
    with city.router("--no-aggregates") as router:
        router.wait_running()
        own_stack.kill("kafka")
        killed_at = datetime.now(UTC)
        # A client that waits for the broker must not keep the router from saying that it lives.
        wait_for(
            lambda: router.heartbeat()["at"] > killed_at + timedelta(seconds=8), HEARTBEAT_SECONDS, "heartbeats go on"
        )
        own_stack.start_service("kafka")
        city.send(until="2024-05-22")
        city.wait_exactly_the_injected()


def test_micro_batches_give_the_same_results(city: City):
    city.send(until="2024-05-19")
    with city.router("--no-aggregates", router_mode="micro-batch") as router:
        router.wait_caught_up()
        city.wait_exactly_the_injected()
        router.stop()
