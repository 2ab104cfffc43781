"""`meters late`: days that readings have reached after they were computed, or that are not published whole yet."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from meter_cli.console import err, out, print_json
from metering.day_ledger import LocalDay, dismiss_day, read_day, unsettled_days
from metering.errors import MetersError
from metering.publishing import publishing_line
from metering.settings import load_settings
from runtime.database import open_database

app = typer.Typer(
    help="Days that readings have reached after they were computed, or that are not published whole yet.",
    invoke_without_command=True,
    add_completion=False,
)


@app.callback()
def late(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """List the days whose figures lack readings or are not all published; to compute one again: meters backfill DAY."""
    if context.invoked_subcommand:
        return
    settings = load_settings()
    with open_database(settings) as database:
        days = unsettled_days(database, before=datetime.now(settings.zone).date())
    now = datetime.now(UTC)
    waits = {
        day.day for day in days if day.awaits_decision(settings.late_horizon_days, now) and not day.is_interrupted(now)
    }
    if as_json:
        print_json([_as_json(day, now, waits_for_decision=day.day in waits) for day in days])
        return
    if not days:
        err.print("No day is late: every computed day is published whole, with all readings that are stored")
        return
    table = Table("day", "reason", "last reading stored", "figures since", "what happens", box=None, pad_edge=False)
    for day in days:
        times = (f"{at:%Y-%m-%d %H:%M} UTC" if at else "" for at in (day.changed_at, day.published_at))
        table.add_row(str(day.day), _reason(day, now), *times, _fate(day, now, waits=day.day in waits))
    out.print(table)
    for day in days:
        if mark := day.mark(now):
            err.print(f"{day.day}: {publishing_line(mark, now)}", soft_wrap=True)
    if waits or any(day.is_interrupted(now) for day in days):
        err.print(
            "Compute one again: meters backfill DAY. Let its figures stand: meters late dismiss DAY", soft_wrap=True
        )


def _reason(day: LocalDay, now: datetime) -> str:
    if day.is_interrupted(now):
        return "interrupted"
    return "publishing" if day.publishing else "late readings"


def _fate(day: LocalDay, now: datetime, *, waits: bool) -> str:
    if waits:
        return "waits for your decision"
    if day.publishing and not day.is_interrupted(now):
        return "a run is publishing it"
    return "late_readings_sensor computes it again"


def _as_json(day: LocalDay, now: datetime, *, waits_for_decision: bool) -> dict[str, Any]:
    mark = day.mark(now)
    return {
        "day": day.day,
        "reason": _reason(day, now),
        "last_reading_at": day.changed_at,
        "published_at": day.published_at,
        "waits_for_decision": waits_for_decision,
        "publishing_since": mark and mark.since,
        "publishing_run": mark and mark.run_id,
    }


@app.command()
def dismiss(day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Local day.")]) -> None:
    """Let a day's figures stand, although readings have come that are not in them; the readings stay stored."""
    with open_database(load_settings()) as database:
        found = read_day(database, day.date())
        if found.is_interrupted(datetime.now(UTC)):
            raise MetersError(
                f"{day.date()} is half published, which cannot stand", fix=f"meters backfill {day.date()}"
            )
        if not found.is_late:
            raise MetersError(f"{day.date()} is not late: nothing to dismiss", fix="See meters late")
        dismiss_day(database, found)
    include = f"To include the readings after all: meters backfill {day.date()}"
    err.print(f"The figures of {day.date()} stand. {include}", soft_wrap=True)
