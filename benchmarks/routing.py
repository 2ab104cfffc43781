"""Routing: latency and throughput beside what the first system's stream did, and what the router costs when idle."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
from kafka.admin import KafkaAdminClient

from benchmarks import processes
from benchmarks.city import messages, register
from benchmarks.measure import Bench, Result, interleaved, median
from benchmarks.produce_process import FAULT, reading_key
from metering.errors import MetersError
from metering.settings import ABNORMAL_TOPIC, READINGS_TOPIC, Settings
from metering.store import HEARTBEATS
from runtime.database import connect
from streaming.kafka.clients import Sender, ensure_topics, follow, open_consumer, partitions_of

RATE = 2_000
LATENCY_SECONDS = 120
ECHO_SECONDS = 30
WARM_SECONDS = 60
"""Of the same load before latencies count: Java compiles what runs for each reading, on either side."""
BACKLOG = 1_000_000
DRAIN_ROUNDS = 7
"""Of several seconds each, whose rates differ by a fifth."""
IDLE_SECONDS = 600
BATCH_SECONDS = 60
"""Shorter than the router's default of five minutes, so that the run has batch ends in it."""

FIRST_TOPIC, ECHO_TOPIC = "bench-first-abnormal", "bench-echo"
START_WITHIN_SECONDS = 180
DRAIN_WITHIN_SECONDS = 600
POLL_SECONDS = 0.2

Latencies = list[float]


def routing(bench: Bench) -> list[Result]:
    """Latency at 2,000 messages/s and rate over a backlog, for the router and for the first system's stream."""
    settings = fresh(bench, "latency").model_copy(update={"router_batch_seconds": BATCH_SECONDS})
    register(settings, BACKLOG)
    ensure_topics(settings, FIRST_TOPIC, ECHO_TOPIC)
    seconds = max(20, bench.size(LATENCY_SECONDS))

    echo = _latencies(bench, settings, ECHO_TOPIC, ECHO_TOPIC, seconds=max(10, bench.size(ECHO_SECONDS)))
    with router(settings) as pid:
        routed = _latencies(bench, settings, READINGS_TOPIC, ABNORMAL_TOPIC, seconds=seconds)
        pause = _heartbeat(settings)["pause_ms"]
        memory = _resident(pid)
    with _first_stream(settings, str(settings.home / "first"), "latest"):
        first = _latencies(bench, settings, READINGS_TOPIC, FIRST_TOPIC, seconds=seconds)

    backlog, drained = _drain(bench, settings)
    rates = {"router": [rate for rate, _ in drained], "first": [rate for _, rate in drained]}
    shown = {"router": _describe(routed), "first": _describe(first), "bare": _describe(echo)}
    details = {
        "latency_ms": {
            name: _percentiles(values) for name, values in (("router", routed), ("first", first), ("bare", echo))
        },
        "pause_at_batch_end_ms": pause,
        "resident_mb_under_load": memory,
        "rates": rates,
    }
    return [
        Result(
            name="routing: latency",
            what=f"router at {RATE:,} messages/s for {seconds} s: {shown['router']}; a batch end pauses {pause} ms",
            baseline=f"the first system's micro-batches: {shown['first']}",
            ratio=median(first) / median(routed),
            goal=30,
            at_least=True,
            details=details,
        ),
        Result(
            name="routing: broker",
            what=f"router: {shown['router']}",
            baseline=f"bare produce and consume: {shown['bare']}",
            ratio=median(routed) / median(echo),
            goal=20,
            at_least=False,
            details=details,
        ),
        Result(
            name="routing: drain",
            what=f"router over {backlog:,} readings: {median(rates['router']):,.0f}/s",
            baseline=f"the first system's micro-batches: {median(rates['first']):,.0f}/s",
            ratio=median([routed / other for routed, other in drained]),
            goal=1,
            at_least=True,
            details=details,
        ),
    ]


