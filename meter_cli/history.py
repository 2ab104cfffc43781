"""`meters history`: what was published of a day, what changed, when and why."""

import dataclasses
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from meter_cli.console import NOTE, coloured, err, out, print_json
from metering.daily_tables import DAILY_TABLES
from metering.day_ledger import read_day
from metering.errors import MetersError
from metering.publishing import publishing_line
from metering.settings import load_settings
from runtime.database import open_database

IDENTITY = ("_id", "calculation_date", "meter_type", "unit", "device_id", "level", "key", "computed_at", "revision")


def history(
    asset: Annotated[str, typer.Argument(help="One of: " + ", ".join(DAILY_TABLES))],
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="Local day.")],
    key: Annotated[str | None, typer.Option(help="Only the document with this _id.")] = None,
    moment: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="What was published then (ISO 8601; UTC if it says no zone)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show what was published of a day: every change with its time, run and reason; or the figures of a past moment."""
    from meter_assets.days.history import as_of, read_history

    if asset not in DAILY_TABLES:
        raise MetersError(f"'{asset}' publishes no figures", fix=f"Choose from {', '.join(DAILY_TABLES)}")
    instant = _instant(moment) if moment else None
    settings = load_settings()
    with open_database(settings) as database:
        versions = read_history(database, asset, day.date().isoformat(), key=key)
        now = datetime.now(UTC)
        mark = read_day(database, day.date()).mark(now)
    if mark:
        err.print(NOTE, f"{day.date()}: {publishing_line(mark, now)}. See meters late", soft_wrap=True)
    if instant:
        versions = as_of(versions, instant)
    if as_json:
        print_json([dataclasses.asdict(version) for version in versions])
        return
    if not versions:
        when = f" as of {instant:%Y-%m-%d %H:%M:%S} UTC" if instant else ""
        compute = f"Compute it: meters backfill {day.date()}"
        err.print(f"Nothing is published of {day.date()} in {asset}{when}. {compute}", soft_wrap=True)
        return
    _print_figures(versions) if instant else _print_changes(versions)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise MetersError(f"'{text}' is no time", fix="Write one like 2024-05-18T12:00:00Z") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _print_changes(versions: list[Any]) -> None:
    from meter_assets.days.history import changed_figures

    before: Any = None
    for version in versions:
        if before is None or before.key != version.key:
            before = None
            out.print(coloured(version.key, "bold"), soft_wrap=True)
        since = f"{version.since:%Y-%m-%d %H:%M:%S} UTC"
        if before is None and not version.why:
            out.print(f"  {version.revision}  {since}  first published: {_figures(version.document)}", soft_wrap=True)
        else:
            why = ", ".join(version.why)
            out.print(f"  {version.revision}  {since}  {why} (run {version.run_id})", soft_wrap=True)
            if version.document is None:
                out.print("       no longer published", soft_wrap=True)
            for name, (was, now) in changed_figures(before and before.document, version.document).items():
                if version.document is not None and name not in IDENTITY:
                    out.print(f"       {name}: {_said(was)} → {_said(now)}", soft_wrap=True)
        before = version


def _print_figures(versions: list[Any]) -> None:
    for version in versions:
        table = Table("figure", "value", title=f"{version.key}, revision {version.revision}", box=None, pad_edge=False)
        for name, value in version.document.items():
            if name not in IDENTITY:
                table.add_row(name, _said(value))
        out.print(table)


def _figures(document: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {_said(value)}" for name, value in document.items() if name not in IDENTITY and value is not None
    )


def _said(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.6f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
