"""Disks that fill up: a small file system for each store, for the lake and for what Spark, router and Dagster keep."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fault_injection.case import Case
from fault_injection.ending import finish_days, recover, recover_routing, stop_processes
from fault_injection.inject import fill, make_room, small_disk
from fault_injection.processes import Process
from fault_injection.row import Group, Row, row
from fault_injection.rows.days import DAYS, HOUSEHOLDS

START_SECONDS = 180
NOTICE_SECONDS = 60
NAMED_SECONDS = {"mongo": 150, "kafka": 60}
SHARE = {"mongo": 450, "kafka": 120}
"""Megabytes: what the store needs to start, and some more."""

NAMED = "(?i)no space|disk|full|space left"
NOWHERE = "sc://127.0.0.1:9"
"""Nobody listens there: the row's stack does without Spark."""


@contextmanager
def _own_stack(case: Case) -> Iterator[Process]:
    """`meters up --foreground`: the services with their supervisor, ended with the block."""
    stack = case.meters("up", "--foreground")
    try:
        case.wait(
            lambda: not stack.is_alive or any("The local stack is up" in line for line in stack.lines),
            START_SECONDS,
            "the local stack is up",
        )
        case.promise(stack.is_alive, f"`meters up` ended: {stack.last_line}")
        yield stack
    finally:
        stack.may_fail = True
        stack.stop()


def store_full(case: Case, *, service: str) -> None:
    """The disk of MongoDB or Kafka is full under load, and has room again."""
    case.settings = case.settings.model_copy(update={"spark_remote": NOWHERE})
    folder = case.settings.home / service / "data"
    with small_disk(folder, SHARE[service]), _own_stack(case) as stack:
        case.load(rate=500)
        case.ingest()
        case.wait_at_work(500)
        fill(folder)
        # MongoDB writes into files that it has already, until its next checkpoint.
        running = tuple(case.processes)
        what = "a line of ingest or the supervisor names the disk"
        case.wait(lambda: any(map(_says_disk, running)), NAMED_SECONDS[service], what)
        said = case.run("status")
        case.promise(_says_disk(said), f"`meters status` does not name the disk: {said.last_line}")
        make_room(folder)
        case.tolerate_end(NAMED)
        stack.may_end_with = ""
        recover(case, but=stack)
        case.close_clients()


def _names_disk(line: str) -> bool:
    return bool(re.search(NAMED, line))


def day_meets_full_disk(case: Case, *, where: str) -> None:
    """The lake's or the Dagster instance's disk is full while days are computed, and has room again."""
    folder = Path(case.settings.lake_path) if where == "lake" else case.settings.dagster_home
    with small_disk(folder, 3):
        case.load(days=len(DAYS), rate=None, households=HOUSEHOLDS).finish()
        case.run("ingest", "--until-caught-up")
        fill(folder)
        failed = case.run("backfill", str(DAYS[0]), str(DAYS[-1]), "--json")
        case.promise(failed.exit_code, "the backfill succeeds with no room for its work")
        case.promise(_names_disk(failed.last_line), f"its line does not name the disk: {failed.last_line}")
        make_room(folder)
        began = time.monotonic()
        done = case.run("backfill", str(DAYS[0]), str(DAYS[-1]), "--json")
        case.promise(done.exit_code == 0, f"the backfill still fails with room again: {done.last_line}")
        case.recovered(time.monotonic() - began)
        finish_days(case, *DAYS)


def checkpoint_full(case: Case) -> None:
    """The router's checkpoint cannot grow for a while."""
    folder = Path(case.settings.router_place)
    with small_disk(folder, 4):
        case.load(days=1, rate=None, fault_rate=0.05).finish()
        router = case.router()
        case.wait_routing(router)
        case.load(first_day=case.next_day(), rate=300, fault_rate=0.05)
        case.wait_routed()
        fill(folder)
        case.wait(lambda: not router.is_alive or _says_disk(router), NOTICE_SECONDS, "the router names the disk")
        case.promise(_says_disk(router), f"its line does not name the disk: {router.last_line}")
        make_room(folder)
        recover_routing(case, restart=NAMED)
        stop_processes(case)


def _says_disk(process: Process) -> bool:
    return any(_names_disk(line) for line in process.lines)


ITSELF = "The disk is named; with room again all goes on by itself: nothing lost, nothing twice."
NEXT = "A line names the disk; with room again the next run succeeds, and all figures are right."


def _row(process: str, name: str, fault: str, promise: str, run: Callable[[Case], None], group: Group) -> Row:
    return row(process, name, fault, promise, run, group=group, needs=("root",))


ROUTER_ROWS = (
    _row(
        *("router", "checkpoint-full", "its checkpoint's disk is full", "A line names the disk; the next one goes on."),
        checkpoint_full,
        Group.ROUTER,
    ),
)
DAYS_ROWS = (
    _row("lake", "full", "its disk is full", NEXT, partial(day_meets_full_disk, where="lake"), Group.DAYS),
    _row("Dagster", "full", "its disk is full", NEXT, partial(day_meets_full_disk, where="dagster"), Group.DAYS),
)
OWN_ROWS = (
    _row("mongod", "full", "its disk is full under load", ITSELF, partial(store_full, service="mongo"), Group.OWN),
    _row("broker", "full", "its disk is full under load", ITSELF, partial(store_full, service="kafka"), Group.OWN),
)
