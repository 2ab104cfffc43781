"""Days: the daily assets beside MongoDB's own aggregation, beside fewer days stored, and beside a cold Spark."""

import time
from datetime import timedelta
from typing import Any

from benchmarks import processes
from benchmarks.city import DAY, register, store_day
from benchmarks.measure import Bench, Result, interleaved, median
from local_stack.jars import spark_jars
from metering.reading import reading_id_range
from metering.settings import Settings
from metering.store import READINGS
from runtime.database import connect

LARGE_DAY = 1_000_000
SMALL_DAY = 100_000
FEW_DAYS, MANY_DAYS = 3, 30
ROUNDS = 3
WARM_UPS = 4
"""Runs before a warm one counts: the JVM still optimises Spark's code during the first ones."""

SHORT_ROUNDS = 5

DATE = DAY.date().isoformat()


def large_day(bench: Bench) -> list[Result]:
    """One large day through raw_readings and daily_averages against `$group` over the same readings."""
    readings = bench.size(LARGE_DAY)
    settings = bench.database("bench_large_day")
    _prepare(bench, settings, "large-day", readings, days=1)

    def measure() -> dict[str, Any]:
        run = processes.run(settings, "benchmarks.day_process", DATE, DATE, "raw_readings", "daily_averages")
        bench.report(f"large-day: step {run['step']:.1f} s; run {run['run']:.1f} s")
        return run

    def group() -> float:
        seconds = _group_seconds(settings)
        bench.report(f"large-day: $group {seconds:.2f} s")
        return seconds

    interleaved(WARM_UPS, measure, group)
    pairs = interleaved(ROUNDS, measure, group)
    runs = [run for run, _ in pairs]
    step, whole = median([run["step"] for run in runs]), median([run["run"] for run in runs])
    return [
        Result(
            name="large-day",
            what=f"raw_readings + daily_averages of {readings:,} readings: {step:.1f} s; whole run {whole:.1f} s",
            baseline=f"MongoDB's $group of the day: {median([seconds for _, seconds in pairs]):.2f} s",
            ratio=median([run["step"] / seconds for run, seconds in pairs]),
            goal=5,
            at_least=False,
            details={"runs": runs, "group_seconds": [seconds for _, seconds in pairs]},
        )
    ]


def stored_days(bench: Bench) -> list[Result]:
    """The same day's raw_readings with many days stored against few."""
    readings = bench.size(SMALL_DAY)
    many, few = bench.database("bench_many_days"), bench.database("bench_few_days")
    _prepare(bench, many, "stored-days", readings, days=MANY_DAYS)
    _prepare(bench, few, "stored-days", readings, days=FEW_DAYS)

    def seconds(settings: Settings) -> float:
        run = processes.run(settings, "benchmarks.day_process", DATE, DATE, "raw_readings")
        bench.report(f"stored-days: {settings.mongo_database} {run['step']:.2f} s")
        return run["step"]

    seconds(many)
    seconds(few)
    pairs = interleaved(SHORT_ROUNDS, lambda: seconds(many), lambda: seconds(few))
    with_many, with_few = median([a for a, _ in pairs]), median([b for _, b in pairs])
    return [
        Result(
            name="stored-days",
            what=f"raw_readings of {readings:,} readings, {MANY_DAYS} such days stored: {with_many:.2f} s",
            baseline=f"{FEW_DAYS} days stored: {with_few:.2f} s",
            ratio=median([a / b for a, b in pairs]),
            goal=1.2,
            at_least=False,
            details={"many": [a for a, _ in pairs], "few": [b for _, b in pairs]},
        )
    ]


def warm_spark(bench: Bench) -> list[Result]:
    """`meters backfill` of one day on the warm stack against the same with a Spark session of its own."""
    readings = bench.size(SMALL_DAY)
    settings = bench.database("bench_warm_spark")
    _prepare(bench, settings, "warm-spark", readings, days=1)
    jars = ",".join(map(str, spark_jars(settings)))

    def seconds(kind: str, **environment: str) -> float:
        run = processes.meters(settings, "backfill", DATE, **environment)
        bench.report(f"warm-spark: {kind} {run['whole']:.1f} s (run {run['seconds']:.1f} s)")
        return run["whole"]

    def cold() -> float:
        return seconds("cold", METERS_SPARK_MASTER="local[*]", METERS_SPARK_JARS=jars)

    for _ in range(WARM_UPS):
        seconds("warm")
    pairs = interleaved(ROUNDS, lambda: seconds("warm"), cold)
    warm, cold_seconds = median([a for a, _ in pairs]), median([b for _, b in pairs])
    return [
        Result(
            name="warm-spark",
            what=f"meters backfill of a day of {readings:,} readings on the warm stack: {warm:.1f} s",
            baseline=f"with its own Spark session: {cold_seconds:.1f} s",
            ratio=median([b / a for a, b in pairs]),
            goal=4,
            at_least=True,
            details={"warm": [a for a, _ in pairs], "cold": [b for _, b in pairs]},
        )
    ]


def _prepare(bench: Bench, settings: Settings, name: str, readings: int, *, days: int) -> None:
    bench.report(f"{name}: storing {days} days of {readings:,} readings")
    register(settings, readings)
    for before in range(days - 1, -1, -1):
        store_day(settings, readings, DAY - timedelta(days=before))


def _group_seconds(settings: Settings) -> float:
    """MongoDB's own count, sum, mean, least and greatest per meter type over the day's range of keys."""
    low, high = reading_id_range(DAY, DAY + timedelta(days=1))
    value = {"$ifNull": ["$usage_kwh", "$usage"]}
    figures = {name: {f"${name}": value} for name in ("sum", "avg", "min", "max")}
    pipeline = [
        {"$match": {"_id": {"$gte": low, "$lt": high}}},
        {"$group": {"_id": "$meter_type", "count": {"$sum": 1}, **figures}},
    ]
    database = connect(settings)
    started = time.monotonic()
    list(database[READINGS].aggregate(pipeline))
    seconds = time.monotonic() - started
    database.client.close()
    return seconds
