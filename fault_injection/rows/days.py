"""Days computed and published while the run, Spark or MongoDB is killed, stopped or failing."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psutil

from fault_injection.case import Case
from fault_injection.ending import finish_days
from fault_injection.inject import failpoint, hold, pause_service
from fault_injection.load import FIRST_DAY
from fault_injection.processes import Process
from fault_injection.row import Group, Row, row
from fault_injection.rows.ingest import LONGER_THAN_SESSION, LONGER_THAN_TRANSACTION

DAYS = (FIRST_DAY, FIRST_DAY + timedelta(days=1))
HOUSEHOLDS = 5
BLOCK_SECONDS = 60
MOMENT_SECONDS = 90
BACKFILL_SECONDS = 240

MOMENTS: dict[str, dict[str, Any]] = {
    "begins": {"failCommands": ["findAndModify"], "collection": "local_days"},
    "reads": {"failCommands": ["aggregate"], "collection": "iot-meter"},
    "averages": {"failCommands": ["insert", "update"], "collection": "daily_averages"},
    "abnormal": {"failCommands": ["insert", "update"], "collection": "abnormal_device_summary"},
    "consumption": {"failCommands": ["insert", "update"], "collection": "daily_consumption"},
}
"""Moments of a run, by MongoDB's command that it sends then."""


def _prepare(case: Case, *, publish: bool = False) -> None:
    """Two days stored; with `publish` also published, and then changed by late readings."""
    case.load(days=len(DAYS), rate=None, households=HOUSEHOLDS).finish()
    _ingest(case)
    if publish:
        done = _backfill(case)
        case.promise(done.wait(BACKFILL_SECONDS) == 0, f"the first backfill failed: {done.last_line}")
        # The larger city has the smaller one's readings, which are duplicates now, and those of further meters.
        case.load(days=len(DAYS), rate=None, households=2 * HOUSEHOLDS).finish()
        _ingest(case)


def _ingest(case: Case) -> None:
    done = case.run("ingest", "--until-caught-up")
    case.promise(done.exit_code == 0, f"ingest failed: {done.last_line}")


def _backfill(case: Case) -> Process:
    return case.meters("backfill", str(DAYS[0]), str(DAYS[-1]), "--json")


def _finish(case: Case, run: Process) -> None:
    """Wait for the run's end, and compare the days."""
    code = run.wait(BACKFILL_SECONDS)
    run.may_fail = True
    case.promise(code == 0, f"the backfill ended with exit code {code}: {run.last_line}")
    finish_days(case, *DAYS)


@contextmanager
def _standing_at(case: Case, moment: str, *, block_seconds: float = BLOCK_SECONDS) -> Iterator[Process]:
    """A backfill that stands at the moment, until the block ends or so long."""
    where = dict(MOMENTS[moment])
    namespace = f"{case.database.name}.{where.pop('collection')}"
    how = {"blockConnection": True, "blockTimeMS": round(block_seconds * 1000), "namespace": namespace}
    with failpoint(case.settings, {"times": 1}, **where, **how) as entered:
        run = _backfill(case)
        entered(1, MOMENT_SECONDS)
        yield run


def run_killed(case: Case, *, moment: str, published: bool) -> None:
    """The run killed there; another one follows."""
    _prepare(case, publish=published)
    with _standing_at(case, moment) as killed:
        killed.kill()
    if moment in ("abnormal", "consumption"):
        day = case.database["local_days"].find_one({"_id": str(DAYS[0])}) or {}
        case.promise(day.get("publishing"), "nothing says that the day is half published")
    began = time.monotonic()
    _finish(case, _backfill(case))
    case.recovered(time.monotonic() - began)


def service_killed(case: Case, *, service: str, moment: str) -> None:
    """A service killed while the run stands there, and started again; the run itself must come to its end."""
    _prepare(case)
    with _standing_at(case, moment) as run:
        case.stack.kill(service)
    case.stack.start_service(service)
    began = time.monotonic()
    _finish(case, run)
    case.recovered(time.monotonic() - began)


def service_restarted(case: Case, *, service: str, moment: str) -> None:
    """A service stopped in order while the run stands there, and started again."""
    _prepare(case)
    with _standing_at(case, moment) as run:
        case.stack.restart(service)
    began = time.monotonic()
    _finish(case, run)
    case.recovered(time.monotonic() - began)


def service_paused(case: Case, *, service: str, moment: str, seconds: float) -> None:
    """A service stopped with SIGSTOP while the run stands there."""
    _prepare(case)
    with _standing_at(case, moment) as run:
        pause_service(case.stack, service, seconds)
    began = time.monotonic()
    _finish(case, run)
    case.recovered(time.monotonic() - began)


def run_paused(case: Case, *, moment: str, seconds: float) -> None:
    """The run itself stopped, for longer than MongoDB keeps its transaction, and continued."""
    _prepare(case, publish=True)
    with _standing_at(case, moment, block_seconds=2) as run:
        psutil.Process(run.pid).suspend()
        hold(seconds)
        run.send(signal.SIGCONT)
    began = time.monotonic()
    _finish(case, run)
    case.recovered(time.monotonic() - began)


