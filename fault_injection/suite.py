"""Running rows: group by group on a shared stack, each row on an installation of its own."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fault_injection.case import Case
from fault_injection.ending import run_row
from fault_injection.row import Group, Outcome, Row, State
from fault_injection.stacks import PORTS_VARIABLE, Report, group_stack, own_settings, temporary_home
from fault_injection.table import ROWS
from local_stack import LocalStack
from metering.errors import MetersError
from metering.settings import Settings

KEEP = "METERS_FAULTS_KEEP"

NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "root": (lambda: os.geteuid() == 0, "it takes root"),
    "cc": (lambda: shutil.which("cc") is not None, "no C compiler is installed (Debian's package gcc)"),
}


def chosen_rows(only: Sequence[str] = (), *, full: bool = False) -> list[Row]:
    """The rows of a run, in the table's order.

    Args:
        only: regular expressions; a row runs when one of them is found in its id.
        full: those that take long as well.
    """
    if only:
        return [row for row in ROWS if any(re.search(pattern, row.id) for pattern in only)]
    return [row for row in ROWS if full or not row.full]


def run_rows(rows: Sequence[Row], *, seed: int, report: Report) -> Iterator[Outcome]:
    """Run rows one after the other; yields each outcome when it is there, skipped rows included.

    Args:
        rows: in the order in which they run; neighbours of the same services share a stack.
        seed: of the loads.
        report: gets lines of progress.
    """
    with own_environment(), ExitStack() as running:
        stack: LocalStack | None = None
        group: Group | None = None
        for row in rows:
            if reason := missing(row):
                yield Outcome(row, State.SKIPPED, reason)
                continue
            if row.group != group:
                running.close()
                group = row.group
                stack = None
                if group != Group.OWN:
                    report(f"services for the rows of group {group}")
                    try:
                        stack = running.enter_context(group_stack(group, report=report))
                    except (MetersError, subprocess.SubprocessError) as error:
                        yield Outcome(row, State.BROKEN, wrong=[f"the services did not start: {error}"])
                        group = None
                        continue
            yield run_alone(row, stack, seed=seed, report=report)


def missing(row: Row) -> str:
    """Why a row cannot run here; empty: it can."""
    reasons = [reason for need in row.needs for possible, reason in [NEEDS[need]] if not possible()]
    return "; ".join(reasons)


def run_alone(row: Row, stack: LocalStack | None, *, seed: int, report: Report) -> Outcome:
    """Run one row, on an installation of its own in a folder that goes afterwards; KEEP leaves that of a broken row."""
    done: list[Outcome] = []
    with temporary_home(keep=lambda: bool(os.environ.get(KEEP)) and any(outcome.wrong for outcome in done)) as home:
        done.append(run_row(_case(row, stack, home, seed=seed, report=report)))
        if done[0].wrong and os.environ.get(KEEP):
            report(f"kept: {home}")
    return done[0]


def _case(row: Row, stack: LocalStack | None, home: Path, *, seed: int, report: Report) -> Case:
    folder = home / row.id
    folder.mkdir()
    if stack is None:
        settings = own_settings(folder)
    else:
        settings = row_settings(stack.settings, folder, row.id)
    return Case(row, stack, settings, seed=seed, report=report)


def row_settings(shared: Settings, folder: Path, name: str) -> Settings:
    """An installation on the shared services, with a database, a lake and a checkpoint of its own."""
    own: dict[str, Any] = {
        "home": folder,
        "mongo_uri": shared.mongo,
        "spark_remote": shared.spark,
        "kafka_bootstrap": shared.kafka,
        "kafka_replication": shared.replication,
        "mongo_database": f"faults_{name.replace('-', '_')}"[:60],
        "lake": str(folder / "lake"),
        "router_checkpoint": str(folder / "router"),
    }
    return shared.model_copy(update=own)


@contextmanager
def own_environment() -> Iterator[None]:
    """Neither settings of this shell reach the children, nor Ctrl-C's brother SIGTERM ends us without a clean-up."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if _is_setting(name)}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        os.environ.update(hidden)


def _is_setting(name: str) -> bool:
    kept = name in ("METERS_CACHE_DIR", "METERS_MONGOD", KEEP, PORTS_VARIABLE)
    return name.startswith(("METERS_", "AWS_")) and not kept


def timed(outcomes: Iterator[Outcome], report: Report) -> tuple[list[Outcome], float]:
    """All outcomes in the table's order, with a line for each as it comes, and the seconds that it took."""
    started = time.monotonic()
    done: list[Outcome] = []
    for outcome in outcomes:
        done.append(outcome)
        report(progress_line(outcome))
        for problem in outcome.wrong:
            report(f"    {problem}")
    place = {row.id: number for number, row in enumerate(ROWS)}
    done.sort(key=lambda outcome: place.get(outcome.row.id, len(ROWS)))
    return done, time.monotonic() - started


def progress_line(outcome: Outcome) -> str:
    """One line about a row that has ended."""
    if outcome.state == State.SKIPPED:
        return f"skipped  {outcome.row.id}: {outcome.reason}"
    recovery = "" if outcome.caught_up_seconds is None else f", caught up after {outcome.caught_up_seconds:.1f} s"
    return f"{outcome.state:8} {outcome.row.id} ({outcome.seconds:.0f} s{recovery})"