def _drain(bench: Bench, settings: Settings) -> tuple[int, list[tuple[float, float]]]:
    """How many readings are on the topic, and the rates at which both streams read all of them."""
    bench.report(f"routing: sending {bench.size(BACKLOG):,} readings")
    send_readings(settings, bench.size(BACKLOG))
    number = count()

    def routed_rate() -> float:
        place = settings.model_copy(update={"router_checkpoint": str(settings.home / f"drain-{next(number)}")})
        rate = drain_rate(place, ABNORMAL_TOPIC, lambda: router(place, "--no-aggregates"))
        bench.report(f"routing: drained at {rate:,.0f}/s")
        return rate

    def first_rate() -> float:
        checkpoint = str(settings.home / f"first-{next(number)}")
        rate = drain_rate(settings, FIRST_TOPIC, lambda: _first_stream(settings, checkpoint, "earliest"))
        bench.report(f"routing: drained at {rate:,.0f}/s by the first system's stream")
        return rate

    return _readings(settings), interleaved(DRAIN_ROUNDS, routed_rate, first_rate)


def idle(bench: Bench) -> list[Result]:
    """Memory and processor time of a router that has nothing to do."""
    settings = fresh(bench, "idle")
    register(settings, BACKLOG)
    seconds = max(30, bench.size(IDLE_SECONDS))
    with router(settings) as pid:
        before, started = _processor_seconds(pid), time.monotonic()
        megabytes: list[float] = []
        while time.monotonic() < started + seconds:
            time.sleep(5)  # the time that is measured
            megabytes.append(_resident(pid))
        share = (_processor_seconds(pid) - before) / seconds
    half = len(megabytes) // 2
    first, second = max(megabytes[:half]), max(megabytes[half:])
    return [
        Result(
            name="routing: idle",
            what=f"{seconds} s without a reading: {share:.1%} of a core, at most {second:,.0f} MB in the second half",
            baseline=f"in the first half: {first:,.0f} MB",
            ratio=second / first,
            goal=1.1,
            at_least=False,
            details={"cpu_share": share, "megabytes": megabytes},
        )
    ]


def fresh(bench: Bench, name: str, **changes: object) -> Settings:
    """A database, a checkpoint, and empty topics: what another benchmark has sent is none of this one's readings."""
    settings = bench.database(f"bench_{name}").model_copy(
        update={"router_checkpoint": str(bench.settings.home / f"router-{name}"), **changes}
    )
    admin: Any = KafkaAdminClient(bootstrap_servers=settings.kafka)
    try:
        stale = {READINGS_TOPIC, ABNORMAL_TOPIC} & set(admin.list_topics())
        if stale:
            admin.delete_topics(sorted(stale))
        while stale & set(admin.list_topics()):
            time.sleep(POLL_SECONDS)
    finally:
        admin.close()
    ensure_topics(settings, READINGS_TOPIC, ABNORMAL_TOPIC)
    return settings


@contextmanager
def router(settings: Settings, *options: str) -> Iterator[int]:
    """A `meters route` that has caught up; gives its pid."""
    since = time.time()
    command = [sys.executable, "-m", "meter_cli", "route", *options]
    with _process(settings, command, settings.home / "logs" / "route.log") as process:
        deadline = time.monotonic() + START_WITHIN_SECONDS + DRAIN_WITHIN_SECONDS
        while True:
            heartbeat = _heartbeat(settings)
            if heartbeat.get("state") == "running" and heartbeat["at"].timestamp() > since and heartbeat["lag"] == 0:
                break
            _require_alive(process, deadline, "meters route")
            time.sleep(POLL_SECONDS)
        yield process.pid


@contextmanager
def _first_stream(settings: Settings, checkpoint: str, start: str) -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.first_stream_process", FIRST_TOPIC, checkpoint, start]
    log = settings.home / "logs" / "first-stream.log"
    with _process(settings, command, log) as process:
        deadline = time.monotonic() + START_WITHIN_SECONDS
        while b"started" not in log.read_bytes():
            _require_alive(process, deadline, "the first system's stream")
            time.sleep(POLL_SECONDS)
        yield process.pid


