"""What the sensor sees: the job's runs in Dagster, and the router's heartbeat in MongoDB."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

import dagster as dg
from dagster import DagsterEventType
from pymongo.database import Database
from pymongo.errors import PyMongoError

from meter_assets.routing.decision import ACTIVE, RouterHeartbeat, Run
from meter_assets.routing.job import fault_routing_job
from meter_assets.routing.process import find_router, is_here
from metering.settings import load_settings
from metering.store import HEARTBEATS
from runtime.database import connect
from runtime.mongo_errors import mongo_unavailable

ROUTER = "router"
ENDED_RUNS = 10
"""Ended runs that are looked at; the pause between starts has reached its longest by then."""

_FAILED_FROM_OUTSIDE = "This run has been marked as failed from outside the execution context."


def read_runs(instance: dg.DagsterInstance) -> list[Run]:
    """All active runs of the job; when there is none, the last ended ones with their reasons."""
    name = fault_routing_job.name
    statuses = [dg.DagsterRunStatus[status] for status in ACTIVE]
    records = instance.get_run_records(dg.RunsFilter(job_name=name, statuses=statuses))
    if records:
        return [_run(record) for record in records]
    records = instance.get_run_records(dg.RunsFilter(job_name=name), limit=ENDED_RUNS)
    return [_run(record, *_why(instance, record)) for record in records]


def _run(record: dg.RunRecord, reason: str = "", exit_code: int | None = None) -> Run:
    return Run(
        run_id=record.dagster_run.run_id,
        status=record.dagster_run.status.name,
        created_at=_utc(record.create_timestamp),
        changed_at=_utc(record.update_timestamp),
        started_at=datetime.fromtimestamp(record.start_time, UTC) if record.start_time else None,
        ended_at=datetime.fromtimestamp(record.end_time, UTC) if record.end_time else None,
        reason=reason,
        exit_code=exit_code,
    )


def _why(instance: dg.DagsterInstance, record: dg.RunRecord) -> tuple[str, int | None]:
    """Why a run ended, in one line without a full stop, and the router's exit code, where it is known."""
    if record.dagster_run.status == dg.DagsterRunStatus.SUCCESS:
        return "the router was asked to end by somebody else than Dagster", 0
    kinds = {DagsterEventType.STEP_FAILURE, DagsterEventType.RUN_FAILURE}
    # The first one counts: a run that the sensor has given up fails once more when its process notices.
    for entry in instance.all_logs(record.dagster_run.run_id, of_type=kinds):
        event = entry.dagster_event
        if event is None:
            continue
        if event.is_step_failure:
            data = event.step_failure_data
            if given := data.user_failure_data:
                code = given.metadata.get("exit_code") if given.metadata else None
                return _line(given.description), code.value if isinstance(code, dg.IntMetadataValue) else None
            error = data.error.cause or data.error if data.error else None
            return _line(error.message if error else event.message), None
        if event.message == _FAILED_FROM_OUTSIDE:
            return "the process of the run was killed", None
        return _line(event.message), None
    return "", None


def _line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[0].rstrip(".") if lines else ""


def read_heartbeat(answering_since: datetime) -> RouterHeartbeat | None:
    """The router's last heartbeat; None: there never was one.

    Args:
        answering_since: when MongoDB began to answer. A router cannot be blamed for its silence before that.

    Raises:
        MetersError: MongoDB is away.
    """
    settings = load_settings()
    try:
        document: dict[str, Any] | None = _database()[HEARTBEATS].find_one({"_id": ROUTER})
    except PyMongoError as error:
        raise mongo_unavailable(settings, error) from None
    if document is None:
        return None
    at = _utc(document["at"])
    host, pid, started_at = document["host"], document["pid"], _utc(document.get("started_at") or at)
    return RouterHeartbeat(
        at=max(at, answering_since),
        state=document["state"],
        host=host,
        pid=pid,
        run_id=document.get("run_id"),
        alive=find_router(host, pid, started_at) is not None if is_here(host) else None,
        started_at=started_at,
        rows_per_second=document.get("rows_per_second") or 0.0,
        lag=document.get("lag"),
        # A router cannot get on while MongoDB does not answer, either.
        moved_at=max(_utc(document["moved_at"]), answering_since) if document.get("moved_at") else None,
        problem=document.get("problem"),
    )


@cache
def _database() -> Database:
    """One connection for all ticks of this process."""
    return connect(load_settings())


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
