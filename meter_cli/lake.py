"""`meters lake`: what is in the lake, fewer and larger files, and days that are kept no longer."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from meter_cli.console import counted, err, out, print_json, progress
from metering.settings import load_settings
from runtime.database import open_database

if TYPE_CHECKING:
    from meter_assets.lake.maintenance import LakeDay

app = typer.Typer(
    help="The lake's days: their files and sizes.",
    invoke_without_command=True,
    no_args_is_help=False,
    add_completion=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say which days it would be.")]


@app.callback()
def lake(context: typer.Context, as_json: Json = False) -> None:
    """List the days of raw_readings with their readings, files and size."""
    if context.invoked_subcommand:
        return
    from meter_assets.lake.maintenance import lake_days
    from meter_assets.lake.open import open_lake

    settings = load_settings()
    days = lake_days(open_lake(settings))
    if as_json:
        print_json([asdict(day) for day in days])
        return
    if not days:
        err.print(f"No day is in {settings.lake_path} yet. Compute some: meters backfill FIRST LAST", soft_wrap=True)
        return
    table = Table("day", "readings", "files", "size", box=None, pad_edge=False)
    for day in days:
        table.add_row(str(day.day), f"{day.rows:,}", str(day.files), decimal(day.size))
    out.print(table)
    scattered = sum(day.is_scattered for day in days)
    more = f"; {scattered:,} have more files than they need: meters lake compact" if scattered else ""
    err.print(f"{_in_all(days)}{more}", soft_wrap=True)


@app.command()
def compact(dry_run: DryRun = False, as_json: Json = False) -> None:
    """Write days of many small files into few large ones; readers see the old files or the new ones."""
    from meter_assets.lake.maintenance import compact as compact_day
    from meter_assets.lake.maintenance import lake_days
    from meter_assets.lake.open import open_lake

    place = open_lake(load_settings())
    days = [day for day in lake_days(place) if day.is_scattered]
    if not dry_run:
        with progress("days") as bar:
            days = [compact_day(place, day.day) for day in bar.track(days, description="compacting")]
    _report(days, "to be compacted" if dry_run else "compacted", as_json=as_json)


@app.command()
def prune(
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", min=1, metavar="N", help="Keep the last N days before today.")
    ] = None,
    before: Annotated[
        datetime | None, typer.Option("--before", formats=["%Y-%m-%d"], help="Drop the days before this one.")
    ] = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Take old days out of the lake. Their figures stand, MongoDB keeps their readings, a backfill brings them back."""
    from meter_assets.lake.maintenance import lake_days
    from meter_assets.lake.maintenance import prune as prune_days
    from meter_assets.lake.open import open_lake

    if (keep_days is None) == (before is None):
        raise typer.BadParameter("give one of --keep-days and --before")
    settings = load_settings()
    first = before.date() if before else _today(settings.zone) - timedelta(days=keep_days or 0)
    place = open_lake(settings)
    days = [day for day in lake_days(place) if day.day < first]
    if not dry_run:
        with open_database(settings) as database, progress("days") as bar:
            days = list(bar.track(prune_days(place, database, first), total=len(days), description="dropping"))
    _report(days, "to be dropped" if dry_run else "dropped", as_json=as_json)


def _today(zone: tzinfo) -> date:
    return datetime.now(zone).date()


def _report(days: "list[LakeDay]", done: str, *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(day) for day in days])
    else:
        err.print(f"{_in_all(days)} {done}" if days else f"No day is {done}")


def _in_all(days: "Iterable[LakeDay]") -> str:
    days = list(days)
    rows, size = sum(day.rows for day in days), sum(day.size for day in days)
    return f"{counted(len(days), 'day')}, {counted(rows, 'reading')}, {decimal(size)}"
