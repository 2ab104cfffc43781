"""late_readings_sensor: computes exactly the days again that readings have reached after they were computed.

It finishes as well what an interrupted run has left half published: such a day is computed at once.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import dagster as dg

from meter_assets.automation.jobs import late_readings_job, recompute_days
from meter_assets.days.dead_runs import end_dead_runs
from metering.day_ledger import LocalDay, unsettled_days
from metering.settings import Settings, load_settings
from runtime.database import open_database

SECONDS_BETWEEN_TICKS = 10

LONGEST_WAIT_SECONDS = 600
"""Readings that never cease to arrive late do not keep their days waiting for ever."""

DAYS_PER_RUN = 366

TOLD_AT_ONCE = 366

RUNS_LOOKED_AT = 50
FIRST_PAUSE_SECONDS = 30
LONGEST_PAUSE_SECONDS = 3600


@dataclass(frozen=True)
class PastRun:
    """A run of late_readings_job. `ended_at` is None while it is queued or at work."""

    days: frozenset[date]
    succeeded: bool
    ended_at: datetime | None


@dataclass(frozen=True)
class Plan:
    """What a tick does: the days to compute now, and a sentence for the UI."""

    days: list[date]
    says: str


@dataclass(frozen=True)
class Memory:
    """What the sensor remembers from tick to tick, as its cursor.

    Args:
        since: since when there have been days to compute.
        waiting: days of which the check up_to_date has said that they wait: for a decision, or, half published, for
            another try.
    """

    since: datetime
    waiting: frozenset[date]

    @classmethod
    def of(cls, cursor: str | None, now: datetime) -> Self:
        """What a cursor says; nothing yet, when there is none, or one of an earlier version."""
        if not cursor or not cursor.startswith("{"):
            return cls(now, frozenset())
        remembered = json.loads(cursor)
        waiting = map(date.fromisoformat, remembered["waiting"])
        return cls(datetime.fromisoformat(remembered["since"]), frozenset(waiting))

    @property
    def cursor(self) -> str:
        """As the cursor that `of` reads."""
        return json.dumps({"since": self.since.isoformat(), "waiting": sorted(map(str, self.waiting))})


@dg.sensor(
    job=late_readings_job,
    minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Computes days again that readings have reached after they were computed: exactly those, in one run, "
    "once no more arrive for METERS_LATE_QUIET_SECONDS; and, at once, days that an interrupted run has left half "
    "published. Days whose figures have stood for longer than "
    "METERS_LATE_HORIZON_DAYS wait for a decision: `meters late`. The check up_to_date warns of those.",
)
def late_readings_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """One look."""
    end_dead_runs(context.instance)  # they would keep the late days' run, and any other, from being started
    settings = load_settings()
    with open_database(settings) as database:
        days = unsettled_days(database, before=datetime.now(settings.zone).date())
    now = datetime.now(UTC)
    memory = Memory.of(context.cursor, now)
    interrupted = {day.day for day in days if day.is_interrupted(now)}
    late = [day for day in days if day.is_late and day.day not in interrupted]
    waiting = [day.day for day in late if day.awaits_decision(settings.late_horizon_days, now)]
    due = [day for day in days if day.day in interrupted or (day.is_late and day.day not in waiting)]
    past = _past_runs(context.instance)
    plan = plan_run(due, past, since=memory.since, now=now, settings=settings, interrupted=interrupted)
    says = plan.says
    if waiting:
        says += f"; {_named(waiting)} wait for a decision: meters late"
    # What could not be computed yet has been waiting since it was first seen.
    since = memory.since if due and not plan.days else now
    # Told by a run: of what a sensor itself says to a check, Dagster keeps one evaluation a partition, ever.
    unwell = {*waiting, *interrupted.difference(plan.days)}
    news = sorted(memory.waiting.symmetric_difference(unwell))[:TOLD_AT_ONCE]
    if not plan.days and (not news or any(run.ended_at is None for run in past)):
        return dg.SensorResult(skip_reason=says, cursor=Memory(since, memory.waiting).cursor)
    context.log.info(says)
    cursor = Memory(since, memory.waiting.symmetric_difference(news)).cursor
    # The check says `publishing` of a day that this run finishes, too, until it is finished.
    told = sorted({*news, *interrupted.intersection(plan.days)})
    return dg.SensorResult(run_requests=[request_run(plan.days, told)], cursor=cursor)


def request_run(days: Sequence[date], told: Sequence[date] = ()) -> dg.RunRequest:
    """A run of late_readings_job that computes exactly those days, and has up_to_date say how others stand."""
    config = {"days": [str(day) for day in days], "told": [str(day) for day in told]}
    tags = {"meters/days": str(len(days)), "meters/days_told": str(len(told))}
    return dg.RunRequest(run_config={"ops": {recompute_days.name: {"config": config}}}, tags=tags)


def plan_run(
    due: Sequence[LocalDay],
    past: Sequence[PastRun],
    *,
    since: datetime,
    now: datetime,
    settings: Settings,
    interrupted: Collection[date] = (),
) -> Plan:
    """Which days to compute now.

    Args:
        due: late days, and days that were left half published, in their order.
        past: runs of the job, the newest first.
        since: since when there have been such days.
        now: this moment.
        settings: how long to wait for quiet.
        interrupted: those of the days that were left half published; they do not wait for quiet.
    """
    if any(run.ended_at is None for run in past):
        return Plan([], "a run computes late days")
    paused = _paused(past, now)
    days = [day for day in due if day.day not in paused]
    if not days:
        return Plan([], f"{_named(sorted(paused))} failed and wait for another try" if due else "no day is late")
    newest = max((day.changed_at for day in days if day.changed_at and day.day not in interrupted), default=None)
    quiet, patience = timedelta(seconds=settings.late_quiet_seconds), timedelta(seconds=LONGEST_WAIT_SECONDS)
    if newest and now - newest < quiet and now - since < patience:
        if not any(day.day in interrupted for day in days):
            return Plan([], f"{_named([day.day for day in days])} are late, and readings still arrive")
        days = [day for day in days if day.day in interrupted]
    chosen = [day.day for day in days[:DAYS_PER_RUN]]
    half = [day for day in chosen if day in interrupted]
    return Plan(chosen, f"computing {_named(chosen)} again" + (f"; {_named(half)} were half published" if half else ""))


def _paused(past: Sequence[PastRun], now: datetime) -> set[date]:
    """Days whose last run failed not long ago; each failure in a row doubles the pause."""
    failures: dict[date, int] = {}
    last_end: dict[date, datetime] = {}
    settled: set[date] = set()
    for run in past:
        for day in run.days - settled:
            if run.succeeded or run.ended_at is None:
                settled.add(day)
            else:
                failures[day] = failures.get(day, 0) + 1
                last_end.setdefault(day, run.ended_at)

    def pause(day: date) -> timedelta:
        return timedelta(seconds=min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (failures[day] - 1)))

    return {day for day, end in last_end.items() if now - end < pause(day)}


def _past_runs(instance: dg.DagsterInstance) -> list[PastRun]:
    records = instance.get_run_records(dg.RunsFilter(job_name=late_readings_job.name), limit=RUNS_LOOKED_AT)
    return [
        PastRun(
            days=frozenset(_days_of(record.dagster_run.run_config)),
            succeeded=record.dagster_run.is_success,
            ended_at=_ended_at(record),
        )
        for record in records
    ]


def _days_of(run_config: Any) -> Iterator[date]:
    """The days of a run; what is no day was started by hand, and its run has failed."""
    for day in run_config.get("ops", {}).get(recompute_days.name, {}).get("config", {}).get("days", []):
        with suppress(ValueError):
            yield date.fromisoformat(day)


def _ended_at(record: Any) -> datetime | None:
    if not record.dagster_run.is_finished:
        return None
    # A run that was reported dead by hand may have no end.
    return datetime.fromtimestamp(record.end_time, UTC) if record.end_time else record.update_timestamp


def _named(days: Sequence[date]) -> str:
    shown = ", ".join(str(day) for day in days[:3])
    return f"{len(days):,} days ({shown}{', …' if len(days) > 3 else ''})"
