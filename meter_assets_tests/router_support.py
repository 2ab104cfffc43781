"""A broker and a MongoDB of the router tests' own, and the real `meters route` on them.

Of their own, because the topic's name is the platform's: on the session's broker, other tests' readings would be
routed too.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from kafka import KafkaProducer
from pymongo.database import Database

from local_stack import LocalStack
from local_stack.jars import fetch_jars
from meter_assets_tests.support import settings_for, wait_for
from metering.lost_messages import LOST_MESSAGES
from metering.settings import READINGS_TOPIC, Settings
from metering.store import FAULTS, HEARTBEATS, WINDOW_AGGREGATES, ensure_collections
from runtime.database import connect
from streaming.ingest.batch import Counts, faults_feed
from streaming.ingest.member import Ingest
from streaming.kafka.clients import open_consumer, partitions_of
from streaming.simulator.city import make_city
from streaming.simulator.options import SimulationOptions
from streaming.simulator.sent_ledger import Ledger
from streaming.simulator.simulate import simulate_history

START_SECONDS = 300
ROUTE_SECONDS = 150
RECOVERY_SECONDS = 240
"""The goal is 60 s on a machine of its own; the tests share theirs with everything that they start."""


class Router:
    """A running `meters route`."""

    def __init__(self, settings: Settings, database: Database, arguments: tuple[str, ...]) -> None:
        self._database = database
        # Read while the router runs, which appends to it; a pipe would fill up.
        self._errors = tempfile.TemporaryFile("a+")
        self.process = subprocess.Popen(
            [Path(sys.executable).with_name("meters"), "route", *arguments],
            # As a child of a process that uses Spark Connect: what that leaves in the environment must not matter.
            env={**os.environ, **settings.environment(), "SPARK_CONNECT_MODE_ENABLED": "1"},
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def heartbeat(self) -> dict[str, Any]:
        """Its last heartbeat; empty before the first one of its own."""
        beat = self._database[HEARTBEATS].find_one({"_id": "router", "pid": self.process.pid})
        return beat or {}

    def wait_running(self) -> dict[str, Any]:
        """Wait for the first heartbeat of running queries."""
        return wait_for(self._running, START_SECONDS, "the router runs")

    def wait_caught_up(self) -> dict[str, Any]:
        """Wait until it has read everything that is there."""
        since = datetime.now(UTC) + timedelta(seconds=3)  # where the readings end is asked every second or so

        def caught_up() -> dict[str, Any]:
            beat = self._running()
            return beat if beat and beat["lag"] == 0 and beat["at"] > since else {}

        return wait_for(caught_up, START_SECONDS, "the router has caught up")

    def _running(self) -> dict[str, Any]:
        assert self.process.poll() is None, self.log()
        beat = self.heartbeat()
        return beat if beat.get("state") == "running" else {}

    def stop(self) -> str:
        """End it in order; what it wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        assert self.process.returncode == 0, self.log()
        return self.log()

    def log(self) -> str:
        """What it has written to standard error so far."""
        self._errors.seek(0)
        return self._errors.read()

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()

    def wait_failed(self) -> str:
        """Wait until it gives up; the line that says why."""
        self.process.wait(START_SECONDS)
        errors = self.log()
        assert self.process.returncode not in (0, None), errors
        lines = errors.strip().splitlines()
        assert "Traceback" not in errors, errors
        return lines[-1]


@contextmanager
def own_kafka(**changes: Any) -> Iterator[LocalStack]:
    """A broker and a MongoDB of a module's own, in a folder that goes with the block.

    Args:
        changes: settings unlike those of all tests.
    """
    home = Path(tempfile.mkdtemp(prefix="meters-"))
    chosen = settings_for(home, **{"kafka_partitions": 2, "router_batch_seconds": 10, **changes})
    fetch_jars(chosen)
    with LocalStack(chosen, services=("mongo", "kafka")) as stack:
        yield stack
    shutil.rmtree(home, ignore_errors=True)


