"""`meters alerts`: what the platform has told, to whom, and who has taken notice."""

import getpass
from typing import Annotated

import typer
from rich.table import Table

from meter_cli.console import err, out, print_json
from metering.settings import load_settings
from runtime.database import open_database

app = typer.Typer(help="Look at alerts, and take notice of them.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("list")
def list_(
    everything: Annotated[bool, typer.Option("--all", help="Those that are acknowledged, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")] = False,
) -> None:
    """List alerts, the newest first."""
    from alerting.alerts import list_alerts
    from alerting.channels import public_form

    settings = load_settings()
    with open_database(settings) as database:
        alerts = list_alerts(database, acknowledged=everything)
    if as_json:
        extra = ("channels", "acknowledged_at", "acknowledged_by")
        print_json([{**public_form(alert), **{name: alert[name] for name in extra}} for alert in alerts])
        return
    if not alerts:
        out.print("No alerts." if everything else "No alerts that nobody has taken notice of. All: --all")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("id", "since", "severity", "alert", "delivery"):
        table.add_column(name, no_wrap=name == "id")  # ids are there to be copied
    for alert in alerts:
        delivery = ", ".join(f"{channel} {state['state']}" for channel, state in alert["channels"].items())
        by = f" (acknowledged by {alert['acknowledged_by']})" if alert["acknowledged_at"] else ""
        since = alert["created_at"].strftime("%Y-%m-%d %H:%M:%SZ")
        table.add_row(alert["short_id"], since, alert["severity"], alert["text"] + by, delivery)
    out.print(table)


@app.command()
def ack(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids as `meters alerts list` shows them.")],
    by: Annotated[str | None, typer.Option(help="Who takes notice; default: the user name.")] = None,
) -> None:
    """Take notice of alerts; they leave the list, and stay in --all."""
    from alerting.alerts import acknowledge

    with open_database(load_settings()) as database:
        changed = acknowledge(database, ids, by=by or getpass.getuser())
    err.print(f"{changed:,} newly acknowledged")
