"""Soak: minutes of more than ingest can take, then an hour of a steady load under Dagster. What grows is a leak."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import psutil

from benchmarks import processes
from benchmarks.city import DAY, register
from benchmarks.measure import Bench, Result, median
from benchmarks.routing import fresh
from local_stack.dagster import Dagster
from metering.errors import MetersError
from metering.settings import READINGS_TOPIC, Settings
from metering.store import HEARTBEATS
from runtime.database import connect
from streaming.ingest.batch import READINGS_FEED
from streaming.kafka.clients import open_consumer, partitions_of

OVERLOAD_RATE, OVERLOAD_SECONDS = 60_000, 600
"""More than a producer can do: each of them sends as fast as it can."""
OVERLOAD_PRODUCERS = 4
"""One alone makes its readings no faster than ingest stores them."""
STEADY_RATE, STEADY_SECONDS = 5_000, 3_600
SAMPLE_SECONDS = 5
CAUGHT_UP_WITHIN_SECONDS = 1_800
ROUTING_WITHIN_SECONDS = 240
COMMAND = (sys.executable, "-m", "meter_cli")


@dataclass(frozen=True)
class Sample:
    """What one look found.

    Args:
        at: seconds since the load began.
        rss: resident bytes, by process.
        files: open file descriptors, by process.
        threads: threads, by process.
        router: the router's process; another one after a restart.
        lag: messages that ingest has not committed.
        p50_ms: the router's latency; None where it does not run.
    """

    at: float
    rss: dict[str, int]
    files: dict[str, int]
    threads: dict[str, int]
    router: int | None
    lag: int
    p50_ms: float | None


def soak(bench: Bench) -> list[Result]:
    """Memory, file descriptors, threads, lag and latency as trends."""
    # Each with empty topics: a router that reads up on the overload would be measured with the steady load.
    return [*_overload(bench, fresh(bench, "overload")), *_steady(bench, fresh(bench, "soak"))]


def _overload(bench: Bench, settings: Settings) -> list[Result]:
    seconds = max(30, bench.size(OVERLOAD_SECONDS))
    bench.report(f"soak: a producer faster than ingest, for {seconds} s")
    with _command(settings, "ingest") as pid:
        watched = {"ingest": pid}
        samples = _under_load(settings, OVERLOAD_RATE, seconds, OVERLOAD_PRODUCERS, lambda: watched)
        highest = max(sample.lag for sample in samples)
        started = time.monotonic()
        while (left := _lag(settings)) > 0:
            if time.monotonic() - started > CAUGHT_UP_WITHIN_SECONDS:
                raise MetersError(f"Ingest did not catch up within {CAUGHT_UP_WITHIN_SECONDS} s: {left:,} wait")
            samples.append(_sample(settings, watched, started))
            time.sleep(1)  # the rate of looking
        caught_up = time.monotonic() - started
    what = f"{seconds} s of overload: {highest:,} messages waited, all stored {caught_up:.0f} s after its end"
    return [_trend("soak: memory under overload", what, samples, lambda sample: sample.rss)]


def _steady(bench: Bench, settings: Settings) -> list[Result]:
    seconds = max(60, bench.size(STEADY_SECONDS))
    register(settings, 100 * STEADY_RATE)
    dagster = Dagster(settings)
    with ExitStack() as running:
        ingest = running.enter_context(_command(settings, "ingest"))
        faults = running.enter_context(_command(settings, "ingest", "--faults"))
        dagster.launch()
        running.callback(dagster.stop)
        dagster.wait_ready()
        bench.report(f"soak: {STEADY_RATE:,} readings/s for {seconds} s under Dagster")

        def watched() -> dict[str, int]:
            router = _router(settings)["pid"]
            java = [child.pid for child in psutil.Process(router).children() if "java" in child.name()]
            return {"ingest": ingest, "ingest --faults": faults, "router": router, "router's Java": java[0]}

        _wait_routing(settings)
        samples = _under_load(settings, STEADY_RATE, seconds, 1, watched)
    first, last = (_median([sample.lag for sample in part]) for part in _fifths(samples))
    latencies = [[sample.p50_ms for sample in part if sample.p50_ms is not None] for part in _fifths(samples)]
    before, after = (f"{_median(part):.1f} ms" if part else "unknown" for part in latencies)
    restarts = len({sample.router for sample in samples}) - 1
    what = f"{STEADY_RATE:,} readings/s for {seconds} s, the router restarted {restarts} times"
    return [
        _trend("soak: memory", what, samples, lambda sample: sample.rss),
        _trend("soak: file descriptors", what, samples, lambda sample: sample.files),
        _trend("soak: threads", what, samples, lambda sample: sample.threads),
        Result(
            name="soak: lag",
            what=f"{what}: ingest's lag {last:,.0f} messages in the last fifth; routing p50 {before}, then {after}",
            baseline=f"{first:,.0f} in the second fifth, and never less than a second of the load",
            ratio=max(last, STEADY_RATE) / max(first, STEADY_RATE),
            goal=1.2,
            at_least=False,
            details={"samples": [asdict(sample) for sample in samples]},
        ),
    ]


def _under_load(
    settings: Settings, rate: int, seconds: int, producers: int, watched: Callable[[], dict[str, int]]
) -> list[Sample]:
    """Samples for as long as producers send so much, each of them the readings of a day of its own."""
    days = [DAY + timedelta(days=number) for number in range(producers)]
    command = (sys.executable, "-m", "benchmarks.produce_process", READINGS_TOPIC, str(rate), str(seconds), "0")
    started = time.monotonic()
    samples: list[Sample] = []
    with ExitStack() as running:
        sending = [running.enter_context(_process(settings, (*command, f"{day:%F}"))) for day in days]
        while all(each.poll() is None for each in sending) and time.monotonic() - started < seconds:
            with suppress(psutil.NoSuchProcess, IndexError):  # the router is being started again
                samples.append(_sample(settings, watched(), started))
            time.sleep(SAMPLE_SECONDS)  # the rate of looking
    return samples


def _sample(settings: Settings, watched: dict[str, int], started: float) -> Sample:
    looked = {name: psutil.Process(pid) for name, pid in watched.items()}
    return Sample(
        at=round(time.monotonic() - started, 1),
        rss={name: process.memory_info().rss for name, process in looked.items()},
        files={name: process.num_fds() for name, process in looked.items()},
        threads={name: process.num_threads() for name, process in looked.items()},
        router=watched.get("router"),
        lag=_lag(settings),
        p50_ms=_router(settings).get("latency_p50_ms") if "router" in watched else None,
    )


def _fifths(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The second and the last fifth: in the first one everything warms up."""
    size = max(1, len(samples) // 5)
    return samples[size : 2 * size] or samples[:1], samples[-size:]


def _trend(name: str, what: str, samples: list[Sample], of: Callable[[Sample], dict[str, int]]) -> Result:
    """How much the process that grows most has grown from the second fifth to the last one."""
    early, late = _fifths(samples)
    growth = {
        process: _median([of(each)[process] for each in late]) / _median([of(each)[process] for each in early])
        for process in of(samples[-1])
    }
    worst = max(growth, key=lambda process: growth[process])
    return Result(
        name=name,
        what=f"{what}: {worst} {of(samples[-1])[worst]:,} at the end",
        baseline="the same in the second fifth of the time",
        ratio=growth[worst],
        goal=1.1,
        at_least=False,
        details={"growth": growth, "samples": [asdict(sample) for sample in samples]},
    )


def _median(values: list[Any]) -> float:
    return float(median(values)) or 1.0


def _lag(settings: Settings) -> int:
    consumer: Any = open_consumer(settings, group=READINGS_FEED.group)
    with closing(consumer):
        ends = consumer.end_offsets(partitions_of(consumer, READINGS_TOPIC))
        return sum(end - (consumer.committed(tp) or 0) for tp, end in ends.items())


def _router(settings: Settings) -> dict[str, Any]:
    database = connect(settings)
    with database.client:
        return database[HEARTBEATS].find_one({"_id": "router"}) or {}


def _wait_routing(settings: Settings) -> None:
    deadline = time.monotonic() + ROUTING_WITHIN_SECONDS
    while _router(settings).get("state") != "running":
        if time.monotonic() > deadline:
            raise MetersError(f"No router routes within {ROUTING_WITHIN_SECONDS} s")
        time.sleep(1)  # the rate of looking


@contextmanager
def _command(settings: Settings, *arguments: str) -> Iterator[int]:
    """A `meters` command that runs for as long as the block lasts; its pid."""
    with _process(settings, (*COMMAND, *arguments)) as process:
        yield process.pid


@contextmanager
def _process(settings: Settings, command: tuple[str, ...]) -> Iterator[subprocess.Popen[bytes]]:
    log = (settings.home / "logs" / "soak.log").open("ab")
    with log:
        process = subprocess.Popen(
            command, env=processes.environment_of(settings), cwd=settings.home, stdout=subprocess.DEVNULL, stderr=log
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)