def publishing_fails(case: Case, **how: Any) -> None:
    """MongoDB fails commands while days are published."""
    _prepare(case)
    collection = how.pop("collection", "")
    if collection:
        how["namespace"] = f"{case.database.name}.{collection}"
    with failpoint(case.settings, **how) as entered:
        run = _backfill(case)
        entered(1, MOMENT_SECONDS)
        began = time.monotonic()
        run.wait(BACKFILL_SECONDS)
    _finish(case, run)
    case.recovered(time.monotonic() - began)


def two_runs(case: Case, *, kill_one: bool) -> None:
    """Two runs of the same days at once; one of them may be killed."""
    _prepare(case, publish=True)
    one, other = _backfill(case), _backfill(case)
    if kill_one:
        hold(5)
        one.kill()
    began = time.monotonic()
    if not kill_one:
        code = one.wait(BACKFILL_SECONDS)
        case.promise(code == 0, f"the first backfill ended with exit code {code}: {one.last_line}")
    _finish(case, other)
    case.recovered(time.monotonic() - began)


def late_readings(case: Case) -> None:
    """Readings come while the day is computed; the day counts as late, and the next run has them."""
    _prepare(case)
    with _standing_at(case, "averages") as run:
        case.load(days=len(DAYS), rate=None, households=2 * HOUSEHOLDS).finish()
        _ingest(case)
    code = run.wait(BACKFILL_SECONDS)
    case.promise(code == 0, f"the backfill ended with exit code {code}: {run.last_line}")
    late = case.run("late", "--json")
    case.promise(str(DAYS[0]) in str(late.answer()), "`meters late` does not name the day")
    began = time.monotonic()
    _finish(case, _backfill(case))
    case.recovered(time.monotonic() - began)


AGAIN = "The day says `publishing` until the next run has finished it; then all figures are right."
RETRIED = "The run tries again by itself, and all figures are right."


def _row(process: str, name: str, fault: str, promise: str, run: Callable[[Case], None], *, full: bool = False) -> Row:
    return row(process, f"days-{name}", fault, promise, run, group=Group.DAYS, full=full)


ROWS: tuple[Row, ...] = (
    *(
        _row(
            "run",
            f"kill-{moment}",
            f"SIGKILL while it {words}",
            AGAIN,
            partial(run_killed, moment=moment, published=first),
        )
        for moment, words, first in (
            ("reads", "reads a day", False),
            ("averages", "publishes daily_averages", True),
            ("abnormal", "publishes abnormal_device_summary", True),
            ("consumption", "publishes daily_consumption", False),
        )
    ),
    _row(
        *("run", "pause", f"SIGSTOP for {LONGER_THAN_TRANSACTION} s while it publishes", RETRIED),
        partial(run_paused, moment="averages", seconds=LONGER_THAN_TRANSACTION),
    ),
    _row(
        "run",
        "two",
        "two runs of the same days at once",
        "One whole day is published.",
        partial(two_runs, kill_one=False),
    ),
    _row("run", "two-one-killed", "two runs at once, one killed", RETRIED, partial(two_runs, kill_one=True)),
    _row(
        "run",
        "late",
        "readings come while the day is computed",
        "The day is late until the next run has them.",
        late_readings,
    ),
    *(
        _row(
            *("Spark server", f"kill-{moment}", f"SIGKILL while the run {words}", RETRIED),
            partial(service_killed, service="spark", moment=moment),
        )
        for moment, words in (("begins", "begins"), ("reads", "reads"), ("averages", "publishes"))
    ),
    _row(
        *("Spark server", "restart", "restart while the run reads", RETRIED),
        partial(service_restarted, service="spark", moment="reads"),
    ),
    *(
        _row(
            *("Spark server", f"pause-{seconds}s", f"SIGSTOP for {seconds} s while the run reads", RETRIED),
            partial(service_paused, service="spark", moment="reads", seconds=seconds),
        )
        for seconds in (LONGER_THAN_SESSION, LONGER_THAN_TRANSACTION)
    ),
    *(
        _row(
            *("mongod", f"kill-{moment}", f"SIGKILL while the run {words}", RETRIED),
            partial(service_killed, service="mongo", moment=moment),
        )
        for moment, words in (("reads", "reads"), ("averages", "publishes"))
    ),
    _row(
        *("mongod", "pause", f"SIGSTOP for {LONGER_THAN_TRANSACTION} s while the run publishes", RETRIED),
        partial(service_paused, service="mongo", moment="averages", seconds=LONGER_THAN_TRANSACTION),
    ),
    _row(
        *("mongod", "fail-commit", "failpoint: connection closed in two commits", RETRIED),
        partial(publishing_fails, mode={"times": 2}, failCommands=["commitTransaction"], closeConnection=True),
    ),
    _row(
        *("mongod", "fail-publish", "failpoint: connection closed in the write of daily_consumption", RETRIED),
        partial(
            publishing_fails,
            **{
                "mode": {"times": 1},
                "failCommands": ["insert"],
                "closeConnection": True,
                "collection": "daily_consumption",
            },
        ),
    ),
)
