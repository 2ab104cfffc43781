"""Commands that start, stop and look at the local services. What they do is in local_stack; here is how they speak."""

import dataclasses
import signal
import threading
import time
from typing import Annotated

import typer
from rich.table import Table

from meter_cli.console import err, out, print_json
from metering.errors import MetersError
from metering.settings import load_settings

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay until Ctrl-C, then stop everything.")] = False,
) -> None:
    """Start MongoDB, Kafka and Spark in the background; return when all are usable."""
    from local_stack.background import start_supervisor
    from local_stack.stack import wanted_services
    from local_stack.state import StackState, live_state

    settings = load_settings()
    if not wanted_services(settings):
        err.print("Nothing to start: the settings place every service elsewhere")
        return
    state = live_state(settings.home)
    if state and state.phase == "up":
        if foreground:
            raise MetersError(
                f"A local stack already runs in {settings.home}, owned by process {state.pid}", fix="Run meters down"
            )
        who = "" if state.supervised else f", owned by process {state.pid}"
        err.print(f"The local stack is up already{who} ({settings.home})")
        return
    started = time.monotonic()
    if foreground:
        _stay()
        return
    told: set[str] = set()
    with err.status("Starting the local stack…") as spinner:

        def observe(state: StackState) -> None:
            for name, service in state.services.items():
                if service.state == "up" and name not in told:
                    told.add(name)
                    seconds = time.monotonic() - started
                    err.print(f"[green]✓[/] {name} {service.version} on {service.address} ({seconds:.1f} s)")
            waiting = [name for name in state.services if name not in told]
            spinner.update(f"Waiting for {', '.join(waiting)}…" if waiting else "Nearly there…")

        start_supervisor(settings, observe)
    err.print(f"The local stack is up ({time.monotonic() - started:.1f} s). Stop it: meters down")


def _stay() -> None:
    from local_stack.stack import LocalStack
    from local_stack.supervisor import Supervisor

    end = threading.Event()
    with LocalStack(load_settings(), report=err.print) as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: end.set())
        err.print("The local stack is up. Stop it: Ctrl-C")
        Supervisor(stack, end).watch()
        err.print("Stopping…")


def down() -> None:
    """Stop the services that `meters up` started; data stays."""
    from local_stack.background import stop_supervisor

    with err.status("Stopping the local stack…"):
        stopped = stop_supervisor(load_settings())
    err.print("The local stack is down" if stopped else "The local stack is not running")


def status(json: JsonOption = False) -> None:
    """Show where the services are and whether they answer; exit code 1 unless all are up."""
    from local_stack.status import status as read_status

    report = read_status(load_settings())
    if json:
        print_json(report)
    else:
        table = Table("service", "state", "version", "address", "pid", box=None, pad_edge=False)
        for name, service in report["services"].items():
            colour = "green" if service["state"] == "up" else "red"
            table.add_row(
                name,
                f"[{colour}]{service['state']}[/]",
                *(str(service[key] or "") for key in ("version", "address", "pid")),
            )
        out.print(table)
        for key in ("home", "mongo_uri", "kafka_bootstrap", "spark_remote", "lake", "dagster_home", "webserver_url"):
            out.print(f"{key:16} {report[key]}", soft_wrap=True, markup=False)
        out.print(f"{'logs':16} {report['home']}/logs", soft_wrap=True, markup=False)
        if not report["running"]:
            err.print("Not all services are up. Start them: meters up")
    if not report["running"]:
        raise typer.Exit(1)


def doctor(json: JsonOption = False) -> None:
    """Check that this machine can run the local stack; each failure comes with its fix."""
    from local_stack.checks import diagnose

    findings = diagnose(load_settings())
    healthy = all(finding.ok for finding in findings)
    if json:
        print_json({"healthy": healthy, "checks": [dataclasses.asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            fix = f" → {finding.fix}" if finding.fix else ""
            out.print(mark, f"{finding.name}: {finding.detail}{fix}", soft_wrap=True)
    if not healthy:
        raise typer.Exit(1)
