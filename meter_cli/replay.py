"""`meters replay`: options to a CSV layout, a progress bar, and the report in words or JSON."""

import re
from dataclasses import replace as changed
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from meter_cli.console import byte_progress, out, print_json
from metering.errors import MetersError
from metering.meter_types import METER_TYPES, MeterType
from metering.reading import iso_utc
from metering.settings import READINGS_TOPIC, load_settings
from streaming.replay.csv_layout import UNIT_NAMES, CsvLayout, types_with_unit
from streaming.replay.csv_presets import PRESETS
from streaming.replay.replayer import MAX_NEW_METERS, ReplayReport
from streaming.replay.replayer import replay as run_replay

_COLUMNS = "Columns"
_FORMAT = "Format"
_SPEED = re.compile(r"(\d+(?:\.\d+)?)x")
_NAMED_CHARACTERS = {"tab": "\t", r"\t": "\t", "space": " "}


def replay(
    file: Annotated[Path, typer.Argument(help="A .csv or .csv.gz file with a header line.", show_default=False)],
    preset: Annotated[
        str | None, typer.Option(help=f"A known layout: {', '.join(PRESETS)}. Options below override it.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Column of the meter's id.", rich_help_panel=_COLUMNS)] = None,
    device_id: Annotated[
        str | None, typer.Option(help="Id of the file's only meter.", rich_help_panel=_COLUMNS)
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Column of the time, or two as in Date,Time.", rich_help_panel=_COLUMNS)
    ] = None,
    value: Annotated[
        str | None, typer.Option(help="Column of the usage in the interval.", rich_help_panel=_COLUMNS)
    ] = None,
    register: Annotated[
        str | None, typer.Option(help="Column of the cumulative counter, same unit.", rich_help_panel=_COLUMNS)
    ] = None,
    household: Annotated[
        str | None, typer.Option(help="Column of the household, for the registry.", rich_help_panel=_COLUMNS)
    ] = None,
    meter_type: Annotated[
        MeterType | None, typer.Option("--type", help="What the meters measure.", rich_help_panel=_FORMAT)
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help=f"Unit of the usage: {', '.join(UNIT_NAMES)}.", rich_help_panel=_FORMAT)
    ] = None,
    time_format: Annotated[
        str | None, typer.Option(help="strptime format like '%d/%m/%Y %H:%M', or iso.", rich_help_panel=_FORMAT)
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="Zone of times without offset: Europe/Madrid or +10:00; UTC.", rich_help_panel=_FORMAT),
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="Between two cells; 'tab' for a tab.", rich_help_panel=_FORMAT)
    ] = None,
    decimal: Annotated[str | None, typer.Option(help="Decimal mark: . or ,", rich_help_panel=_FORMAT)] = None,
    interval: Annotated[
        int | None,
        typer.Option(min=1, max=86_400, help="Usual seconds between readings; else learned.", rich_help_panel=_FORMAT),
    ] = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(help="Cell that means no value was reported; besides an empty one.", rich_help_panel=_FORMAT),
    ] = None,
    speed: Annotated[str, typer.Option(help="max, or times real time by the readings' timestamps: 1x, 60x.")] = "max",
    limit: Annotated[int | None, typer.Option(min=1, help="Rows to read at most.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read every row, and send and register nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help=f"The file may bring more than {MAX_NEW_METERS:,} new meters.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    topic: Annotated[str, typer.Option(hidden=True)] = READINGS_TOPIC,
) -> None:
    """Send the readings of a real CSV file, as if its meters reported now."""
    factor = _speed(speed)
    layout = _layout(
        preset,
        {
            "device_column": device,
            "device_id": device_id,
            "time_columns": tuple(name.strip() for name in time.split(",")) if time is not None else None,
            "value_column": value,
            "register_column": register,
            "household_column": household,
            "meter_type": meter_type,
            "unit": unit,
            "time_format": time_format,
            "timezone": timezone,
            "separator": _NAMED_CHARACTERS.get(separator, separator) if separator is not None else None,
            "decimal": decimal,
            "interval_seconds": interval,
            "missing": frozenset({"", *missing}) if missing else None,
        },
    )
    with byte_progress() as bar:
        task = bar.add_task(file.name, total=None)

        def show(done: int, total: int, report: ReplayReport) -> None:
            rate = f"{report.rows:,} rows, {report.rows_per_second:,.0f}/s"
            bar.update(task, completed=done, total=total, description=f"{file.name}: {rate}")

        report = run_replay(
            file,
            layout,
            load_settings(),
            speed=factor,
            limit=limit,
            topic=topic,
            on_progress=show,
            dry_run=dry_run,
            many_meters=yes,
        )
    if as_json:
        print_json(report.to_json())
    else:
        _print_report(report)
    if report.error:
        raise MetersError(report.error)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    match = _SPEED.fullmatch(text)
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"'{text}' is neither max nor like 1x or 60x", param_hint="--speed")
    return float(match[1])


def _layout(preset: str | None, options: dict[str, Any]) -> CsvLayout:
    """The preset with whatever options say otherwise, or the options alone."""
    given = {name: value for name, value in options.items() if value is not None}
    if "device_column" in given and "device_id" in given:
        raise typer.BadParameter("use one of --device and --device-id", param_hint="--device")
    if preset is not None:
        if preset not in PRESETS:
            raise typer.BadParameter(f"'{preset}' is none of: {', '.join(PRESETS)}", param_hint="--preset")
        if "device_column" in given:
            given["device_id"] = None
        elif "device_id" in given:
            given["device_column"] = None
        return changed(PRESETS[preset], **given)
    needed = {"time_columns": "--time", "value_column": "--value"}
    lacking = [option for name, option in needed.items() if name not in given]
    if "device_column" not in given and "device_id" not in given:
        lacking.append("--device or --device-id")
    if "meter_type" not in given:
        types = types_with_unit(given.get("unit", ""))
        if len(types) == 1:
            given["meter_type"] = types[0]
        else:
            lacking.append("--type")
    if lacking:
        raise typer.BadParameter(f"without a preset ({', '.join(PRESETS)}) it needs {', '.join(lacking)}")
    given.setdefault("unit", METER_TYPES[given["meter_type"]].unit)
    return CsvLayout(**given)


def _print_report(report: ReplayReport) -> None:
    table = Table(show_header=False, title=f"{report.file} → {report.topic}", title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    for name in ("rows", "sent", "missing", "refused", "meters", "new_meters"):
        said = "would be sent" if name == "sent" and report.dry_run else name.replace("_", " ")
        table.add_row(said, f"{getattr(report, name):,}")
    table.add_row("first reading", iso_utc(report.first_instant) if report.first_instant else "none")
    table.add_row("last reading", iso_utc(report.last_instant) if report.last_instant else "none")
    table.add_row("rows a second", f"{report.rows_per_second:,.0f}")
    out.print(table)
