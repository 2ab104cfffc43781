"""Entry point: the list of commands, and the one place where errors become a line and an exit code.

Exit codes: 0 done; 1 an error that the line explains, or a result that does not hold; 2 wrong usage; 70 a bug, whose
trace is in the file that the line names; 75 another router is at work; 130 Ctrl-C.
"""

import sys

import typer

from meter_cli import (
    alerts,
    bench,
    dashboards,
    days,
    demo,
    dlq,
    faults,
    history,
    ingest,
    init_env,
    lake,
    late,
    replay,
    route,
    schema,
    simulate,
    stack,
)
from meter_cli.console import print_error
from meter_cli.failure import explain

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
app.command()(schema.schema)
app.command()(init_env.init_env)
app.command()(bench.bench)
app.command()(faults.faults)


def main() -> None:
    """Run the command line; every failure ends in one line on standard error."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last one to see it
        line, code = explain(error)
        print_error(line)
        sys.exit(code)


if __name__ == "__main__":
    main()
