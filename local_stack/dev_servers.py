"""`meters dev` as a process: `dagster dev` with all that it starts, watched as one and ended as one.

`dagster dev` alone leaves run workers behind that hang on a service, and ends with exit code 0 when its daemon was
killed.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType

import psutil

from metering.errors import MetersError
from runtime.child_process import bound_command

PR_SET_CHILD_SUBREAPER = 36

WATCH_SECONDS = 0.5
ORDERLY_SECONDS = 3
"""How long `dagster dev` may take to end what it started, before each process is asked itself."""

PATIENCE_SECONDS = 8
"""How long all of them may take together; then they are killed."""

REPLACED_WITHIN_SECONDS = 20
"""`dagster dev` starts a code server that has died or reloads again; one that stays gone was lost."""

SERVERS = {
    "dagster._daemon": "the Dagster daemon",
    "dagster_webserver": "the Dagster webserver",
    "code-server start": "the code server",  # webserver and daemon have an option of nearly that name
    "api grpc": "the code location's process",
}
"""The processes without which the UI shows half of the truth, by a part of their command lines."""

FINAL = ("dagster._daemon", "dagster_webserver")
"""Those that nobody replaces."""


class DevServers:
    """One `dagster dev`.

    Args:
        command: its command line.
        environment: all of its variables.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = dict(environment)
        self._asked = threading.Event()
        self._hurry = False
        self._gone_since: dict[str, float] = {}

    def run(self) -> None:
        """Serve until SIGTERM, SIGINT or SIGHUP; then nothing of it is left, whatever hangs.

        Raises:
            MetersError: a server was lost; the others are ended, too.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask_to_end)
        _adopt_orphans()
        # A session of its own: Ctrl-C at the terminal reaches us, and we end them in order.
        process = subprocess.Popen(
            bound_command(self._command, signal.SIGTERM), env=self._environment, start_new_session=True
        )
        lost = None
        try:
            lost = self._watch(process)
        finally:
            self._end(process)
        if lost:
            raise MetersError(
                f"{lost[0].upper()}{lost[1:]} ended, and `meters dev` with it", fix="Start it again: meters dev"
            )

    def _ask_to_end(self, number: int, frame: FrameType | None) -> None:
        self._hurry = self._asked.is_set() and number == signal.SIGINT  # a second Ctrl-C
        self._asked.set()

    def _watch(self, process: subprocess.Popen[bytes]) -> str | None:
        """Wait until asked to end (None), or until a server is lost (its name)."""
        seen: set[str] = set()
        while not self._asked.wait(WATCH_SECONDS):
            processes = _descendants()
            running = _servers(processes)
            seen |= running
            for each in processes:
                if each.pid != process.pid:
                    _runs(each)  # takes orphans that have ended off the system's list
            if lost := self._lost(seen - running):
                return lost
            if process.poll() is not None:
                return "`dagster dev`"
        return None

    def _lost(self, missing: set[str]) -> str | None:
        now = time.monotonic()
        self._gone_since = {name: self._gone_since.get(name, now) for name in missing}
        for name, since in self._gone_since.items():
            if name in FINAL or now - since > REPLACED_WITHIN_SECONDS:
                return SERVERS[name]
        return None

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        started = time.monotonic()
        known = {each.pid: each for each in _descendants()}
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        asked: set[int] = set()
        while True:
            process.poll()  # reaps it
            known |= {each.pid: each for each in _descendants()}
            left = [each for each in known.values() if _runs(each)]
            if not left:
                return
            waited = time.monotonic() - started
            is_late = self._hurry or waited > PATIENCE_SECONDS
            for each in left:
                if is_late or (waited > ORDERLY_SECONDS and each.pid not in asked):
                    asked.add(each.pid)
                    _signal(each, signal.SIGKILL if is_late else signal.SIGTERM)
            time.sleep(0.1)


def _adopt_orphans() -> None:
    """Become the parent of what our descendants leave behind, so that it can be found; on Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def _servers(processes: Sequence[psutil.Process]) -> set[str]:
    """Which of SERVERS are among the processes."""
    found: set[str] = set()
    for process in processes:
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        found |= {name for name in SERVERS if name in line and process.status() != psutil.STATUS_ZOMBIE}
    return found


def _runs(process: psutil.Process) -> bool:
    """Does it run? One of ours that has ended, adopted or not, is taken off the system's list."""
    try:
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.is_running()
        if process.ppid() == os.getpid():
            os.waitpid(process.pid, os.WNOHANG)
    except (psutil.Error, ChildProcessError):
        pass
    return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:
        pass
