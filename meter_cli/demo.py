"""`meters demo`: the whole platform at work on a made-up city, checked against what the simulator knows it sent."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from typing import Annotated, Any

import pymongo
import typer
from pymongo.errors import PyMongoError
from rich.table import Table

from meter_cli.console import BAD, GOOD, coloured, err, out, print_json, progress
from metering.addresses import redact
from metering.daily_tables import DAILY_AVERAGES
from metering.errors import MetersError
from metering.meter_types import METER_TYPES
from metering.settings import Settings, load_settings
from metering.store import FAULTS, HEARTBEATS, READINGS, ensure_collections
from runtime.database import open_database

SEED = 1
INTERVAL_SECONDS = 900
LIVE_SECONDS = 2
"""How long the line about the live state waits for MongoDB."""


def demo(
    once: Annotated[bool, typer.Option("--once", help="Past days only, then check everything and end.")] = False,
    days: Annotated[int, typer.Option(min=1, max=60, help="Past days to send.")] = 3,
    households: Annotated[int, typer.Option(min=1, max=10_000, help="Each has two meters.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Start everything, send past days of a city, materialize them, check them; then go on live until Ctrl-C."""
    from local_stack.doctor import preflight

    settings = load_settings()
    if "first_day" not in settings.model_fields_set:  # so that the UI's partition bar is about the demo's days
        month = (date.today() - timedelta(days=days)).replace(day=1)  # noqa: DTZ011 - a month's precision
        settings = settings.model_copy(update={"first_day": month})
    os.environ.update(settings.environment())
    load_settings.cache_clear()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has started us with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    if not once:
        preflight(settings, ["webserver"])  # before minutes of work, not after
    with ExitStack() as running:
        running.enter_context(_stack(settings))
        summary = _past_days(settings, running, days=days, households=households)
        if as_json:
            print_json(summary)
        else:
            _print_summary(summary)
        if summary["problems"]:
            raise typer.Exit(1)
        if not once:
            _live(settings, running, households=households)


@contextmanager
def _stack(settings: Settings) -> Iterator[None]:
    """The local stack: the one that is up in this home already, or our own for as long as this lasts."""
    from local_stack.stack import LocalStack, wanted_services
    from local_stack.state import live_state
    from local_stack.supervisor import watched

    state = live_state(settings.home)
    if not wanted_services(settings) or (state and state.phase == "up"):
        yield
        return
    with ExitStack() as running:
        with err.status("Starting MongoDB, Kafka and Spark…"):
            stack = running.enter_context(LocalStack(settings, report=lambda line: err.print(GOOD, line)))
            running.enter_context(watched(stack))
        yield


def _past_days(settings: Settings, running: ExitStack, *, days: int, households: int) -> dict[str, Any]:
    """Send, ingest, route, materialize and check the past days.

    Returns:
        `ok`, `problems`, `ledger`, `ingest`, `faults`, `dead_letters`, `run_id`, `daily_averages` and `seconds` per
        stage.
    """
    from meter_cli.days import run_backfill
    from meter_cli.demo_checks import conservation, daily_numbers, dead_letter_offsets, dead_letters_since
    from meter_cli.demo_faults import routed_faults, start_command, store_routed_faults
    from metering.registry import register_meters
    from streaming.ingest.member import Ingest
    from streaming.simulator.city import make_city
    from streaming.simulator.options import SimulationOptions, history_window
    from streaming.simulator.simulate import history_readings, simulate_history

    options = SimulationOptions(
        seed=SEED, interval_seconds=INTERVAL_SECONDS, days=days, conflict_rate=0.001, garbage_rate=0.001
    )
    start, end = history_window(settings, options)
    city = make_city(households=households, seed=SEED, interval_seconds=INTERVAL_SECONDS, installed_at=start)
    _require_own_city(settings, {meter.device_id: meter.household_name for meter in city})
    seconds: dict[str, float] = {}
    with open_database(settings) as database:
        ensure_collections(database)
        register_meters(database, city)  # before the router asks who is known
    router = start_command(settings, "route", "route")
    running.callback(router.stop, 20)

    with _timed(seconds, "simulate"), progress("readings") as bar:
        Ingest(settings).run(until_caught_up=True)  # whatever was waiting does not belong to this demo
        dead_letters_before = dead_letter_offsets(settings)
        task = bar.add_task("Sending past days", total=history_readings(city, start, end, INTERVAL_SECONDS))
        ledger = simulate_history(city, settings, options, on_progress=lambda _, done: bar.update(task, completed=done))
        ledger.save(settings.home)
    with _timed(seconds, "ingest"), progress("messages") as bar:
        task = bar.add_task("Ingesting", total=ledger.messages)
        counts = Ingest(settings).run(
            until_caught_up=True, on_progress=lambda counts, _: bar.update(task, completed=counts.messages)
        )
    dead_letters = dead_letters_since(settings, dead_letters_before)
    with _timed(seconds, "route"), err.status("Routing faults…"):
        heartbeat = store_routed_faults(settings, router, ledger)
    router.stop(20)  # two processors: the days are done sooner without it
    with _timed(seconds, "materialize"):
        dates = sorted(date.fromisoformat(day) for day in ledger.days)
        run = run_backfill(settings, dates[0], dates[-1])

    days_published = {"calculation_date": {"$gte": dates[0].isoformat(), "$lte": dates[-1].isoformat()}}
    with open_database(settings) as database:
        problems = [
            *conservation(ledger, counts, dead_letters),
            *daily_numbers(ledger, database),
            *routed_faults(ledger, database, start, end),
        ]
        averages = list(database[DAILY_AVERAGES].find(days_published).sort("_id"))
        routed = database[FAULTS].count_documents({"timestamp": {"$gte": start, "$lt": end}})
    summary = ledger.summary()
    return {
        "ok": not problems,
        "problems": problems,
        "ledger": {name: value for name, value in summary.items() if name != "days"},
        "ingest": {
            name: getattr(counts, name) for name in ("messages", "stored", "duplicates", "conflicts", "refused")
        },
        "faults": {"injected": len(ledger.fault_ids), "routed": routed, "read": heartbeat["rows_in"]},
        "dead_letters": dict(dead_letters),
        "run_id": run["run_id"],
        "daily_averages": averages,
        "seconds": seconds,
    }


