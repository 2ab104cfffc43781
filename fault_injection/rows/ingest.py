"""Ingest killed and paused: at any moment, and at each step of its work."""

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil

from fault_injection.case import Case
from fault_injection.ending import recover
from fault_injection.inject import hold, pause_process
from fault_injection.row import Row, row

STEP_SECONDS = 60
SHORT, LONGER_THAN_SESSION, LONGER_THAN_TRANSACTION = 4, 14, 26
"""Pauses. A member's session is 10 s, a dead-letter transaction may last 20 s."""

PLAIN = {"conflict_rate": 0.0, "garbage_rate": 0.0}
"""A load without bad messages: offsets are committed without a transaction."""


def killed_at_any_moment(case: Case, *, times: int) -> None:
    """Killed under load, again and again, and started again each time."""
    case.load()
    for number in range(times):
        ingest = case.ingest()
        case.wait_at_work(500 * (number + 1))
        hold(0.3 * number)  # another moment each time
        ingest.kill()
    case.ingest()
    recover(case)


def killed_at_step(case: Case, *, step: str, moment: str, with_letters: bool) -> None:
    """Killed exactly there, under load, in the second round of its work; then another one starts."""
    case.load(**({} if with_letters else PLAIN))
    ingest = case.ingest(trap=(step, moment, "kill", "2"))
    case.wait(lambda: not ingest.is_alive, STEP_SECONDS, f"ingest comes to its step {step}")
    case.promise(ingest.exit_code == -signal.SIGKILL, f"it ended before its step: {ingest.last_line}")
    ingest.killed = True
    case.ingest()
    recover(case)


def paused(case: Case, *, seconds: float, times: int = 1) -> None:
    """The whole process stopped and continued under load."""
    case.load(rate=500)
    ingest = case.ingest()
    case.wait_at_work(500)
    for _ in range(times):
        pause_process(psutil.Process(ingest.pid), seconds)
        hold(2)
    recover(case)


def paused_at_step(case: Case, *, step: str, moment: str, seconds: float) -> None:
    """Stopped exactly there, under load, and continued."""
    case.load(rate=500)
    ingest = case.ingest(trap=(step, moment, "stop", "2"))
    ingest.wait_stopped(STEP_SECONDS)
    hold(seconds)
    ingest.send(signal.SIGCONT)
    recover(case)


def one_of_two_killed(case: Case) -> None:
    """Two members; one is killed, the other one does its work."""
    case.load()
    dying, _ = case.ingest(), case.ingest()
    case.wait_at_work(1_500)
    dying.kill()
    recover(case)


def one_of_two_wakes_late(case: Case, *, step: str, moment: str, seconds: float) -> None:
    """Two members; one stops in the middle of its work and wakes when its partitions are the other one's."""
    case.load(rate=500)
    sleeping = case.ingest(trap=(step, moment, "stop", "3"))
    case.wait_at_work()
    case.ingest()
    sleeping.wait_stopped(STEP_SECONDS)
    hold(seconds)
    sleeping.send(signal.SIGCONT)
    recover(case)


def members_come_and_go(case: Case, *, rounds: int, kill: bool) -> None:
    """One member stays; others join it and leave, in order or killed: a rebalance each time."""
    case.load(rate=700)
    case.ingest()
    case.wait_at_work()
    for number in range(rounds):
        guest = case.ingest()
        hold(2.5 + 0.4 * number)
        if kill:
            guest.kill()
        else:
            guest.stop()
    recover(case)


def two_killed_in_turns(case: Case, *, kills: int) -> None:
    """Two members, one of them killed every few seconds and started again."""
    case.load(rate=700)
    members = [case.ingest(), case.ingest()]
    case.wait_at_work(500)
    for number in range(kills):
        hold(1.5 + 0.7 * (number % 3))
        members[number % 2].kill()
        members[number % 2] = case.ingest()
    recover(case)


def drained(case: Case) -> None:
    """SIGTERM under load: what was read is committed, exit code 0, and the next one goes on."""
    case.load()
    ingest = case.ingest()
    case.wait_at_work(500)
    code = ingest.stop(within_seconds=20)
    case.promise(code == 0, f"exit code {code}: {ingest.last_line}")
    counts = ingest.answer()
    case.promise(counts["messages"] == sum(case.committed().values()), "its counts are not what it committed")
    case.ingest()
    recover(case)


