"""Faults drawn from a seed: random ones on random processes at random moments under load; then all is healed, checked.

In the manner of FoundationDB's and Jepsen's tests. The seed decides which faults come, in which order and how long
each lasts; what the processes do in between is theirs. Faults overlap: one may begin while others last.
"""

import heapq
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from fault_injection.case import Case
from fault_injection.ending import check_days, recover_everything
from fault_injection.inject import failpoint, hold, revive, signal_service
from fault_injection.load import FIRST_DAY
from fault_injection.processes import Process
from fault_injection.row import Group, Outcome, Row
from fault_injection.stacks import Report, group_stack
from fault_injection.suite import own_environment, run_alone

ROUND_SECONDS = 100.0
"""How long a round draws faults before it heals and checks: several rounds find more than one long one."""

LONGEST_SECONDS, LONGEST_GAP_SECONDS = 28.0, 9.0
QUIET_SECONDS = 8.0
"""Between a process's death and the next fault on it: one that never gets up shows nothing."""

RATE = 300
MEMBERS = ("ingest-1", "ingest-2")
PROCESSES = (*MEMBERS, "router")
SERVICES = ("kafka", "mongo")
BACKFILL_SECONDS = 240
YOUNG_SECONDS = 60
TRIES = 3

DEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(MEMBERS, ("kill", "kill", "pause", "pause", "term")),
    "router": ("kill", "kill-jvm", "kill-python", "pause", "term"),
    "kafka": ("kill", "pause", "restart"),
    "mongo": ("kill", "pause", "restart", "fail-closed", "fail-unacknowledged", "fail-slow"),
}
TARGETS = ("ingest-1", "ingest-2", "ingest-1", "ingest-2", "router", "kafka", "mongo")
"""A target is as likely as it is often here."""

FAILURES = {
    "fail-closed": {"closeConnection": True},
    "fail-unacknowledged": {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    "fail-slow": {"blockConnection": True, "blockTimeMS": 3_000},
}
AFTERWARDS = ("nothing", "kill-run", "kill-spark", "kill-mongo")


@dataclass(frozen=True, order=True)
class Fault:
    """One drawn fault.

    Args:
        at: seconds after the round's beginning.
        target: of TARGETS.
        deed: of DEEDS.
        seconds: how long it lasts: until it is continued, or started again.
    """

    at: float
    target: str
    deed: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.at:5.1f} s: {self.target} {self.deed}, {self.seconds:.1f} s"


def draw(chance: random.Random) -> list[Fault]:
    """The faults of one round, in the order of time."""
    free_at = dict.fromkeys(DEEDS, 0.0)
    faults: list[Fault] = []
    at = 0.0
    while (at := at + chance.random() * LONGEST_GAP_SECONDS) < ROUND_SECONDS:
        target = chance.choice(TARGETS)
        deed = chance.choice(DEEDS[target])
        seconds = round(chance.random() ** 2 * LONGEST_SECONDS, 1)  # short ones are more frequent than long ones
        if at >= free_at[target]:
            faults.append(Fault(round(at, 1), target, deed, seconds))
            free_at[target] = at + seconds + QUIET_SECONDS
    return faults


def run_schedule(seed: int, minutes: float, *, report: Report) -> Iterator[Outcome]:
    """Rounds of drawn faults, for about so long; yields the outcome of each.

    Args:
        seed: of the faults and of the loads.
        minutes: no round begins later.
        report: gets a line for each fault.
    """
    until = time.monotonic() + 60 * minutes
    with own_environment(), group_stack(Group.DAYS, report=report) as stack:
        for number in itertools.count(1):
            chance = random.Random(f"{seed}|{number}")  # noqa: S311 - reproducible, no secret
            faults, afterwards = draw(chance), (chance.choice(AFTERWARDS), chance.random() * 10)
            row = Row(
                f"schedule-{seed}-{number}",
                "all",
                f"{len(faults)} faults drawn from seed {seed}, then a day computed ({afterwards[0]})",
                "Once all is healed, everything is accounted for.",
                partial(_round, faults=faults, afterwards=afterwards),
            )
            yield run_alone(row, stack, seed=seed, report=report)
            if time.monotonic() > until:
                return


def _round(case: Case, *, faults: list[Fault], afterwards: tuple[str, float]) -> None:
    case.load(days=1, rate=None, fault_rate=0.05).finish()
    world = _World(case)
    world.keep_running()
    case.wait_at_work()
    case.load(first_day=case.next_day(), rate=RATE, fault_rate=0.05)
    world.play(faults)
    world.heal()
    recover_everything(case)
    _compute_day(case, *afterwards)