def _require_own_city(settings: Settings, names: dict[str, str | None]) -> None:
    """The checks are exact, so the installation may hold no other meters than the demo's."""
    with open_database(settings) as database:
        others = [
            meter["_id"]
            for meter in database["meters"].find()
            if meter.get("household_name") != names.get(meter["_id"], "")
        ]
    if others:
        raise MetersError(
            f"This installation holds {len(others):,} other meters ({others[0]}, …), and the demo's checks are exact",
            fix="Give the demo a home of its own: METERS_HOME=.meters-demo make demo",
        )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[stage] = round(time.monotonic() - started, 3)
    err.print(GOOD, f"{stage} ({seconds[stage]:.1f} s)")


def _print_summary(summary: dict[str, Any]) -> None:
    ledger, ingest = summary["ledger"], summary["ingest"]
    table = Table(title="Daily averages", title_justify="left", box=None, pad_edge=False)
    table.add_column("day", no_wrap=True)
    table.add_column("type", no_wrap=True)
    for name in ("readings", "faulty", "total", "mean", "complete"):
        table.add_column(name, justify="right")
    for row in summary["daily_averages"]:
        unit, meter_type = row["unit"], METER_TYPES[row["meter_type"]]
        total, mean = row[meter_type.total_column], row[meter_type.mean_column]
        table.add_row(
            row["calculation_date"],
            row["meter_type"],
            f"{row['readings']:,}",
            f"{row['faulty_readings']:,}",
            f"{total:,.1f} {unit}",
            f"{mean:.3f} {unit}",
            f"{row['completeness']:.1%}",
        )
    out.print(table)
    out.print(
        f"Conservation: {ledger['messages']:,} produced = {ingest['stored']:,} stored + "
        f"{ingest['duplicates']:,} duplicates + {ingest['conflicts'] + ingest['refused']:,} dead letters",
        soft_wrap=True,
    )
    faults = summary["faults"]
    out.print(f"Faults:       {faults['injected']:,} injected, {faults['routed']:,} routed", soft_wrap=True)
    for problem in summary["problems"][:20]:
        err.print(BAD, problem, soft_wrap=True)
    if summary["problems"]:
        err.print(coloured(f"{len(summary['problems']):,} figures disagree with the simulator's ledger", "red"))
    else:
        out.print(GOOD, "Every figure agrees with the simulator's ledger", soft_wrap=True)


def _live(settings: Settings, running: ExitStack, *, households: int) -> None:
    """Servers, ingest and live rounds as child processes, and one line that says how it goes, until Ctrl-C."""
    from local_stack.dagster import Dagster, webserver_url
    from meter_cli.demo_faults import start_command

    def start(name: str, *arguments: str) -> Any:
        child = start_command(settings, name, *arguments)
        running.callback(child.stop, 20)
        return child

    dagster = Dagster(settings)
    with err.status("Starting Dagster's servers…"):
        dagster.launch()
        running.callback(dagster.stop)
        dagster.wait_ready()
    children = {
        "ingest": start("ingest", "ingest"),
        "ingest-faults": start("ingest-faults", "ingest", "--faults"),
        "simulate": start(
            "simulate", "simulate", "--live", "--households", str(households), "--seed", str(SEED), "--interval", "15m"
        ),
    }
    url = webserver_url(settings)
    out.print(f"Dagster UI:  {url}", soft_wrap=True)
    out.print(f"Assets:      {url}/locations/meter_assets/assets", soft_wrap=True)
    out.print(f"MongoDB:     {redact(settings.mongo)}  (database {settings.mongo_database})", soft_wrap=True)
    out.print(f"Kafka:       {settings.kafka}", soft_wrap=True)
    out.print("Ctrl-C ends the demo; its data stays.")
    tick = threading.Event()
    with open_database(settings) as database, err.status("Live…") as line:
        while not tick.wait(1):
            for name, child in children.items():
                if child.exit_code is not None:
                    raise MetersError(f"{name} has ended", fix=f"Read {settings.home / 'logs' / name}.log")
            if not dagster.is_running:
                raise dagster.death()
            line.update(_live_line(database))


def _live_line(database: Any) -> str:
    try:
        with pymongo.timeout(LIVE_SECONDS):
            stored = f"Live: {database[READINGS].estimated_document_count():,} readings stored"
            heartbeat = database[HEARTBEATS].find_one({"_id": "router"}) or {}
    except PyMongoError:
        return "Live: MongoDB does not answer; ingest waits for it"
    if heartbeat.get("state") != "running":
        return f"{stored}; Dagster is starting the router"
    latency = heartbeat["latency_p50_ms"]
    took = "" if latency is None else f", median {latency:,.0f} ms"
    return f"{stored}; {heartbeat['faults_out']:,} faults routed{took}"