NOTHING = "The next one goes on at the last commit: nothing lost, nothing twice."
WAKES = "It goes on, or leaves its work to others: nothing lost, nothing twice."
REBALANCED = "Rebalances lose and repeat nothing."

_STEPS = (
    ("write", "before", False, "before it writes readings"),
    ("write", "after", False, "between the write and the count of changed days"),
    ("days", "after", False, "between the write and the commit"),
    ("commit", "after", False, "right after the commit"),
    ("begin", "before", True, "before the dead-letter transaction"),
    ("letter", "after", True, "after the first dead letter"),
    ("flush", "after", True, "with all dead letters written"),
    ("offsets", "after", True, "with the offsets in the transaction"),
    ("end", "before", True, "right before the transaction's end"),
    ("end", "after", True, "right after the transaction's end"),
)
_PAUSES = (
    ("write", "after", LONGER_THAN_SESSION, "after the write"),
    ("begin", "before", LONGER_THAN_SESSION, "before the dead-letter transaction"),
    ("flush", "after", LONGER_THAN_SESSION, "inside the transaction"),
    ("offsets", "after", LONGER_THAN_SESSION, "with the offsets in the transaction"),
    ("flush", "after", LONGER_THAN_TRANSACTION, "inside the transaction"),
    ("offsets", "after", LONGER_THAN_TRANSACTION, "with the offsets in the transaction"),
)
_LATE = (
    ("begin", "before", LONGER_THAN_SESSION, "before its transaction"),
    ("offsets", "before", LONGER_THAN_SESSION, "inside its transaction"),
    ("offsets", "after", LONGER_THAN_TRANSACTION, "with its offsets in the transaction"),
)


def _ingest(name: str, fault: str, promise: str, run: Callable[[Case], None], **options: Any) -> Row:
    return row("ingest", name, fault, promise, run, **options)


ROWS: tuple[Row, ...] = (
    _ingest("kill", "SIGKILL under load, three times", NOTHING, partial(killed_at_any_moment, times=3)),
    *(
        _ingest(
            f"kill-{moment}-{step}",
            f"SIGKILL {words}",
            NOTHING,
            partial(killed_at_step, step=step, moment=moment, with_letters=letters),
            in_tests=(moment, step) == ("after", "letter"),
        )
        for step, moment, letters, words in _STEPS
    ),
    _ingest("drain", "SIGTERM under load", "It commits what it has read and exits 0.", drained),
    _ingest("pause-short", f"SIGSTOP for {SHORT} s", WAKES, partial(paused, seconds=SHORT), in_tests=True),
    _ingest(
        "pause-session", f"SIGSTOP for {LONGER_THAN_SESSION} s", WAKES, partial(paused, seconds=LONGER_THAN_SESSION)
    ),
    _ingest(
        "pause-thrice",
        f"SIGSTOP for {LONGER_THAN_SESSION} s, thrice",
        WAKES,
        partial(paused, seconds=LONGER_THAN_SESSION, times=3),
    ),
    _ingest(
        "pause-transaction",
        f"SIGSTOP for {LONGER_THAN_TRANSACTION} s",
        WAKES,
        partial(paused, seconds=LONGER_THAN_TRANSACTION),
    ),
    *(
        _ingest(
            f"pause-{moment}-{step}-{seconds}s",
            f"SIGSTOP for {seconds} s {words}",
            WAKES,
            partial(paused_at_step, step=step, moment=moment, seconds=seconds),
        )
        for step, moment, seconds, words in _PAUSES
    ),
    _ingest("two-one-killed", "one of two killed", "The other one takes over.", one_of_two_killed),
    *(
        _ingest(
            f"two-late-{moment}-{step}",
            f"one of two stopped {words} for {seconds} s, woken when its partitions are the other one's",
            "What it had begun is refused: nothing lost, nothing twice.",
            partial(one_of_two_wakes_late, step=step, moment=moment, seconds=seconds),
        )
        for step, moment, seconds, words in _LATE
    ),
    _ingest(
        "rebalance-join",
        "members join and leave, four times",
        REBALANCED,
        partial(members_come_and_go, rounds=4, kill=False),
    ),
    _ingest(
        "rebalance-kill",
        "members join and are killed, four times",
        REBALANCED,
        partial(members_come_and_go, rounds=4, kill=True),
    ),
    _ingest("two-killed", "two members, eight kills", NOTHING, partial(two_killed_in_turns, kills=8)),
    _ingest(
        "two-killed-often", "two members, thirty kills", NOTHING, partial(two_killed_in_turns, kills=30), full=True
    ),
)
