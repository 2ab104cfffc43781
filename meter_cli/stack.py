"""Commands that start, stop and look at the local services. What they do is in local_stack; here is how they speak."""

import dataclasses
import signal
import threading
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from meter_cli.console import BAD, GOOD, NOTE, coloured, err, out, print_json
from metering.errors import MetersError
from metering.settings import load_settings
from runtime.local_services import ServiceTrouble, troubles

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def up(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay until Ctrl-C, then stop everything.")] = False,
) -> None:
    """Start MongoDB, Kafka and Spark in the background; return when all are usable."""
    from local_stack.background import retry_failed, start_supervisor
    from local_stack.doctor import silent_services
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
        if not (failed := troubles(settings)):
            if silent := silent_services(state):
                raise MetersError(
                    f"{', '.join(silent)} does not answer", fix="To start it again: meters down, then meters up"
                )
            who = "" if state.supervised else f", owned by process {state.pid}"
            err.print(f"The local stack is up already{who} ({settings.home})", soft_wrap=True)
            return
        for each in failed:
            err.print(f"{each.sentence}. Trying it now", soft_wrap=True)
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
                    err.print(GOOD, f"{name} {service.version} on {service.address} ({seconds:.1f} s)", soft_wrap=True)
            waiting = [name for name in state.services if name not in told]
            spinner.update(f"Waiting for {', '.join(waiting)}…" if waiting else "Nearly there…")

        if state and state.phase == "up":
            retry_failed(settings, observe)
        else:
            start_supervisor(settings, observe)
    err.print(f"The local stack is up ({time.monotonic() - started:.1f} s). Stop it: meters down")


def _stay() -> None:
    from local_stack.stack import LocalStack
    from local_stack.supervisor import watched

    end = threading.Event()
    with LocalStack(load_settings(), report=err.print) as stack, watched(stack):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: end.set())
        err.print("The local stack is up. Stop it: Ctrl-C")
        end.wait()
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

    settings = load_settings()
    report = read_status(settings)
    if json:
        print_json(report)
    else:
        table = Table("service", "state", "version", "address", "pid", box=None, pad_edge=False)
        for name, service in report["services"].items():
            state = coloured(service["state"], "green" if service["state"] == "up" else "red")
            table.add_row(name, state, *(str(service[key] or "") for key in ("version", "address", "pid")))
        out.print(table)
        for key in ("home", "mongo_uri", "kafka_bootstrap", "spark_remote", "lake", "dagster_home", "webserver_url"):
            out.print(f"{key:16} {report[key]}", soft_wrap=True)
        out.print(f"{'logs':16} {report['home']}/logs", soft_wrap=True)
        if losses := report["lost_messages"]:
            counts = ", ".join(f"{reader} at most {count:,}" for reader, count in sorted(losses.items()))
            out.print(f"{'lost messages':16} {counts}", soft_wrap=True)
        if not report["running"]:
            _print_what_to_do(report, troubles(settings))
    if not report["running"]:
        raise typer.Exit(1)


def _print_what_to_do(report: dict[str, Any], failed: list[ServiceTrouble]) -> None:
    for each in failed:
        err.print(f"{each.sentence}. Read {each.log}", soft_wrap=True)
    known = {each.name for each in failed}
    services = {name: each for name, each in report["services"].items() if name not in known and each["state"] != "up"}
    elsewhere = [f"{name} at {each['address']}" for name, each in services.items() if each["log"] is None]
    silent = [name for name, each in services.items() if each["log"] and each["state"] == "unreachable"]
    if failed:
        err.print("They are tried again by themselves. To try at once: meters up", soft_wrap=True)
    if elsewhere:
        err.print(f"Unreachable, and not ours to start: {', '.join(elsewhere)}", soft_wrap=True)
    if silent:
        err.print(
            f"{', '.join(silent)} does not answer. To start it again: meters down, then meters up", soft_wrap=True
        )
    if len(services) > len(elsewhere) + len(silent):
        err.print("Not all services are up. Start them: meters up")


def doctor(json: JsonOption = False) -> None:
    """Check that this machine can run the local stack; each failure comes with its fix."""
    from local_stack.doctor import diagnose

    findings = diagnose(load_settings())
    healthy = all(finding.ok for finding in findings)
    if json:
        print_json({"healthy": healthy, "checks": [dataclasses.asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            mark = (NOTE if finding.warns else GOOD) if finding.ok else BAD
            fix = f" → {finding.fix}" if finding.fix else ""
            out.print(mark, f"{finding.name}: {finding.detail}{fix}", soft_wrap=True)
    if not healthy:
        raise typer.Exit(1)
