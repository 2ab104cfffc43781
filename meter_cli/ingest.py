"""`meters ingest`: run one member of the ingest group from the command line.

Exit codes beside the usual ones: 3, a run with an end has found messages that Kafka no longer had.
"""

import signal
import time
from typing import Annotated, Any

import typer
from rich.table import Table

from meter_cli.console import coloured, err, out, print_json, progress
from metering.settings import load_settings
from runtime.health_file import Alive

REPORT_EVERY_SECONDS = 10
LOST = 3


def ingest(
    until_caught_up: Annotated[
        bool, typer.Option(help="Stop when everything that is in the topic now is stored or refused.")
    ] = False,
    faults: Annotated[bool, typer.Option("--faults", help="Store the router's faults instead of readings.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Store readings from Kafka in MongoDB; start several to share the work. SIGTERM or Ctrl-C drains and exits 0.

    With --until-caught-up the exit code is 3 when Kafka no longer had some of the messages; see iot.lost_messages.
    """
    from streaming.ingest.batch import READINGS_FEED, faults_feed
    from streaming.ingest.member import Ingest

    settings = load_settings()
    ingest = Ingest(settings, feed=faults_feed(settings) if faults else READINGS_FEED, notice=_notice)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ingest.stop())
    alive = Alive(settings)
    started = time.monotonic()
    reported_at = started
    with progress("messages") as bar:
        task = bar.add_task("ingest", total=None)

        def show(counts: Any, backlog: int) -> None:
            nonlocal reported_at
            alive()
            bar.update(task, completed=counts.messages, total=backlog if until_caught_up else None)
            if bar.disable and counts.messages and time.monotonic() - reported_at > REPORT_EVERY_SECONDS:
                reported_at = time.monotonic()
                err.print(f"ingest: {_sentence(counts)}")

        counts = ingest.run(until_caught_up=until_caught_up, on_progress=show)
    seconds = time.monotonic() - started
    if as_json:
        print_json(ingest_summary(counts, seconds))
    else:
        _print(counts, seconds, faults=faults)
    if until_caught_up and counts.lost:
        raise typer.Exit(LOST)


def _print(counts: Any, seconds: float, *, faults: bool) -> None:
    table = Table("messages", "stored", "duplicates", "conflicts", "refused", "seconds", title="Ingested")
    numbers = (counts.messages, counts.stored, counts.duplicates, counts.conflicts, counts.refused)
    table.add_row(*(f"{number:,}" for number in numbers), f"{seconds:.1f}")
    out.print(table)
    if counts.reasons:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(counts.reasons.items()))
        out.print(f"Kept on iot-meter-dlq: {reasons}")
    if counts.lost:
        lost = f"{counts.lost:,} messages were no longer in Kafka; `meters status` names them"
        err.print(coloured("lost:", "bold red"), lost, soft_wrap=True)
    if counts.refused_again:
        out.print(f"{counts.refused_again:,} replayed letters refused again: meters dlq list --state refused_again")
    if not counts.messages:
        hint = "The router sends faults: `meters route`." if faults else "Send readings: `meters simulate`."
        out.print(f"Nothing new to ingest. {hint}")


def ingest_summary(counts: Any, seconds: float) -> dict[str, Any]:
    """The counts of a run for scripts; messages = stored + duplicates + conflicts + refused.

    What was produced is these messages and `lost_before_ingest`, an upper bound where there are transaction markers.
    `taken` are among the stored, `refused_again` among the refused: replayed dead letters.
    """
    return {
        "messages": counts.messages,
        "stored": counts.stored,
        "duplicates": counts.duplicates,
        "conflicts": counts.conflicts,
        "refused": counts.refused,
        "lost_before_ingest": counts.lost,
        "taken": counts.taken,
        "refused_again": counts.refused_again,
        "reasons": dict(counts.reasons),
        "seconds": round(seconds, 3),
    }


def _notice(line: str) -> None:
    err.print(f"ingest: {line}", soft_wrap=True, markup=False)


def _sentence(counts: Any) -> str:
    return (
        f"{counts.messages:,} messages = {counts.stored:,} stored + {counts.duplicates:,} duplicates "
        f"+ {counts.conflicts:,} conflicts + {counts.refused:,} refused"
    )
