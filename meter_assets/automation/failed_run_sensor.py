"""failed_run_sensor: a run of the daily assets that fails becomes an alert, with a link to the run."""

from datetime import UTC, datetime

import dagster as dg

from alerting.alerts import Alert, Kind, raise_alerts
from meter_assets.failures import failure_line
from meter_assets.routing.job import fault_routing_job
from metering.settings import Settings, load_settings
from runtime.database import open_database


@dg.run_failure_sensor(
    name="failed_run_sensor",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Raises an alert with a link for each failed run, on the channels of METERS_ALERT_CHANNELS. Runs of "
    "fault_routing_job are left to fault_routing_sensor, which replaces them.",
)
def failed_run_sensor(context: dg.RunFailureSensorContext) -> None:
    """Keep one alert; alert_sensor sends it."""
    run = context.dagster_run
    if run.job_name == fault_routing_job.name:
        return
    settings = load_settings()
    with open_database(settings) as database:
        raise_alerts(database, settings, [failed_run_alert(run, _reason(context), settings)], datetime.now(UTC))


def failed_run_alert(run: dg.DagsterRun, reason: str, settings: Settings) -> Alert:
    """The alert of that run; a run fails once, so it is told once."""
    first, last = (run.tags.get(f"dagster/asset_partition_range_{end}") for end in ("start", "end"))
    days = run.tags.get("dagster/partition") or (f"{first} to {last}" if first else None)
    what = f"{run.job_name} of {days}" if days else run.job_name
    link = f"{settings.ui}/runs/{run.run_id}"
    return Alert(
        kind=Kind.RUN_FAILED,
        about=run.run_id,
        subject=run.job_name,
        severity="critical",
        text=f"{what} failed: {reason} {link}",
        details={"run_id": run.run_id, "days": days, "reason": reason, "link": link},
    )


def _reason(context: dg.RunFailureSensorContext) -> str:
    """The line of the first step that failed, or of the run."""
    for event in context.get_step_failure_events():
        return failure_line(event.step_failure_data)
    return (context.failure_event.message or "").strip().split("\n", 1)[0]
