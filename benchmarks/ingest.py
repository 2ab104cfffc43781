"""Ingest of a backlog: how fast beside the simplest loop and beside the bare inserts, and in how much memory."""

import json
import time
import uuid
from typing import Any

from kafka import KafkaConsumer

from benchmarks import processes
from benchmarks.city import documents, messages
from benchmarks.measure import Bench, Result, interleaved, median
from metering.settings import Settings
from metering.store import READINGS, connect, ensure_collections
from streaming.kafka import Sender, ensure_topics

TOPIC = "bench-backlog"
BACKLOG = 500_000
LOOP_MESSAGES = 5_000
ROUNDS = 3
FLUSH_EVERY = 20_000


def ingest(bench: Bench) -> list[Result]:
    """Rate against a loop of consume and insert_one, and against insert_many alone; memory over the backlog."""
    backlog, loop_messages = bench.size(BACKLOG), bench.size(LOOP_MESSAGES)
    bench.report(f"ingest: sending a backlog of {backlog:,} readings")
    _send_backlog(bench.settings, backlog)

    runs: list[dict[str, Any]] = []
    loops: list[float] = []

    def measure() -> float:
        run = _ingest(bench, backlog)
        runs.append(run)
        bench.report(f"ingest: {run['rate']:,.0f} readings/s ({run['whole_rate']:,.0f}/s with start-up)")
        return run["rate"]

    def bare() -> float:
        loops.append(_loop_rate(bench, loop_messages))
        bench.report(f"ingest: consume and insert_one: {loops[-1]:,.0f} readings/s")
        rate = _insert_many_rate(bench, backlog)
        bench.report(f"ingest: insert_many alone: {rate:,.0f} readings/s")
        return rate

    pairs = interleaved(ROUNDS, measure, bare)
    rate = median([run["rate"] for run in runs])
    whole = median([run["whole_rate"] for run in runs])
    what = f"{backlog:,} readings, Kafka to MongoDB: {rate:,.0f}/s, {whole:,.0f}/s with the process's start"
    details = {"runs": [{name: run[name] for name in ("rate", "whole_rate", "seconds", "whole")} for run in runs]}
    return [
        Result(
            name="ingest: loop",
            what=what,
            baseline=f"loop of consume and insert_one, {loop_messages:,} readings: {median(loops):,.0f}/s",
            ratio=median([run["rate"] / loop for run, loop in zip(runs, loops, strict=True)]),
            goal=40,
            at_least=True,
            details={**details, "loop_rates": loops},
        ),
        Result(
            name="ingest: bulk",
            what=what,
            baseline=f"bare insert_many of the same documents: {median([bare for _, bare in pairs]):,.0f}/s",
            ratio=median([measured / bare for measured, bare in pairs]),
            goal=0.4,
            at_least=True,
            details={**details, "insert_many_rates": [bare for _, bare in pairs]},
        ),
        _memory(runs, backlog),
    ]


def _memory(runs: list[dict[str, Any]], backlog: int) -> Result:
    """Growth of resident memory after the first fifth of the backlog: the highest of all readings against that one."""

    def at(run: dict[str, Any], share: float) -> int:
        return next(rss for done, rss in run["memory"] if done >= share * backlog)

    growths = [max(rss for done, rss in run["memory"] if done >= backlog / 5) / at(run, 0.2) for run in runs]
    points = {f"{share:.0%}": round(median([at(run, share) / 1e6 for run in runs]), 1) for share in (0.1, 0.2, 0.5, 1)}
    return Result(
        name="ingest: memory",
        what="resident memory, highest of the rest: "
        + ", ".join(f"{megabytes:.0f} MB at {share}" for share, megabytes in points.items()),
        baseline="the same process after 20 % of the backlog",
        ratio=median(growths),
        goal=1.1,
        at_least=False,
        details={"growths": growths, "megabytes": points},
    )


def _send_backlog(settings: Settings, readings: int) -> None:
    ensure_topics(settings, TOPIC)
    with Sender(settings, TOPIC) as sender:
        for key, value in messages(readings):
            sender.send(value, key=key)
            if sender.sent % FLUSH_EVERY == 0:
                sender.flush()


def _ingest(bench: Bench, backlog: int) -> dict[str, Any]:
    settings = bench.database(f"bench_ingest_{uuid.uuid4().hex[:8]}")
    run = processes.run(settings, "benchmarks.ingest_process", TOPIC, settings.mongo_database)
    if run["stored"] != backlog:
        raise AssertionError(f"{run['stored']:,} of {backlog:,} readings stored")
    _drop(settings)
    return {**run, "rate": backlog / run["seconds"], "whole_rate": backlog / run["whole"]}


def _loop_rate(bench: Bench, readings: int) -> float:
    """What a first version does: read a message, decode it, insert it. Timed from the first message on."""
    settings = bench.database("bench_loop")
    collection = connect(settings)["readings"]
    consumer = KafkaConsumer(
        TOPIC, bootstrap_servers=settings.kafka, group_id=f"loop-{uuid.uuid4()}", auto_offset_reset="earliest"
    )
    done, started = 0, 0.0
    for message in consumer:
        started = started or time.monotonic()
        collection.insert_one(json.loads(message.value))
        done += 1
        if done == readings:
            break
    seconds = time.monotonic() - started
    consumer.close()
    collection.database.client.close()
    _drop(settings)
    return readings / seconds


def _insert_many_rate(bench: Bench, readings: int) -> float:
    """Batches like ingest's, into a collection like ingest's; making the documents is not timed."""
    settings = bench.database("bench_insert_many")
    database = connect(settings)
    ensure_collections(database)
    seconds = 0.0
    for batch in documents(value for _, value in messages(readings)):
        started = time.monotonic()
        database[READINGS].insert_many(batch, ordered=False)
        seconds += time.monotonic() - started
    database.client.close()
    _drop(settings)
    return readings / seconds


def _drop(settings: Settings) -> None:
    database = connect(settings)
    database.client.drop_database(database.name)
    database.client.close()
