"""Scaling curves: ingest by processes, a day's assets by readings, the router by partitions."""

import os
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from benchmarks import processes
from benchmarks.city import DAY, messages, register, store_day
from benchmarks.measure import Bench, Result, interleaved, median
from benchmarks.routing import drain_rate, fresh, router, send_readings
from metering.daily_tables import DAILY_ASSETS
from metering.settings import ABNORMAL_TOPIC, Settings
from metering.store import READINGS
from runtime.database import connect
from streaming.kafka.clients import Sender, ensure_topics

INGEST_TOPIC = "bench-scaling"
INGEST_BACKLOG = 600_000
INGEST_ROUNDS = 2

DAY_SIZES = {100_000: 3, 1_000_000: 2, 5_000_000: 1}
"""Readings of a day, and how often it is measured; from small to large, since a JVM does not give memory back."""

WARM_UPS = 3
SAMPLE_SECONDS = 0.2
CACHE_GB = 2
"""mongod's cache while days are measured: the largest day's documents are one transaction, which must fit in it."""

LOCAL_CACHE_GB = 1
DATE = DAY.date().isoformat()

ROUTER_BACKLOG = 600_000
PARTITIONS = (1, 2, 4)


def scaling(bench: Bench) -> list[Result]:
    """All three curves."""
    ingested = _ingest(bench)
    _set_cache(bench, CACHE_GB)
    days = _days(bench)
    _set_cache(bench, LOCAL_CACHE_GB)
    return [*ingested, *days, *_router(bench)]


def _set_cache(bench: Bench, gigabytes: int) -> None:
    client = connect(bench.settings).client
    client.admin.command("setParameter", 1, wiredTigerEngineRuntimeConfig=f"cache_size={gigabytes}G")
    client.close()


def _ingest(bench: Bench) -> list[Result]:
    """A backlog by one process and by two of the same group, on a machine that MongoDB and Kafka share with them."""
    backlog = bench.size(INGEST_BACKLOG)
    bench.report(f"scaling: sending a backlog of {backlog:,} readings")
    ensure_topics(bench.settings, INGEST_TOPIC)
    with Sender(bench.settings, INGEST_TOPIC) as sender:
        for key, value in messages(backlog):
            sender.send(value, key=key)
    pairs = interleaved(
        INGEST_ROUNDS, lambda: _ingest_once(bench, backlog, members=2), lambda: _ingest_once(bench, backlog, members=1)
    )
    two, one = (median([run.rate for run in runs]) for runs in zip(*pairs, strict=True))
    needs = {name: median([run.needs[name] for run, _ in pairs]) * 1e6 for name in pairs[0][0].needs}
    cores = os.cpu_count() or 1
    bound = cores * 1e6 / sum(needs.values())
    shown = ", ".join(f"{name} {micros:.0f}" for name, micros in needs.items())
    rates = f"{two:,.0f}/s by two processes, joining the group included; {one:,.0f}/s by one"
    return [
        Result(
            name="scaling: ingest",
            what=f"{backlog:,} readings: {rates}",
            baseline=f"{bound:,.0f}/s, which {cores} cores can carry: microseconds of one for a reading by {shown}",
            ratio=two / bound,
            goal=0.8,
            at_least=True,
            details={"two": [asdict(a) for a, _ in pairs], "one": [asdict(b) for _, b in pairs]},
        )
    ]


@dataclass(frozen=True)
class _Ingested:
    """Readings a second, and for how many seconds a reading keeps a processor busy, by process."""

    rate: float
    needs: dict[str, float]


def _ingest_once(bench: Bench, backlog: int, *, members: int) -> _Ingested:
    settings = bench.database(f"bench_scaling_{uuid.uuid4().hex[:8]}")
    before = _processor_seconds(bench)
    with ThreadPoolExecutor(members) as threads:
        starts = [
            threads.submit(processes.run, settings, "benchmarks.ingest_process", INGEST_TOPIC, settings.mongo_database)
            for _ in range(members)
        ]
        runs: list[dict[str, Any]] = [start.result() for start in starts]
    needs = {name: (after - before[name]) / backlog for name, after in _processor_seconds(bench).items()}
    database = connect(settings)
    stored = database[READINGS].estimated_document_count()
    database.client.drop_database(database.name)
    database.client.close()
    if stored != backlog:
        raise AssertionError(f"{stored:,} of {backlog:,} readings stored")
    rate = backlog / max(run["seconds"] for run in runs)  # from joining the group until all is committed
    bench.report(f"scaling: ingest by {members}: {rate:,.0f} readings/s ({[run['stored'] for run in runs]})")
    return _Ingested(rate, needs)


