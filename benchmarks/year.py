"""A year: in one run beside its days one by one, its memory beside a month's, and late readings beside all of it."""

from datetime import date, timedelta
from typing import Any

from benchmarks import processes
from benchmarks.city import DAY, register, store_day
from benchmarks.measure import Bench, Result, median
from metering.daily_tables import DAILY_ASSETS
from metering.settings import Settings

READINGS_A_DAY = 1_000
YEAR, MONTH = 365, 30
SINGLE_DAYS = 12
"""Days that are run one by one; the year's worth is reckoned from their median."""

LATE_DAYS = 5
LAST = DAY.date()


def year(bench: Bench) -> list[Result]:
    """The year in one run, its days one by one, a month, and the days that late readings reach."""
    readings, days = READINGS_A_DAY, bench.size(YEAR)
    settings = bench.database("bench_year")
    bench.report(f"year: storing {days} days of {readings:,} readings")
    register(settings, readings)
    for back in range(days):
        store_day(settings, readings, DAY - timedelta(days=back))
    first = LAST - timedelta(days=days - 1)

    month = _run(bench, settings, "a month", LAST - timedelta(days=min(MONTH, days) - 1), LAST)
    whole = _run(bench, settings, "the year", first, LAST)
    singles = [_run(bench, settings, "one day", day, day) for day in _spread(first, days, SINGLE_DAYS)]
    one = median([run["whole"] for run in singles])
    late = processes.run(settings, "benchmarks.late_process", *[str(day) for day in _spread(first, days, LATE_DAYS)])
    bench.report(f"year: {LATE_DAYS} late days {late['whole']:.1f} s")
    return [
        Result(
            name="year: one run",
            what=f"{days} days of {readings:,} readings in one run: {whole['whole']:.0f} s",
            baseline=f"one by one, {len(singles)} days measured: {one:.1f} s each, {one * days:.0f} s in all",
            ratio=whole["whole"] / (one * days),
            goal=1 / 3,
            at_least=False,
            details={"year": whole, "singles": singles},
        ),
        Result(
            name="year: memory",
            what=f"peak memory of the run over {days} days: {whole['peak_mb']:.0f} MB",
            baseline=f"over {min(MONTH, days)} days: {month['peak_mb']:.0f} MB",
            ratio=whole["peak_mb"] / month["peak_mb"],
            goal=1.2,
            at_least=False,
            details={"year": whole["peak_mb"], "month": month["peak_mb"]},
        ),
        Result(
            name="year: late",
            what=f"{LATE_DAYS} scattered days computed again in one run: {late['whole']:.1f} s",
            baseline=f"the year in one run: {whole['whole']:.0f} s",
            ratio=late["whole"] / whole["whole"],
            goal=0.2,
            at_least=False,
            details={"late": late},
        ),
    ]


def _run(bench: Bench, settings: Settings, what: str, first: date, last: date) -> dict[str, Any]:
    run = processes.run(settings, "benchmarks.day_process", str(first), str(last), *DAILY_ASSETS)
    bench.report(f"year: {what} {run['whole']:.1f} s, {run['peak_mb']:.0f} MB")
    return run


def _spread(first: date, days: int, count: int) -> list[date]:
    return [first + timedelta(days=days * number // count) for number in range(count)]
