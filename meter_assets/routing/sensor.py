"""The sensor that keeps exactly one router alive. What it decides is in decision.py; here it looks and acts."""

from datetime import UTC, datetime

import dagster as dg

from meter_assets.routing.decision import ACTIVE, Decision, RouterHeartbeat, decide
from meter_assets.routing.job import fault_routing_job
from meter_assets.routing.observed import read_heartbeat, read_runs
from meter_assets.routing.process import find_router, kill_router
from metering.errors import MetersError
from metering.settings import load_settings

INTERVAL_SECONDS = 4
"""Dagster looks every 5 s whether the interval is over; at 5 it is so only every other time."""

STATUS = dg.DefaultSensorStatus.RUNNING if load_settings().router_sensor else dg.DefaultSensorStatus.STOPPED
"""Stopped where something else keeps a router alive: two on one checkpoint would only refuse each other."""

WHY_TAG = "meters/why"
AWAY = "MongoDB is away"


@dg.sensor(
    job=fault_routing_job,
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=STATUS,
    description=(
        "Keeps exactly one router of faulty readings alive: starts one when there is none, and replaces one that was "
        "killed or gives no sign of life. To pause routing, turn this sensor off and terminate the run of "
        "`fault_routing_job`; turn it on again to go on where routing stopped."
    ),
)
def fault_routing_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One look and what follows from it; every tick says what it found."""
    now = datetime.now(UTC)
    # The cursor is since when MongoDB answers: a router that could not write is not stuck.
    known = context.cursor and context.cursor != AWAY
    since = datetime.fromisoformat(context.cursor) if known and context.cursor else now
    try:
        heartbeat = read_heartbeat(since)
    except MetersError as error:
        return dg.SensorResult(skip_reason=str(error), cursor=AWAY)
    decision = decide(read_runs(context.instance), heartbeat, now)
    if decision.give_up or decision.cancel or decision.start:
        context.log.info(decision.say)
    carry_out(context.instance, decision, heartbeat)
    if decision.start:
        # A tick shows either a reason or its run: the run carries the reason.
        request = dg.RunRequest(tags={WHY_TAG: decision.say[:250]})
        return dg.SensorResult(run_requests=[request], cursor=since.isoformat())
    return dg.SensorResult(skip_reason=decision.say, cursor=since.isoformat())


def carry_out(instance: dg.DagsterInstance, decision: Decision, heartbeat: RouterHeartbeat | None) -> None:
    """Do to runs and processes what was decided; starting is the caller's."""
    for run_id, reason in decision.give_up:
        _ask_to_stop(instance, run_id)  # its process may be there still, although its router is not
        run = instance.get_run_by_id(run_id)
        if run and run.status.name in ACTIVE:
            instance.report_run_failed(run, f"{reason[:1].upper()}{reason[1:]}")
    for run_id in decision.cancel:
        _ask_to_stop(instance, run_id)
    if decision.end_router and heartbeat:
        if process := find_router(heartbeat.host, heartbeat.pid, heartbeat.started_at):
            kill_router(process)


def _ask_to_stop(instance: dg.DagsterInstance, run_id: str) -> None:
    """Have Dagster terminate a run; what has nobody to terminate it any more is noted in its log."""
    run = instance.get_run_by_id(run_id)
    if run is None or run.status.name not in ACTIVE:
        return
    try:
        instance.run_coordinator.cancel_run(run_id)
    except Exception as error:  # the launcher's client raises what it likes when the server of the run is gone
        reason = str(error).strip().splitlines()[:1]
        instance.report_engine_event(f"Could not ask the run to stop: {''.join(reason)}", run)
