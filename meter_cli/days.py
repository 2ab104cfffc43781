"""`meters backfill` and `meters dev`: the daily assets from the command line, and the UI around them."""

import os
import time
import warnings
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import typer

from meter_cli.console import NOTE, counted, err, out, print_json
from metering.day_ledger import unsettled_days
from metering.errors import MetersError
from metering.process_identity import own_process
from metering.settings import Settings, load_settings
from metering.store import keep_timezone
from runtime.database import open_database
from runtime.local_services import troubles
from runtime.s3 import probe_store

MAX_WARNINGS = 10


def backfill(
    first: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="First local day.")],
    last: Annotated[
        datetime | None,
        typer.Argument(formats=["%Y-%m-%d"], help="Last local day, included; the first alone if left out."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Materialize a range of days in one Dagster run, which the UI shows like any other."""
    first_day, last_day = first.date(), (last or first).date()
    result = run_backfill(load_settings(), first_day, last_day)
    if as_json:
        print_json(result)
        return
    out.print(f"Materialized {counted(result['days'], 'day')} in run {result['run_id']} ({result['seconds']:.1f} s)")
    for warning in result["warnings"][:MAX_WARNINGS]:
        out.print(NOTE, warning, soft_wrap=True)
    if len(result["warnings"]) > MAX_WARNINGS:
        out.print(NOTE, f"{len(result['warnings']) - MAX_WARNINGS:,} more warnings: see the run's checks in the UI")
    out.print("Look at them: meters dev", soft_wrap=True)


def run_backfill(settings: Settings, first: date, last: date) -> dict[str, Any]:
    """Materialize the days [first, last] in one run of `daily_readings_job` in this process.

    Returns:
        run_id, first, last, days, seconds, and `warnings`: what the checks that failed say, and which days an
            interrupted run has left half published.

    Raises:
        MetersError: a day is no partition, a service is away, MongoDB holds days of another time zone, or the run
            failed; days that were finished before are in force.
    """
    from local_stack.dagster import dagster_environment

    os.environ.update(dagster_environment(settings))
    import dagster as dg

    warnings.filterwarnings("ignore", category=UserWarning, module="dagster")
    from meter_assets.days.dead_runs import PROCESS_TAG, end_dead_runs
    from meter_assets.definitions import defs
    from meter_assets.failures import failure_line
    from meter_assets.partitions import LOCAL_DAY_PARTITIONS
    from meter_assets.resources import require_spark

    _require_partitions(first, last, LOCAL_DAY_PARTITIONS)
    with open_database(settings) as database:
        keep_timezone(database, settings.timezone)
    require_spark(settings)
    if settings.is_lake_in_s3:
        probe_store(settings)
    tags = {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
        PROCESS_TAG: own_process(),
    }
    started = time.monotonic()
    with dg.DagsterInstance.get() as instance, err.status("Materializing…"):
        end_dead_runs(instance)
        result = defs.resolve_job_def("daily_readings_job").execute_in_process(
            instance=instance,
            tags=tags,
            raise_on_error=False,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    failures = [event for event in result.all_events if event.is_step_failure]
    if not result.success:
        reason = failure_line(failures[0].step_failure_data) if failures else "see the run in the UI"
        where = failures[0].step_key if failures else "the run"
        raise MetersError(
            f"{where} failed in run {result.run_id}: {reason}", fix="Run the same command again to resume"
        )
    evaluations = result.get_asset_check_evaluations()
    return {
        "run_id": result.run_id,
        "first": first.isoformat(),
        "last": last.isoformat(),
        "days": (last - first).days + 1,
        "seconds": round(time.monotonic() - started, 3),
        "warnings": [
            f"{each.check_name}, {each.description}" for each in evaluations if not each.passed and each.description
        ]
        + _half_published(settings),
    }


def _half_published(settings: Settings) -> list[str]:
    now = datetime.now(UTC)
    with open_database(settings) as database:
        days = unsettled_days(database, before=now.astimezone(settings.zone).date())
    return [
        f"{day.day} is half published, because a run was interrupted; to finish it: meters backfill {day.day}"
        for day in days
        if day.is_interrupted(now)
    ]


def _require_partitions(first: date, last: date, partitions: Any) -> None:
    if last < first:
        raise MetersError(f"The last day {last} is before the first day {first}", fix="Give the earlier day first")
    oldest = partitions.get_first_partition_key()
    newest = partitions.get_last_partition_key()
    if first.isoformat() < oldest:
        raise MetersError(
            f"{first} is before the first partition {oldest}", fix="Set METERS_FIRST_DAY to an earlier day"
        )
    if last.isoformat() > newest:
        tomorrow = date.fromisoformat(newest) + timedelta(days=1)
        raise MetersError(
            f"{last} is not over yet in {partitions.timezone}; the newest partition is {newest}",
            fix=f"Give a day before {tomorrow}",
        )


def dev() -> None:
    """Serve the Dagster UI with hot reload on this installation's instance; Ctrl-C ends it."""
    from local_stack.dagster import dagster_dev_command, dagster_environment
    from local_stack.dev_servers import DevServers
    from local_stack.doctor import preflight
    from local_stack.status import status as read_status

    settings = load_settings()
    if not read_status(settings)["running"]:
        failed = "; ".join(f"{each.sentence}. Read {each.log}" for each in troubles(settings))
        raise MetersError("The services that the assets need are not up", fix=failed or "Start them: meters up")
    preflight(settings, ["webserver"])
    DevServers(dagster_dev_command(settings), {**os.environ, **dagster_environment(settings)}).run()
