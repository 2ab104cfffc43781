"""`meters dashboards`: bring a Metabase up to date with the questions and the dashboard that are defined in code."""

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from meter_cli.console import err, out, print_json
from metering.settings import load_settings


def dashboards(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would change.")] = False,
    wait: Annotated[int, typer.Option(min=0, help="Seconds to wait for Metabase to be up.")] = 180,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """Set Metabase up: administrator, connection, questions, dashboard. Run again, it changes only what differs."""
    from dashboards.client import NEWEST_VERSION
    from dashboards.provision import provision, target_of

    target = target_of(load_settings())
    with err.status(f"Metabase at {target.url}"):
        report = provision(target, wait_seconds=wait, dry_run=dry_run)
    if report.is_newer:
        err.print(
            f"Metabase {report.version} is newer than 0.{NEWEST_VERSION}, which this was made for", soft_wrap=True
        )
    if as_json:
        print_json({**dataclasses.asdict(report), "dry_run": dry_run, "changes": report.changes})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for step in report.steps:
        action = f"would be {step.action}" if dry_run and step.action in ("created", "updated") else step.action
        table.add_row(action, step.kind, step.name, f"#{step.id}" if step.id else "")
    out.print(table)
    if any(step.action == "abandoned" for step in report.steps):
        err.print("Abandoned ones are no longer defined; archive them in Metabase if nobody needs them", soft_wrap=True)
    verb = "would change" if dry_run else "changed"
    err.print(f"{report.changes} {verb}" if report.changes else "Nothing to change: Metabase is as defined")
