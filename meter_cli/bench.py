"""`meters bench`: measure the platform beside its baselines on this machine."""

from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from meter_cli.console import coloured, err, out, print_json


def bench(
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only ingest, ingest-stored, large-day, stored-days, warm-spark, year, routing, routing-idle, "
            "routing-kills, scaling or soak; repeatable.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the sizes, which the goals are not for.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the data that was measured on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Measure ingest and the daily assets, each beside its baseline, on a stack of its own; about an hour.

    It measures and does not test: a missed goal is said, and the exit code is 0 all the same.
    """
    from benchmarks.suite import BENCHMARKS, run_benchmarks

    for name in only or []:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"'{name}' is none of: {', '.join(BENCHMARKS)}", param_hint="--only")
    results, machine = run_benchmarks(
        only or [], quick=quick, keep=keep, report=lambda line: err.print(line, soft_wrap=True)
    )
    if as_json:
        print_json({"machine": machine, "quick": quick, "results": [result.summary() for result in results]})
        return
    table = Table("name", "what", "baseline", box=box.SIMPLE)
    for title in ("ratio", "goal"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for result in results:
        sign = "≥" if result.at_least else "≤"
        met = coloured("met", "green") if result.met else coloured("missed", "red")
        table.add_row(result.name, result.what, result.baseline, f"{result.ratio:.2f}", f"{sign} {result.goal:g}", met)
    out.print(table)
    out.print(_describe(machine), soft_wrap=True)
    if quick:
        out.print("Quick: a tenth of the sizes. The goals are for the full ones.")


def _describe(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, {machine['system']}, "
        f"load {machine['load_before']:.1f} before; {versions}"
    )
