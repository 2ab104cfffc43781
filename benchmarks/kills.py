"""Kills: the router and the broker killed under load, again and again; what is stored afterwards, and how long it took.

Dagster's sensor starts each next router, as in an installation.
"""

import os
import random
import signal
import threading
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

from benchmarks.measure import Bench, Result, median
from benchmarks.routing import fresh
from local_stack.dagster import Dagster
from metering.errors import MetersError
from metering.settings import Settings
from metering.store import FAULTS, HEARTBEATS
from runtime.database import connect
from streaming.ingest.batch import faults_feed
from streaming.ingest.member import Ingest
from streaming.simulator.city import make_city
from streaming.simulator.options import SimulationOptions
from streaming.simulator.simulate import simulate_history

ROUTER_KILLS, BROKER_KILLS = 10, 2
HOUSEHOLDS = 20
FIRST_DAY = date(2015, 1, 1)
SETTLED_SECONDS = 45
"""A run that ends within a minute counts as one that cannot stay up, and the sensor takes its time with the next; the
router is up some 20 s after its run began."""

START_WITHIN_SECONDS = 240
STORED_WITHIN_SECONDS = 300
POLL_SECONDS = 0.1


def kills(bench: Bench) -> list[Result]:
    """Kill at random moments; every fault that was sent must be stored once, and no other."""
    settings = fresh(bench, "kills")
    routers, brokers = max(1, bench.size(ROUTER_KILLS)), max(1, bench.size(BROKER_KILLS))
    chance = random.Random(1)  # noqa: S311 - moments, no secret
    load = _Load(settings)
    dagster = Dagster(settings)
    dagster.launch()
    seconds: list[float] = []
    fallen = 0
    try:
        dagster.wait_ready()
        pid = _wait_running(settings, but=None)
        load.start()
        for number in range(routers):
            time.sleep(SETTLED_SECONDS + chance.random() * 10)  # a random moment is what is measured
            if number < brokers:
                bench.stack.kill("kafka")
                bench.stack.start_service("kafka")
                bench.report("routing-kills: the broker was killed, and is back")
                time.sleep(chance.random() * 10)
            standing = _wait_running(settings, but=None)
            if standing != pid:
                fallen += 1
                bench.report("routing-kills: the router fell by itself, and was replaced")
            with suppress(ProcessLookupError):  # it fell this very moment
                os.kill(standing, signal.SIGKILL)
            killed_at = time.monotonic()
            pid = _wait_running(settings, but=standing)
            seconds.append(time.monotonic() - killed_at)
            bench.report(f"routing-kills: routing again {seconds[-1]:.1f} s after kill {number + 1}")
        load.stop()
        missing, foreign, stored = _compare(settings, load.faults)
    finally:
        load.stop()
        dagster.stop()
    return [
        Result(
            name="routing: kills",
            what=f"{routers} kills of the router, {brokers} of the broker, {load.messages:,} messages: of "
            f"{len(load.faults):,} faults {missing} missing, {foreign} too many, {stored - foreign:,} stored; routing "
            f"again after {median(seconds):.1f} s, at most {max(seconds):.1f} s; it fell {fallen} times by itself",
            baseline="goal: 30 s by the sensor",
            ratio=max(seconds) / 30,
            goal=1,
            at_least=False,
            details={"seconds": seconds, "fallen": fallen, "missing": missing, "foreign": foreign},
        )
    ]


class _Load(threading.Thread):
    """Sends one day of a small city after the other, each with other faults."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="load", daemon=True)
        self._settings = settings
        self._ended = threading.Event()
        self.faults: set[str] = set()
        self.messages = 0
        installed = datetime(2014, 1, 1, tzinfo=UTC)
        self._city = make_city(households=HOUSEHOLDS, seed=1, interval_seconds=900, installed_at=installed)
        simulate_history(self._city, settings, self._options(FIRST_DAY))  # registers the city
        self._day = FIRST_DAY + timedelta(days=1)
        self.faults.update(simulate_history(self._city, settings, self._options(FIRST_DAY)).fault_ids)

    @staticmethod
    def _options(day: date) -> SimulationOptions:
        return SimulationOptions(days=1, until=day, fault_rate=0.02, duplicate_rate=0.01)

    def run(self) -> None:
        """Send until `stop`; what the broker's death interrupts is sent again, whole."""
        while not self._ended.wait(1):
            self._day += timedelta(days=1)
            for _ in range(5):
                with suppress(MetersError):
                    ledger = simulate_history(self._city, self._settings, self._options(self._day))
                    self.faults.update(ledger.fault_ids)
                    self.messages += ledger.messages
                    break

    def stop(self) -> None:
        """End after the day that is being sent."""
        self._ended.set()
        if self.is_alive():
            self.join()


def _wait_running(settings: Settings, *, but: int | None) -> int:
    """The pid of a router that routes now, another one than `but`."""
    database = connect(settings)
    deadline = time.monotonic() + START_WITHIN_SECONDS
    try:
        while time.monotonic() < deadline:
            young = {"_id": "router", "state": "running", "at": {"$gt": datetime.now(UTC) - timedelta(seconds=5)}}
            beat: dict[str, Any] | None = database[HEARTBEATS].find_one(young)
            if beat and beat["pid"] != but:
                return beat["pid"]
            time.sleep(POLL_SECONDS)
    finally:
        database.client.close()
    raise MetersError(f"No router routes within {START_WITHIN_SECONDS} s")


def _compare(settings: Settings, expected: set[str]) -> tuple[int, int, int]:
    """Faults that are missing in MongoDB, that are there and were not sent, and that are there."""
    database = connect(settings)
    deadline = time.monotonic() + STORED_WITHIN_SECONDS
    try:
        while True:
            Ingest(settings, feed=faults_feed(settings)).run(until_caught_up=True)
            stored = {document["_id"] for document in database[FAULTS].find({}, {"_id": 1})}
            if expected <= stored or time.monotonic() > deadline:
                return len(expected - stored), len(stored - expected), len(stored)
            time.sleep(POLL_SECONDS)
    finally:
        database.client.close()
