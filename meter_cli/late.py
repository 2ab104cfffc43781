"""`meters late`: days that readings have reached after they were computed, and what is to become of them."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from meter_cli.console import err, out, print_json
from metering.errors import MetersError
from metering.settings import load_settings
from metering.store import connect

app = typer.Typer(
    help="Days that readings have reached after they were computed.", invoke_without_command=True, add_completion=False
)


@app.callback()
def late(
    context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False
) -> None:
    """List the days whose figures lack readings; to compute one again: meters backfill DAY."""
    if context.invoked_subcommand:
        return
    from metering.local_days import late_days

    settings = load_settings()
    database = connect(settings)
    days = late_days(database, before=datetime.now(settings.zone).date())
    database.client.close()
    now = datetime.now(UTC)
    waits = {day.day for day in days if day.awaits_decision(settings.late_horizon_days, now)}
    if as_json:
        print_json(
            [
                {
                    "day": day.day,
                    "last_reading_at": day.changed_at,
                    "published_at": day.published_at,
                    "waits_for_decision": day.day in waits,
                }
                for day in days
            ]
        )
        return
    if not days:
        err.print("No day is late: every computed day has all readings that are stored")
        return
    table = Table("day", "last reading stored", "figures since", "what happens", box=None, pad_edge=False)
    for day in days:
        fate = "waits for your decision" if day.day in waits else "late_readings_sensor computes it again"
        times = (f"{at:%Y-%m-%d %H:%M} UTC" if at else "" for at in (day.changed_at, day.published_at))
        table.add_row(str(day.day), *times, fate)
    out.print(table)
    if waits:
        err.print(
            "Compute one again: meters backfill DAY. Let its figures stand: meters late dismiss DAY", soft_wrap=True
        )


@app.command()
def dismiss(day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Local day.")]) -> None:
    """Let a day's figures stand, although readings have come that are not in them; the readings stay stored."""
    from metering.local_days import dismiss_day, read_day

    database = connect(load_settings())
    try:
        found = read_day(database, day.date())
        if not found.is_late:
            raise MetersError(f"{day.date()} is not late: nothing to dismiss", fix="See meters late")
        dismiss_day(database, found)
    finally:
        database.client.close()
    include = f"To include the readings after all: meters backfill {day.date()}"
    err.print(f"The figures of {day.date()} stand. {include}", soft_wrap=True)
