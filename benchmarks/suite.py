"""The list of benchmarks, and running them one after the other on a stack of their own."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import days, ingest, kills, routing, scaling, soak, year
from benchmarks.measure import Bench, Report, Result, machine
from benchmarks.stack import own_stack
from metering.settings import load_settings

BENCHMARKS: dict[str, Callable[[Bench], list[Result]]] = {
    "ingest": ingest.ingest,
    "ingest-stored": ingest.among_stored,
    "large-day": days.large_day,
    "stored-days": days.stored_days,
    "warm-spark": days.warm_spark,
    "year": year.year,
    "routing": routing.routing,
    "routing-idle": routing.idle,
    "routing-kills": kills.kills,
    "scaling": scaling.scaling,
    "soak": soak.soak,
}

QUICK = 0.1


def run_benchmarks(
    names: Sequence[str], *, quick: bool, keep: bool, report: Report
) -> tuple[list[Result], dict[str, Any]]:
    """Run these benchmarks; their results, and the machine that they were measured on.

    Args:
        names: of BENCHMARKS; none means all.
        quick: a tenth of the sizes: shows that everything works, and less of how fast it is.
        keep: leave the installation that was measured on.
        report: gets lines of progress.

    Raises:
        MetersError: the stack does not start, or a measured process failed.
    """
    with own_stack(keep=keep, report=report) as stack:
        described = machine(stack)
        bench = Bench(stack, load_settings(), QUICK if quick else 1.0, report)
        results: list[Result] = []
        for name in names or BENCHMARKS:
            for result in BENCHMARKS[name](bench):
                report(f"{result.name}: {result.verdict}")
                results.append(result)
    return results, described
