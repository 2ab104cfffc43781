"""What all services of the local stack have in common: start, wait until usable, stop, explain a death."""

import re
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from local_stack.child import Child
from metering.errors import MetersError
from metering.settings import LOOPBACK, Settings
from runtime.full_disk import full_disk_line

READY_TIMEOUT_SECONDS = 180
STOP_TIMEOUT_SECONDS = 20
PROBE_INTERVAL_SECONDS = 0.1
LOG_TAIL_BYTES = 64 * 1024
LOG_LIMIT_BYTES = 50 * 1024 * 1024


class NotReadyError(Exception):
    """The service does not answer as it should, yet."""


class Service(ABC):
    """One process of a service: `prepare` once, then `launch` and `wait_ready`, as often as it is started.

    Args:
        settings: ports and folders.
        arguments: further command line arguments, for tests that need a special server.
        number: which of several equal processes, from 1 on. The first has the service's plain name, so that a home is
            laid out alike however many there are.
    """

    kind: ClassVar[str]
    kind_title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    """Names of those that must be usable before this one starts, and with whose end it has to start anew."""

    death_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, settings: Settings, arguments: Sequence[str] = (), *, number: int = 1) -> None:
        self.settings = settings
        self.arguments = list(arguments)
        self.number = number
        self.name = self.kind if number == 1 else f"{self.kind}-{number}"
        self.title = self.kind_title if number == 1 else f"{self.kind_title} {number}"
        self.folder = settings.home / self.name
        self.log = settings.home / "logs" / f"{self.name}.log"
        self.child: Child | None = None
        self.version = ""
        self._abandoned = False
        self._launch_error: MetersError | None = None

    @property
    @abstractmethod
    def port(self) -> int:
        """The port that clients use."""

    @property
    def address(self) -> str:
        """host:port that clients use."""
        return f"{LOOPBACK}:{self.port}"

    @abstractmethod
    def prepare(self) -> None:
        """Write configuration and format storage; called before every start."""

    @abstractmethod
    def command(self) -> list[str]:
        """The executable and its arguments."""

    def environment(self) -> dict[str, str]:
        """Variables that differ from ours."""
        return {}

    @abstractmethod
    def probe(self) -> str:
        """Use the service as a client would; returns the version that it tells.

        Raises:
            NotReadyError: it cannot be used yet.
        """

    def launch(self) -> None:
        """Start the process, without waiting for it to be usable.

        Raises:
            MetersError: it cannot be started.
        """
        self._launch_error = None
        try:
            for folder in (self.folder, self.log.parent):
                folder.mkdir(parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > 0:
                self.log.replace(self.log.with_suffix(".previous.log"))
            self.prepare()
            self.child = Child(
                self.command(),
                log=self.log,
                cwd=self.folder,
                environment=self.environment(),
                death_signal=self.death_signal,
            )
        except MetersError as error:
            self._launch_error = error
            raise
        except (OSError, subprocess.SubprocessError) as error:
            self._launch_error = self._not_started(error)
            raise self._launch_error from error

    def _not_started(self, error: Exception) -> MetersError:
        said = f"{type(error).__name__}: {error}"
        disk = full_disk_line(self.settings, said, folders=self.folders)
        fix = "Free some" if disk else f"Read {self.log}"
        return MetersError(f"{self.title} cannot be started: {disk or said}", fix=fix)

    def wait_ready(self, timeout_seconds: float = READY_TIMEOUT_SECONDS) -> None:
        """Wait until clients can use the service.

        Raises:
            MetersError: it died, or it is not usable in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._abandoned:
                raise MetersError(f"The start of {self.title} was broken off")
            if not self.is_running:
                raise self.death()
            try:
                self.version = self.probe()
                return
            except NotReadyError as error:
                if time.monotonic() > deadline:
                    raise MetersError(
                        f"{self.title} is not usable after {timeout_seconds:.0f} s: {error}", fix=f"Read {self.log}"
                    ) from None
            time.sleep(PROBE_INTERVAL_SECONDS)

    def abandon(self) -> None:
        """Make a wait in another thread end."""
        self._abandoned = True

    @property
    def is_abandoned(self) -> bool:
        """Is nobody waiting for it any more?"""
        return self._abandoned

    @property
    def is_running(self) -> bool:
        """Does the process run? Says nothing of its health."""
        return self.child is not None and self.child.exit_code is None

    def stop(self) -> None:
        """End it in its own orderly way; by force when that takes too long."""
        if self.child:
            self.child.stop(STOP_TIMEOUT_SECONDS)
            self.child = None
        self._abandoned = False

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.child:
            self.child.kill()
            self.child = None

    def trim_log(self) -> None:
        """Empty a log that has grown too long; the process appends, so it goes on at the start."""
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT_BYTES:
            with self.log.open("rb+") as log:
                log.truncate(0)

    def death(self) -> MetersError:
        """Why the process ended, or was not started, as its disk and its log show."""
        if self.child is None and self._launch_error:
            return self._launch_error
        code = self.child.exit_code if self.child else None
        how = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        # Who is killed writes nothing about it: the log's last line is about something else.
        last = "" if code == -signal.SIGKILL else last_meaningful_line(self.log)
        # The whole tail: what died of a full disk goes on to log how it ends.
        disk = full_disk_line(self.settings, "\n".join(log_tail(self.log)), folders=self.folders)
        reason = f"{self.title} {how}"
        if disk:
            return MetersError(f"{reason}: {disk}", fix=f"Free some; {self.log} has more")
        return MetersError(f"{reason}: {last}" if last else reason, fix=f"Read {self.log}")

    @property
    def folders(self) -> list[Path]:
        """Where it writes."""
        return [*(self.folder / name for name in ("data", "tmp")), self.folder, self.log.parent]


def log_tail(log: Path) -> list[str]:
    """The last lines of a log; none where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def last_meaningful_line(log: Path) -> str:
    """The line of a log that most likely says why its process died; empty when it holds none."""
    lines = log_tail(log)
    # Frames of a stack trace say where, not what.
    lines = [line.strip() for line in lines if line.strip() and not re.match(r"\s*(at |\.\.\. \d+ more|\})", line)]
    blame = re.compile(r"Exception|Error|FATAL|ERROR|\"s\":\"[EF]\"|error", re.ASCII)
    candidates = [line for line in lines if blame.search(line)] or lines
    # A cause stands below what it caused; mongod's own lines are JSON, of which the message is for people.
    line = candidates[-1] if candidates else ""
    if match := re.search(r'"msg":"([^"]*)".*?"error(?:Message)?":"?([^"}]*)', line):
        line = f"{match[1]}: {match[2]}"
    return line[:300].rstrip(".")