@contextmanager
def _process(settings: Settings, command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join(filter(None, [str(processes.PROJECT), os.environ.get("PYTHONPATH", "")]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **settings.environment(), "PYTHONPATH": path},
            cwd=settings.home,
            stdout=output,
            stderr=output,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _require_alive(process: subprocess.Popen[bytes], deadline: float, what: str) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise MetersError(f"{what} has ended or does not get ready (exit code {process.poll()})")


def _heartbeat(settings: Settings) -> dict[str, Any]:
    database = connect(settings)
    try:
        return database[HEARTBEATS].find_one({"_id": "router"}) or {}
    finally:
        database.client.close()


def _latencies(bench: Bench, settings: Settings, topic: str, out: str, *, seconds: int) -> Latencies:
    """Milliseconds from handing each faulty reading to the producer until it is consumed from `out`."""
    arrived: dict[str, float] = {}
    done = threading.Event()
    consumer: Any = open_consumer(settings, group=None)
    follow(consumer, out)

    def consume() -> None:
        while not done.is_set():
            for records in consumer.poll(timeout_ms=100).values():
                now = time.time()
                for record in records:
                    if out != topic or FAULT in record.value:
                        arrived.setdefault(_key(record.value), now)

    thread = threading.Thread(target=consume, daemon=True)
    thread.start()
    arguments = (topic, str(RATE), str(seconds + WARM_SECONDS), "0")
    run = processes.run(settings, "benchmarks.produce_process", *arguments)
    sent: dict[str, float] = run["sent"]
    deadline = time.monotonic() + 60
    while not sent.keys() <= arrived.keys() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    done.set()
    thread.join()
    consumer.close()
    missing = len(sent.keys() - arrived.keys())
    if missing:
        raise MetersError(f"{missing:,} of {len(sent):,} faults did not arrive on {out}")
    first = min(sent.values())
    found = [(arrived[key] - at) * 1000 for key, at in sent.items() if at - first >= WARM_SECONDS]
    bench.report(f"routing: {out}: {_describe(found)} ({len(found):,} faults)")
    return found


def _key(value: bytes) -> str:
    fields = json.loads(value)
    return fields.get("event_id") or reading_key(value)


def _percentiles(latencies: Latencies) -> dict[str, float]:
    ordered = sorted(latencies)
    at = {
        name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {**{name: round(value, 1) for name, value in at.items()}, "max": round(ordered[-1], 1)}


def _describe(latencies: Latencies) -> str:
    figures = _percentiles(latencies)
    return f"p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms, max {figures['max']:.0f} ms"


def send_readings(settings: Settings, readings: int) -> None:
    """Put that many readings of one day on the topic."""
    with Sender(settings, READINGS_TOPIC) as sender:
        for key, value in messages(readings):
            sender.send(value, key=key)
            if sender.sent % 20_000 == 0:
                sender.flush()


def drain_rate(settings: Settings, out: str, stream: Callable[[], Any]) -> float:
    """All readings by the seconds from the first fault that comes out until the last, by the broker's clock."""
    consumer: Any = open_consumer(settings, group=None)
    partitions = partitions_of(consumer, out)
    consumer.assign(partitions)
    before = consumer.end_offsets(partitions)
    with stream():
        deadline = time.monotonic() + DRAIN_WITHIN_SECONDS
        last, stamps = time.monotonic(), []
        for partition, offset in before.items():
            consumer.seek(partition, offset)
        while time.monotonic() - last < 10 or not stamps:  # ten seconds without a fault: there are none left
            for records in consumer.poll(timeout_ms=500).values():
                stamps.extend(record.timestamp for record in records)
                last = time.monotonic()
            if time.monotonic() > deadline:
                raise MetersError(f"The backlog is not drained to {out} within {DRAIN_WITHIN_SECONDS} s")
    consumer.close()
    return _readings(settings) / max(0.001, (max(stamps) - min(stamps)) / 1000)


def _readings(settings: Settings) -> int:
    consumer: Any = open_consumer(settings, group=None)
    ends = consumer.end_offsets(partitions_of(consumer, READINGS_TOPIC))
    consumer.close()
    return sum(ends.values())


def _tree(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def _resident(pid: int) -> float:
    return sum(process.memory_info().rss for process in _tree(pid)) / 1e6


def _processor_seconds(pid: int) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in _tree(pid))
