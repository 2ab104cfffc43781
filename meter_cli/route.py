"""`meters route`: run the real-time router from the command line, or under Dagster, which it tells how it fares."""

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from meter_cli.console import err, out, print_error, print_json
from metering.settings import load_settings
from runtime.child_process import CHECKPOINT_HELD
from runtime.health_file import Alive

REPORT_EVERY_SECONDS = 10
TELL_DAGSTER_EVERY_SECONDS = 5


def route(
    aggregates: Annotated[bool, typer.Option(help="Keep windows and latest readings in MongoDB as well.")] = True,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Not needed any more: the router goes on by itself.", hidden=True)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the last progress as JSON.")] = False,
) -> None:
    """Route faulty readings to iot-abnormal as they happen. SIGTERM or Ctrl-C ends it with exit code 0."""
    from local_stack.jars import spark_jars
    from streaming.router.checkpoint import AlreadyRoutingError
    from streaming.router.router import Router

    settings = load_settings()
    jars = settings.spark_jars or ",".join(map(str, spark_jars(settings)))
    with ExitStack() as running:
        tell, run_id = _dagster(running)
        router = Router(settings, jars=jars, aggregates=aggregates, run_id=run_id, report=report)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: router.stop())
        alive = Alive(settings)
        said_at = 0.0

        def show(progress: Any) -> None:
            nonlocal said_at
            if progress.to_json()["state"] == "running":  # one that stands still must look dead
                alive()
            tell(progress)
            if time.monotonic() - said_at > REPORT_EVERY_SECONDS:
                said_at = time.monotonic()
                err.print(f"route: {sentence(progress.to_json())}", soft_wrap=True)

        err.print("Starting the router: Spark takes some 15 s", soft_wrap=True)
        try:
            progress = router.run(on_progress=show)
        except AlreadyRoutingError as error:
            print_error(error)
            sys.exit(CHECKPOINT_HELD)
    if as_json:
        print_json(progress.to_json())
        return
    out.print(f"Stopped. {sentence(progress.to_json())}", soft_wrap=True)


def report(line: str) -> None:
    """One line about what has happened to the router, at once."""
    err.print(f"route: {line}", soft_wrap=True, markup=False, highlight=False)


def sentence(progress: dict[str, Any]) -> str:
    """One line about a progress (see streaming/router/progress.py)."""
    parts = [f"{progress['rows_in']:,} readings in", f"{progress['faults_out']:,} faults out"]
    if progress["lag"] is not None:
        parts.append(f"{progress['lag']:,} waiting")
    if progress["latency_p50_ms"] is not None:
        parts.append(f"latency p50 {progress['latency_p50_ms']:.0f} ms, p99 {progress['latency_p99_ms']:.0f} ms")
    if progress["late_rows"]:
        parts.append(f"{progress['late_rows']:,} late")
    if progress["lost"]:
        parts.append(f"{progress['lost']:,} never to be read (iot.lost_messages)")
    if progress["restarts"]:
        parts.append(f"{progress['restarts']:,} restarts")
    if progress["state"] == "stalled":
        parts.append(f"stands still: {progress['problem'] or 'waits for Kafka'}")
    elif progress["problem"]:
        parts.append(progress["problem"])
    return "; ".join(parts)


def _dagster(running: ExitStack) -> tuple[Callable[[Any], None], str | None]:
    """How to tell a Dagster run about progress, and its id; nobody and None outside of one."""
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        return lambda progress: None, None
    from dagster_pipes import open_dagster_pipes

    pipes = running.enter_context(open_dagster_pipes())
    told_at = 0.0

    def tell(progress: Any) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > TELL_DAGSTER_EVERY_SECONDS:
            told_at = time.monotonic()
            pipes.report_custom_message({"progress": progress.to_json()})

    return tell, pipes.run_id
