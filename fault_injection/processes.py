"""`meters` commands as processes of a row: started, stopped by signals, killed with their children, and their words."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from fault_injection.row import Broken
from metering.settings import Settings
from runtime.child_process import bound_command

PROJECT = Path(__file__).parents[1]
POLL_SECONDS = 0.05
PROGRESS = re.compile(
    r"^(ingest|route): [\d,]+ (messages(?! are lost)|readings)|^Sent |^Starting the router|^Stopped\. |^Live: "
)
COMMAND = ("-m", "meter_cli")


class Process:
    """A command of the row's installation. The kernel kills it when this process is gone.

    Args:
        settings: the installation.
        arguments: of `meters`.
        folder: where its output goes.
        python: what Python runs instead of `meters`.
        environment: further variables.
    """

    def __init__(
        self,
        settings: Settings,
        arguments: Sequence[str],
        *,
        folder: Path,
        python: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = " ".join(["meters", *arguments])
        number = len(list(folder.glob("*.err")))
        stem = re.sub(r"[^a-z-]+", "-", "-".join(arguments[:2]))
        self._out = folder / f"{number:02}-{stem}.out"
        self._err = folder / f"{number:02}-{stem}.err"
        path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, *python, *arguments]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                bound_command(command, signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, **settings.environment(), "PYTHONPATH": path, **(environment or {})},
                start_new_session=True,
            )
        self._started = time.monotonic()
        self.pid = self._process.pid
        self.killed = False
        """Has the row ended it by force?"""
        self.may_fail = False
        """May it end with an error, whatever that says?"""
        self.may_end_with = ""
        """Pattern of the line that it may end with, by the row's promise."""
        self.ended_after: float | None = None
        """Its age in seconds when its end was first seen."""

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        code = self._process.poll()
        if code is not None and self.ended_after is None:
            self.ended_after = self.age_seconds
        return code

    @property
    def age_seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._started

    @property
    def is_alive(self) -> bool:
        """Does it run, or stand stopped?"""
        return self.exit_code is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.is_alive:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it and all it has started, as a power cut would."""
        self.killed = self.killed or self.is_alive
        family = self.family()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for member in family:  # those with a group of their own, like Spark's
            try:
                member.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()

    def family(self) -> list[psutil.Process]:
        """It and all processes below it."""
        try:
            own = psutil.Process(self.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self, within_seconds: float = 60) -> int:
        """Ask it to end, and wait; its exit code.

        Raises:
            Broken: it does not end.
        """
        self.send(signal.SIGTERM)
        return self.wait(within_seconds)

    def wait(self, within_seconds: float) -> int:
        """Wait for its end; its exit code.

        Raises:
            Broken: it does not end.
        """
        try:
            return self._process.wait(within_seconds)
        except subprocess.TimeoutExpired:
            raise Broken(f"`{self.name}` does not end within {within_seconds:.0f} s") from None

    def wait_stopped(self, within_seconds: float) -> None:
        """Wait until it has stopped itself with SIGSTOP.

        Raises:
            Broken: it does not, or ends.
        """
        deadline = time.monotonic() + within_seconds
        while not self.is_alive or psutil.Process(self.pid).status() != psutil.STATUS_STOPPED:
            if not self.is_alive:
                raise Broken(f"`{self.name}` ended before its step: {self.last_line}")
            if time.monotonic() > deadline:
                raise Broken(f"`{self.name}` does not come to its step within {within_seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    @property
    def lines(self) -> list[str]:
        """What it wrote to standard error, without its progress."""
        lines = (line.rstrip() for line in self._err.read_text(errors="replace").splitlines())
        return [line for line in lines if line.strip() and not PROGRESS.match(line)]

    @property
    def last_line(self) -> str:
        """The last of them; empty where there is none."""
        return next(reversed(self.lines), "")

    def answer(self) -> dict[str, Any]:
        """The JSON that it wrote to standard output.

        Raises:
            Broken: it is none.
        """
        try:
            return json.loads(self._out.read_text())
        except ValueError:
            raise Broken(f"`{self.name}` wrote no JSON: {self.last_line}") from None
