"""One supervised child process: started so that it dies with us, stopped with its whole process group."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from runtime.child_process import bound_command

POLL_SECONDS = 0.05

# Linux sends the parent-death signal when the *thread* that forked ends, not the process. Children are started in
# parallel by short-lived threads, so one thread that lives as long as the process does the forking for all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="meters-spawner")


class Child:
    """A running child process.

    Args:
        command: absolute path of the executable, and its arguments.
        log: gets both output streams, appended.
        cwd: its working directory.
        environment: variables that differ from ours.
        death_signal: what the kernel sends it when we die.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        environment: Mapping[str, str],
        death_signal: signal.Signals,
    ) -> None:
        launch = bound_command(command, death_signal)
        variables = {**os.environ, **environment}
        with log.open("ab") as output:

            def spawn() -> subprocess.Popen[bytes]:
                # A session of its own: Ctrl-C at our terminal reaches us, and we stop the children in order.
                return subprocess.Popen(
                    launch,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=variables,
                    start_new_session=True,
                )

            self._process = _spawner.submit(spawn).result()
        self.pid = self._process.pid
        self.create_time = psutil.Process(self.pid).create_time()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def stop(self, timeout_seconds: float) -> None:
        """Ask it to end, wait, and kill what is left of its group."""
        if self.exit_code is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self) -> None:
        """End it and its whole process group at once."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS reports a group of zombies as EPERM
            pass
        self._process.wait()


def is_alive(pid: int, create_time: float) -> bool:
    """Is the process with this pid still the one that was created then? Pids are used again."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end_leftover(pid: int, create_time: float, timeout_seconds: float) -> None:
    """End a process of an owner that is gone: wait for the death signal's work, then kill its group."""
    deadline = time.monotonic() + timeout_seconds
    while is_alive(pid, create_time) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if is_alive(pid, create_time):
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        while is_alive(pid, create_time):
            time.sleep(POLL_SECONDS)
