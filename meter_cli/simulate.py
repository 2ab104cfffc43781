"""`meters simulate`: a made-up city sends its readings, past days at full speed, or one round a second."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from meter_cli.console import err, out, print_json, progress
from metering.errors import MetersError
from metering.meter_types import METER_TYPES
from metering.registry import Meter
from metering.settings import Settings, load_settings
from runtime.health_file import Alive
from streaming.simulator.city import make_city
from streaming.simulator.options import SimulationOptions, history_window, parse_interval
from streaming.simulator.sent_ledger import Ledger
from streaming.simulator.simulate import describe, history_readings, simulate_history, simulate_live

_HISTORY = "History"
_LIVE = "Live"
_DISTURBANCES = "Faults and disturbances"


@dataclass
class _Stop:
    """Whether someone asked to stop: once ends the run in order, twice ends it at once."""

    asked: bool = False

    def __call__(self) -> bool:
        return self.asked

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _stop_on_signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _rate(default_text: str) -> typer.models.OptionInfo:
    return typer.Option(min=0, max=1, help=default_text, rich_help_panel=_DISTURBANCES)


def simulate(
    households: Annotated[int, typer.Option(min=1, help="Each has a meter of every type.")] = 20,
    seed: Annotated[int, typer.Option(help="Another seed is another city with another course of events.")] = 1,
    interval: Annotated[
        str,
        typer.Option(help="Time between two readings, and what one reading's usage covers: 30s, 15m, 1h; up to 1d."),
    ] = "15m",
    days: Annotated[
        int | None,
        typer.Option(min=1, help="Complete local days to send; 1 unless --live.", rich_help_panel=_HISTORY),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The day before which history ends: today.", rich_help_panel=_HISTORY),
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="A round a second until Ctrl-C; after the history.", rich_help_panel=_LIVE)
    ] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="End after so many rounds.", rich_help_panel=_LIVE)] = None,
    fault_rate: Annotated[float, _rate("Readings with which a meter reports its own fault.")] = 0.01,
    late_rate: Annotated[float, _rate("Readings sent hours late (live: up to a minute).")] = 0.01,
    out_of_order_rate: Annotated[float, _rate("Readings sent after their meter's next one.")] = 0.01,
    duplicate_rate: Annotated[float, _rate("Readings sent again, byte by byte.")] = 0.005,
    conflict_rate: Annotated[float, _rate("Readings followed by another payload for them.")] = 0.0,
    garbage_rate: Annotated[float, _rate("Malformed messages for each reading.")] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ledger's summary as JSON.")] = False,
) -> None:
    """Send a simulated city's readings, and keep an exact ledger of what was sent."""
    if rounds and not live:
        raise typer.BadParameter("--rounds is for --live", param_hint="--rounds")
    if until and live and not days:
        raise typer.BadParameter("--until is for a history: add --days", param_hint="--until")
    try:
        interval_seconds = parse_interval(interval)
    except MetersError as error:
        raise typer.BadParameter(str(error), param_hint="--interval") from None
    settings = load_settings()
    options = SimulationOptions(
        seed=seed,
        interval_seconds=interval_seconds,
        days=days or 1,
        until=until.date() if until else None,
        fault_rate=fault_rate,
        late_rate=late_rate,
        out_of_order_rate=out_of_order_rate,
        duplicate_rate=duplicate_rate,
        conflict_rate=conflict_rate,
        garbage_rate=garbage_rate,
    )
    with_history = bool(days) or not live
    start, end = history_window(settings, options) if with_history else (datetime.now(UTC), datetime.now(UTC))
    city = make_city(
        households=households,
        seed=seed,
        interval_seconds=interval_seconds,
        installed_at=start.astimezone(UTC).replace(microsecond=0),
    )
    ledger = Ledger.begin(seed, describe(city, settings, options))
    with _stop_on_signals() as stop:
        try:
            if with_history:
                readings = history_readings(city, start, end, interval_seconds)
                _send_history(city, settings, options, ledger, stop, readings)
            if live and not stop():
                _send_live(city, settings, options, ledger, stop, rounds)
        finally:
            # Also after a failure: what may have reached the broker is worth knowing, marked as incomplete.
            path = ledger.save(settings.home) if ledger.messages else None
    if path is None:
        raise MetersError("Nothing was sent: stopped before the first round")
    if as_json:
        print_json({**ledger.summary(), "file": str(path)})
    else:
        print_ledger(ledger)
        out.print(f"Ledger: {path}", soft_wrap=True)


def _send_history(
    city: list[Meter], settings: Settings, options: SimulationOptions, ledger: Ledger, stop: _Stop, readings: int
) -> None:
    with progress("readings") as bar:
        task = bar.add_task("Connecting", total=readings)
        began = time.monotonic()
        alive = Alive(settings)

        def show(ledger: Ledger, done: int) -> None:
            alive()
            rate = ledger.messages / max(0.001, time.monotonic() - began)
            bar.update(task, completed=done, description=f"Sending, {rate:,.0f} messages/s")

        simulate_history(city, settings, options, on_progress=show, ledger=ledger, stop=stop)
        seconds = time.monotonic() - began
    err.print(f"Sent {ledger.messages:,} messages in {seconds:.1f} s ({ledger.messages / seconds:,.0f}/s)")


def _send_live(
    city: list[Meter],
    settings: Settings,
    options: SimulationOptions,
    ledger: Ledger,
    stop: _Stop,
    rounds: int | None,
) -> None:
    with err.status(f"Live: {len(city)} meters, one round a second; Ctrl-C ends") as line:
        before = ledger.messages
        alive = Alive(settings)

        def show(ledger: Ledger, done: int) -> None:
            alive()
            if done == 1 and not err.is_terminal:
                err.print("Live: the first round is sent")  # a log has no line that changes
            line.update(
                f"Live: {done:,} rounds, {ledger.messages - before:,} messages, {ledger.faults:,} faults; Ctrl-C ends"
            )

        simulate_live(city, settings, options, rounds=rounds, on_progress=show, ledger=ledger, stop=stop)


def print_ledger(ledger: Ledger) -> None:
    """Print what was sent: the counts, then a line for each day and meter type."""
    counts = Table(box=box.SIMPLE, show_header=False)
    counts.add_column()
    counts.add_column(justify="right")
    for name in ("messages", "readings", "duplicates", "conflicts", "garbage", "late", "out_of_order", "faults"):
        counts.add_row(name.replace("_", " "), f"{getattr(ledger, name):,}")
    days = Table("day", "meters", box=box.SIMPLE)
    for title in ("readings", "faulty", "usage"):
        days.add_column(title, justify="right")
    for day in sorted(ledger.days):
        for row in METER_TYPES.values():
            totals = ledger.totals(day, row.meter_type)
            usage = f"{totals['usage']:,.3f} {row.unit}"
            days.add_row(day, row.meter_type, f"{totals['readings']:,}", f"{totals['faulty']:,}", usage)
    out.print(f"Run {ledger.run_id}{'' if ledger.complete else ' (not all acknowledged)'}", counts, days)
