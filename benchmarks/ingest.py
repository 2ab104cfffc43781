"""Ingest of a backlog: how fast beside the simplest loop and beside the bare inserts, and in how much memory."""

import json
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any

from kafka import KafkaConsumer

from benchmarks import processes
from benchmarks.city import DAY, documents, messages, store_day
from benchmarks.measure import Bench, Result, interleaved, median
from metering.reading import reading_id_range
from metering.settings import Settings
from metering.store import READINGS, ensure_collections
from runtime.database import connect
from streaming.kafka.clients import Sender, ensure_topics
from streaming.simulator.malformed import conflicting

TOPIC = "bench-backlog"
REPEATS_TOPIC = "bench-backlog-repeats"
BACKLOG = 500_000
LOOP_MESSAGES = 5_000
ROUNDS = 3
FLUSH_EVERY = 20_000

STORED = 2_000_000
STORED_DAYS = 4
REPEATED_BACKLOG = 200_000
REPEATED = 0.015
"""Share of messages that repeat a stored reading, every other one with another payload: a conflict."""


def ingest(bench: Bench) -> list[Result]:
    """Rate against a loop of consume and insert_one, and against insert_many alone; memory over the backlog."""
    backlog, loop_messages = bench.size(BACKLOG), bench.size(LOOP_MESSAGES)
    bench.report(f"ingest: sending a backlog of {backlog:,} readings")
    _send(bench.settings, TOPIC, messages(backlog))

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


def among_stored(bench: Bench) -> list[Result]:
    """Rate with duplicates and conflicts of stored readings against the rate without, over a large collection."""
    settings = bench.database("bench_among_stored")
    stored, backlog = bench.size(STORED), bench.size(REPEATED_BACKLOG)
    bench.report(f"ingest-stored: storing {stored:,} readings, then sending two backlogs of {backlog:,}")
    days = [DAY - timedelta(days=number) for number in range(1, STORED_DAYS + 1)]
    for day in days:
        store_day(settings, stored // STORED_DAYS, day)
    repeats = int(backlog * REPEATED)
    _send(settings, TOPIC, messages(backlog))
    _send(settings, REPEATS_TOPIC, _with_repeats(backlog, repeats, stored // STORED_DAYS, days))

    def rate_of(topic: str, expected_repeats: int) -> float:
        run = processes.run(settings, "benchmarks.ingest_process", topic, uuid.uuid4().hex)
        if (run["stored"], run["messages"]) != (backlog, backlog + expected_repeats):
            raise AssertionError(f"{run['stored']:,} of {backlog:,} readings stored, {run['messages']:,} messages")
        rate = run["messages"] / run["seconds"]
        bench.report(f"ingest-stored: {rate:,.0f} messages/s of {topic}")
        _forget_day(settings)
        return rate

    pairs = interleaved(ROUNDS, lambda: rate_of(REPEATS_TOPIC, repeats), lambda: rate_of(TOPIC, 0))
    _drop(settings)
    return [
        Result(
            name="ingest: repeats among stored",
            what=f"{backlog:,} readings with {repeats:,} duplicates and conflicts of {stored:,} stored ones: "
            f"{median([measured for measured, _ in pairs]):,.0f}/s",
            baseline=f"the same readings without: {median([plain for _, plain in pairs]):,.0f}/s",
            ratio=median([measured / plain for measured, plain in pairs]),
            goal=0.8,
            at_least=True,
            details={"pairs": pairs},
        )
    ]


def _with_repeats(backlog: int, repeats: int, of_day: int, days: list[datetime]) -> Iterator[tuple[bytes, bytes]]:
    """The backlog, with repeats of stored readings spread over it, from all over the stored days."""
    every, each_day = backlog // repeats, -(-repeats // len(days))
    stored = chain.from_iterable(islice(messages(of_day, day), 0, None, max(1, of_day // each_day)) for day in days)
    for number, message in enumerate(messages(backlog)):
        yield message
        if number % every == 0 and number // every < repeats:
            key, value = next(stored)
            yield key, value if number // every % 2 else conflicting(value)


def _forget_day(settings: Settings) -> None:
    database = connect(settings)
    low, high = reading_id_range(DAY, DAY + timedelta(days=1))
    database[READINGS].delete_many({"_id": {"$gte": low, "$lt": high}})
    database.client.close()


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


def _send(settings: Settings, topic: str, sent: Iterator[tuple[bytes, bytes]]) -> None:
    ensure_topics(settings, topic)
    with Sender(settings, topic) as sender:
        for key, value in sent:
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
