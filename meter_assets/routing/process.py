"""The router as a process: started as our child, asked to end, and found again by its heartbeat."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO

import psutil

from metering.settings import Settings
from runtime.child_process import CHECKPOINT_HELD, bound_command

PROJECT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "meter_cli", "route")
LAST_WORDS_SECONDS = 2
KILL_SECONDS = 5
CLOCK_SECONDS = 10
"""How much the clock may have been set since the router started: a process's own start moves with it."""


class RouterProcess:
    """A running `meters route`, with a session of its own: Ctrl-C at our terminal reaches us, and we stop it.

    Start it from the main thread: the kernel sends it SIGTERM when the thread that started it ends.

    Args:
        settings: the installation's.
        environment: further variables.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
        settings.home.mkdir(parents=True, exist_ok=True)
        self._error_line = self._last_line = ""
        self._process = subprocess.Popen(
            bound_command(COMMAND, signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=settings.home,
            env={**os.environ, **settings.environment(), "PYTHONPATH": path, **environment},
            start_new_session=True,
            text=True,
            errors="replace",
        )
        self.pid = self._process.pid
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    def _listen(self, stderr: IO[str]) -> None:
        """Hand its standard error on to ours, which Dagster keeps with the run, and remember its last words."""
        for line in stderr:
            sys.stderr.write(line)
            if line.startswith("error: "):
                self._error_line = line.strip()
            self._last_line = line.strip() or self._last_line

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def wait(self, seconds: float) -> int | None:
        """Wait for its end, no longer than that; its exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_end(self) -> None:
        """Have it finish what it has begun, and end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it and what it has started (Spark's JVM) at once; harmless when it has ended."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS reports a group of zombies as EPERM
            pass
        self._process.wait()

    def failure(self) -> str:
        """Why it ended, in one line; empty when it did so in good order."""
        code = self.exit_code
        if not code:
            return ""
        self._listener.join(LAST_WORDS_SECONDS)
        if code < 0:
            return f"The router was ended by {signal.Signals(-code).name}"
        words = (self._error_line or self._last_line).removeprefix("error: ")
        if code == CHECKPOINT_HELD:
            return words or "Another router holds the checkpoint"
        return words or f"The router ended with exit code {code} and without a word"


def is_here(host: str) -> bool:
    """Is that this machine's name?"""
    return host == socket.gethostname()


def find_router(host: str, pid: int, started_at: datetime) -> psutil.Process | None:
    """The process that wrote a heartbeat on this machine, if it still runs: pids are used again.

    Args:
        host: the heartbeat's machine.
        pid: its process.
        started_at: when the router says that it started.
    """
    if not is_here(host):
        return None
    try:
        process = psutil.Process(pid)
        same = process.create_time() <= started_at.timestamp() + CLOCK_SECONDS and "route" in process.cmdline()
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def kill_router(process: psutil.Process) -> None:
    """End a router, stopped or not, and what it has started, at once."""
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=KILL_SECONDS)