def _processor_seconds(bench: Bench) -> dict[str, float]:
    services = {name: psutil.Process(_pid(bench, name)).cpu_times() for name in ("mongo", "kafka")}
    ended = os.times()
    return {
        "ingest": ended.children_user + ended.children_system,
        **{name: times.user + times.system for name, times in services.items()},
    }


def _pid(bench: Bench, service: str) -> int:
    child = bench.stack.services[service].child
    if child is None:
        raise AssertionError(f"{service} does not run")
    return child.pid


def _days(bench: Bench) -> list[Result]:
    """Seconds and the Spark server's memory for a day's assets, by the number of its readings."""
    seconds: dict[int, float] = {}
    megabytes: dict[int, float] = {}
    for full, rounds in DAY_SIZES.items():
        readings = bench.size(full)
        settings = bench.database(f"bench_day_{readings}")
        bench.report(f"scaling: storing a day of {readings:,} readings")
        register(settings, readings)
        store_day(settings, readings)
        for _ in range(0 if seconds else WARM_UPS):
            processes.run(settings, "benchmarks.day_process", DATE, DATE, *DAILY_ASSETS)
        runs = [_day(bench, settings) for _ in range(rounds)]
        seconds[readings] = median([run["step"] for run in runs])
        megabytes[readings] = max(run["server_mb"] for run in runs)
        bench.report(f"scaling: {readings:,} readings: {seconds[readings]:.1f} s, {megabytes[readings]:,.0f} MB")
        _drop(settings)
    _, middle, large = seconds
    details = {"seconds": seconds, "server_mb": megabytes}
    return [
        Result(
            name="scaling: day",
            what="all assets of a day: " + _curve({size: f"{value:.1f} s" for size, value in seconds.items()}),
            baseline=f"time for a reading of the day of {middle:,}, here for one of {large:,}",
            ratio=(seconds[large] / large) / (seconds[middle] / middle),
            goal=1.1,
            at_least=False,
            details=details,
        ),
        Result(
            name="scaling: memory",
            what="peak of the Spark server: " + _curve({size: f"{value:,.0f} MB" for size, value in megabytes.items()}),
            baseline=f"at {middle:,} readings, here at {large:,}; {large / middle:g} would be linear",
            ratio=megabytes[large] / megabytes[middle],
            goal=2,
            at_least=False,
            details=details,
        ),
    ]


def _day(bench: Bench, settings: Settings) -> dict[str, Any]:
    with _peak_memory(_pid(bench, "spark")) as peak:
        run = processes.run(settings, "benchmarks.day_process", DATE, DATE, *DAILY_ASSETS)
    return {**run, "server_mb": max(peak) / 1e6}


@contextmanager
def _peak_memory(pid: int) -> Iterator[list[int]]:
    """Resident bytes of a process, seen again and again while the block runs."""
    process, done, seen = psutil.Process(pid), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            seen.append(process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def _router(bench: Bench) -> list[Result]:
    """A backlog through `meters route`, by the partitions of the topic."""
    backlog = bench.size(ROUTER_BACKLOG)
    rates: dict[int, float] = {}
    for partitions in PARTITIONS:
        settings = fresh(bench, f"scaling_{partitions}", kafka_partitions=partitions)
        register(settings, backlog)
        send_readings(settings, backlog)
        rates[partitions] = drain_rate(settings, ABNORMAL_TOPIC, lambda: router(settings, "--no-aggregates"))  # noqa: B023
        bench.report(f"scaling: router, {partitions} partitions: {rates[partitions]:,.0f} readings/s")
    return [
        Result(
            name="scaling: router",
            what=f"{backlog:,} readings by partitions: "
            + _curve({number: f"{rate:,.0f}/s" for number, rate in rates.items()}),
            baseline="one partition, here against two",
            ratio=rates[2] / rates[1],
            goal=1.3,
            at_least=True,
            details={"rates": rates},
        )
    ]


def _curve(points: dict[int, str]) -> str:
    return ", ".join(f"{value} at {number:,}" for number, value in points.items())


def _drop(settings: Settings) -> None:
    database = connect(settings)
    database.client.drop_database(database.name)
    database.client.close()
