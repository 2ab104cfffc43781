"""`meters faults`: break the platform on purpose, and check that nothing is lost, doubled or wrong."""

import random
import signal
from typing import Annotated

import typer

from meter_cli.console import err, out, print_json

LARGEST_SEED = 10**6


def faults(
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Cases whose name holds this pattern; repeatable.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Also the cases that take long.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of the loads and of the drawn faults; printed.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.5, help="Instead of the table: faults drawn from the seed, for so long.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Only name the cases.")] = False,
    lanes: Annotated[bool, typer.Option("--lanes/--no-lanes", help="Two cases beside each other.")] = True,
    write: Annotated[bool, typer.Option("--write", help="Write the table into docs/reliability.md.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Kill, stop, fill up and poison real processes under load; exit code 1 unless every promise holds."""
    from fault_injection.lanes import run_in_lanes
    from fault_injection.report import PAGE, sentence, summary, table, total, write_page
    from fault_injection.schedule import run_schedule
    from fault_injection.suite import chosen_rows, missing, run_rows, timed
    from fault_injection.table import ROWS

    rows = chosen_rows(only or [], full=full)
    if listed:
        for row in rows:
            note = f" (skipped here: {reason})" if (reason := missing(row)) else ""
            out.print(f"{row.id}: {row.process}, {row.fault}{note}", markup=False, soft_wrap=True)
        out.print(f"{len(rows)} cases")
        return
    if not rows:
        raise typer.BadParameter("no case has such a name; see --list", param_hint="--only")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: clean up, then end

    def report(line: str) -> None:
        err.print(line, markup=False, soft_wrap=True)

    chosen = random.randrange(LARGEST_SEED) if seed is None and minutes else seed if seed is not None else 1  # noqa: S311
    report(f"seed {chosen}")
    if minutes:
        run = run_schedule(chosen, minutes, report=report)
    else:
        run = (run_in_lanes if lanes else run_rows)(rows, seed=chosen, report=report)
    outcomes, seconds = timed(run, report)
    totals = total(outcomes, seconds)
    if as_json:
        print_json(summary(outcomes, totals, seed=chosen))
    else:
        out.print(sentence(totals), markup=False, soft_wrap=True)
    if write:
        write_page(table(outcomes, totals, seed=chosen, rows=() if minutes else ROWS))
        report(f"Written: {PAGE}")
    if not totals.good:
        raise typer.Exit(1)