def _compute_day(case: Case, deed: str, after_seconds: float) -> None:
    """The first load's day: a fault while it is computed, then again until it succeeds, as an operator would."""
    run = case.meters("backfill", str(FIRST_DAY), "--json")
    run.may_fail = True
    hold(after_seconds)
    if deed == "kill-run":
        run.kill()
    elif deed != "nothing":
        service = deed.removeprefix("kill-")
        case.stack.kill(service)
        case.stack.start_service(service)
    run.wait(BACKFILL_SECONDS)
    for _ in range(TRIES):
        if run.exit_code == 0:
            break
        run = case.run("backfill", str(FIRST_DAY), "--json", within_seconds=BACKFILL_SECONDS)
    case.promise(run.exit_code == 0, f"the day cannot be computed: {run.last_line}")
    check_days(case, FIRST_DAY)


class _World:
    """The processes of a round. What ends is started again, as a supervisor or the sensor would."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._running: dict[str, Process] = {}
        self._down: set[str] = set()
        self._failing: dict[str, ExitStack] = {}

    def keep_running(self) -> None:
        """Start what does not run, except for what a fault keeps down."""
        for name in PROCESSES:
            process = self._running.get(name)
            if process and not process.is_alive and (process.ended_after or 0) < YOUNG_SECONDS:
                process.may_end_with = "does not answer"  # what begins without a service says so, and is begun again
            if name not in self._down and (process is None or not process.is_alive):
                self._running[name] = self._case.router() if name == "router" else self._case.ingest()

    def play(self, faults: list[Fault]) -> None:
        """Do every fault at its moment, and undo it when it is over."""
        began = time.monotonic()
        agenda: list[tuple[float, int, Callable[[], None]]] = []
        for number, fault in enumerate(faults):
            heapq.heappush(agenda, (fault.at, number, partial(self._begin, fault)))
            heapq.heappush(agenda, (fault.at + fault.seconds, len(faults) + number, partial(self._end, fault)))
        while agenda:
            if agenda[0][0] <= time.monotonic() - began:
                heapq.heappop(agenda)[2]()
            else:
                self.keep_running()
                hold(0.2)

    def heal(self) -> None:
        """Undo whatever lasts."""
        for context in self._failing.values():
            context.close()
        self._failing.clear()
        self._down.clear()
        for process in self._running.values():
            for member in process.family():
                member.resume()
        revive(self._case.stack)
        self.keep_running()

    def _begin(self, fault: Fault) -> None:
        self._case.report(str(fault))
        if fault.target in SERVICES:
            self._break_service(fault)
        else:
            self._break_process(fault)

    def _break_service(self, fault: Fault) -> None:
        stack = self._case.stack
        if fault.deed == "pause":
            signal_service(stack, fault.target, signal.SIGSTOP)
        elif fault.deed == "kill":
            stack.kill(fault.target)
        elif fault.deed == "restart":
            stack.stop_service(fault.target)
        else:
            context = ExitStack()
            how = {"failCommands": ["insert"], **FAILURES[fault.deed]}
            context.enter_context(failpoint(self._case.settings, **how))
            self._failing[fault.target] = context

    def _break_process(self, fault: Fault) -> None:
        process = self._running[fault.target]
        if not process.is_alive:
            return
        family = process.family()
        if fault.deed == "pause":
            for member in family:
                member.suspend()
            return
        if fault.deed == "term":
            process.send(signal.SIGTERM)
        elif fault.deed == "kill":
            process.kill()
        elif fault.deed == "kill-jvm":
            for member in family:
                if "java" in member.name():
                    member.kill()
            return  # it starts another one
        else:
            process.killed = True
            family[0].kill()
        self._down.add(fault.target)

    def _end(self, fault: Fault) -> None:
        if fault.target in self._failing:
            self._failing.pop(fault.target).close()
        elif fault.target in SERVICES:
            signal_service(self._case.stack, fault.target, signal.SIGCONT)
            self._case.stack.start_service(fault.target)
        elif fault.deed == "pause":
            for member in self._running[fault.target].family():
                member.resume()
        elif fault.target in self._down:
            self._running[fault.target].kill()  # what is left of it
            self._down.discard(fault.target)