@dataclass
class City:
    """Meters in the registry, their readings on the topic, and what is known of them."""

    settings: Settings
    database: Database
    ledgers: list[Ledger]

    @classmethod
    def fresh(cls, settings: Settings) -> Self:
        """With an empty database."""
        database = connect(settings)
        ensure_collections(database)
        return cls(settings, database, [])

    def send(self, *, until: str, households: int = 10, days: int = 1, seed: int = 1, **rates: float) -> Ledger:
        """Register a city, and send its past days."""
        options = replace(
            SimulationOptions(seed=seed, days=days, until=date.fromisoformat(until), fault_rate=0.05), **rates
        )
        city = make_city(
            households=households, seed=seed, interval_seconds=900, installed_at=datetime(2020, 1, 1, tzinfo=UTC)
        )
        ledger = simulate_history(city, self.settings, options)
        self.ledgers.append(ledger)
        return ledger

    def injected(self) -> set[str]:
        """Ids of all faulty readings that were sent."""
        return {fault for ledger in self.ledgers for fault in ledger.fault_ids}

    def store_faults(self) -> Counts:
        """Ingest what the router has sent."""
        return Ingest(self.settings, feed=faults_feed(self.settings)).run(until_caught_up=True)

    def stored(self) -> set[str]:
        """Ids of the faults that are stored."""
        return {document["_id"] for document in self.database[FAULTS].find({}, {"_id": 1})}

    def wait_exactly_the_injected(self) -> None:
        """Ingest until every injected fault is stored; then none may be too many, and none twice."""

        def all_stored() -> bool:
            self.store_faults()
            return self.injected() <= self.stored()

        wait_for(all_stored, ROUTE_SECONDS, "every injected fault is stored")
        assert self.stored() == self.injected()
        assert self.database[FAULTS].count_documents({}) == len(self.injected())

    @contextmanager
    def router(self, *arguments: str, **changes: Any) -> Iterator[Router]:
        """A `meters route`; killed at the end of the block if it still runs."""
        running = Router(self.settings.model_copy(update=changes), self.database, arguments)
        try:
            yield running
        finally:
            running.kill()


def fault(device: str, minute: int = 0) -> bytes:
    """A reading with the meter's own fault sign."""
    return f'{{"device_id":"{device}","timestamp":"2024-06-01T10:{minute:02}:00Z","usage_kwh":-1}}'.encode()


def send(city: City, *values: bytes, partition: int = 0, **options: Any) -> None:
    """Each value as a batch of its own."""
    producer: Any = KafkaProducer(
        bootstrap_servers=city.settings.kafka,
        max_request_size=2_147_000_000,
        batch_size=2_000_000_000,
        request_timeout_ms=120_000,
        delivery_timeout_ms=130_000,
        **options,
    )
    for value in values:
        producer.send(READINGS_TOPIC, key=b"x", value=value, partition=partition)
        producer.flush()
    producer.close()


def wait_stored(city: City, *devices: str) -> None:
    """Wait until a fault of each device is stored, each once."""

    def stored() -> bool:
        city.store_faults()
        return set(devices) <= set(city.database[FAULTS].distinct("device_id"))

    wait_for(stored, RECOVERY_SECONDS, f"faults of {devices} are stored")
    for device in devices:
        assert city.database[FAULTS].count_documents({"device_id": device}) == 1


def wait_windows(city: City, device: str, faulty: int) -> None:
    """Wait until the device's one hour has so many faulty readings."""

    def counted() -> bool:
        found = city.database[WINDOW_AGGREGATES].find({"minutes": 60, "device_id": device})
        return [each["faulty"] for each in found] == [faulty]

    wait_for(counted, RECOVERY_SECONDS, f"the windows of {device} are complete")


def end_of(city: City, *, partition: int) -> int:
    """Where a partition of iot-meter ends."""
    consumer: Any = open_consumer(city.settings, group=None)
    try:
        (end,) = (
            at
            for each, at in consumer.end_offsets(partitions_of(consumer, READINGS_TOPIC)).items()
            if each.partition == partition
        )
        return end
    finally:
        consumer.close()


def losses(city: City) -> list[tuple[str, int, int, int]]:
    kept = city.database[LOST_MESSAGES].find({"reader": "router"}).sort([("partition", 1), ("first", 1)])
    return [(each["reason"], each["partition"], each["first"], each["end"]) for each in kept]
