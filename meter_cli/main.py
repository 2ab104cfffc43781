"""Entry point: the list of commands, and the one place where errors become a line and an exit code.

Exit codes: 0 done; 1 a MetersError or a result that does not hold; 2 wrong usage; 130 Ctrl-C.
"""

import sys

import typer

from meter_cli import (
    alerts,
    bench,
    contract,
    dashboards,
    days,
    demo,
    dlq,
    history,
    ingest,
    init_env,
    lake,
    late,
    replay,
    route,
    simulate,
    stack,
)
from meter_cli.console import err
from metering.errors import MetersError

app = typer.Typer(
    name="meters",
    help="Smart metering: from meter readings to daily numbers that a utility can defend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.command()(demo.demo)
app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(stack.doctor)
app.command()(simulate.simulate)
app.command()(replay.replay)
app.command()(ingest.ingest)
app.command()(route.route)
app.command()(days.backfill)
app.command()(history.history)
app.add_typer(late.app, name="late")
app.add_typer(lake.app, name="lake")
app.command()(days.dev)
app.add_typer(alerts.app, name="alerts")
app.add_typer(dlq.app, name="dlq")
app.command()(dashboards.dashboards)
app.command()(contract.schema)
app.command()(init_env.init_env)
app.command()(bench.bench)


def main() -> None:
    """Run the command line; every foreseen failure ends in one line on standard error."""
    try:
        app()
    except MetersError as error:
        err.print(f"[bold red]error:[/] {error}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
