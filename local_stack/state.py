"""The state file of a home: who runs a local stack there, and how its services are.

The owner holds a lock on `stack.lock` as long as it lives, which the kernel drops at its death, and writes
`stack.json` at every change, which others read.
"""

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import psutil

from local_stack.child import end_leftover, is_alive
from metering.errors import MetersError
from metering.settings import Settings
from runtime.full_disk import full_disk_error
from runtime.local_services import state_file as state_file

LEFTOVER_TIMEOUT_SECONDS = 15


@dataclass
class ServiceState:
    """One service, as its owner last knew it.

    `state` is one of starting, up, restarting, stopped, failed. One that is restarting or failed is tried again at
    `next_try_at`, for ever; failed are those that crashed again and again. Instants are ISO 8601, in UTC.
    """

    state: str
    address: str
    log: str
    title: str = ""
    pid: int | None = None
    create_time: float = 0.0
    version: str = ""
    restarts: int = 0
    error: str = ""
    crashes: int = 0
    """In a row: since it was last usable for long enough."""
    failed_at: str = ""
    """When it last became failed; stays until it fails again, for those who have to be notified."""
    failed_reason: str = ""
    recovered_at: str = ""
    next_try_at: str = ""


@dataclass
class StackState:
    """A whole stack, as its owner last knew it. `phase` is one of starting, up, stopping, failed."""

    pid: int
    create_time: float
    supervised: bool
    phase: str = "starting"
    error: str = ""
    retries_on_signal: bool = False
    """Does SIGUSR1 make the owner try failed services at once?"""
    services: dict[str, ServiceState] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool:
        """Does the owner still run? A state file also survives a reboot."""
        return is_alive(self.pid, self.create_time)


def read_state(home: Path) -> StackState | None:
    """The state as last written; None where none or no readable one is."""
    try:
        raw = json.loads(state_file(home).read_text())
        services = {name: ServiceState(**service) for name, service in raw.pop("services").items()}
        return StackState(**raw, services=services)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def live_state(home: Path) -> StackState | None:
    """The state of a stack whose owner runs; None otherwise."""
    state = read_state(home)
    return state if state and state.is_alive else None


class Ownership:
    """The right to run a stack in a home.

    Args:
        settings: of the installation.
        supervised: does a background supervisor own it?

    Raises:
        MetersError: another process has it, or the home cannot be written.
    """

    def __init__(self, settings: Settings, *, supervised: bool) -> None:
        home = settings.home
        self._settings = settings
        self._home = home
        try:
            home.mkdir(parents=True, exist_ok=True)
            self._lock: IO[str] = (home / "stack.lock").open("a")
        except OSError as error:
            raise MetersError(
                f"{home} cannot be written: {error.strerror}", fix="See to its rights, or set METERS_HOME"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            owner = read_state(home)
            who = f"process {owner.pid}" if owner else "another process"
            raise MetersError(
                f"A local stack already runs in {home}, owned by {who}", fix="Run meters down, or set METERS_HOME"
            ) from None
        end_leftovers(home)
        self.state = StackState(os.getpid(), psutil.Process().create_time(), supervised)
        if not self.write():
            self._lock.close()
            raise full_disk_error(settings) or MetersError(f"{home} cannot be written", fix="See to its rights")

    def write(self) -> bool:
        """Publish the state; readers see the old one or the new one, never half of it.

        False where the disk takes nothing: readers keep the old one until a later write succeeds.
        """
        temporary = state_file(self._home).with_suffix(".json.new")
        try:
            temporary.write_text(json.dumps(asdict(self.state), indent=2))
            temporary.replace(state_file(self._home))
        except OSError:
            return False
        return True

    def release(self, *, keep_state: bool = False) -> None:
        """Give the home up; the state file stays only to tell of a failure."""
        if not keep_state:
            state_file(self._home).unlink(missing_ok=True)
        self._lock.close()


def end_leftovers(home: Path) -> None:
    """End the children of an owner that died, and forget its state."""
    state = read_state(home)
    if state:
        for service in state.services.values():
            if service.pid:
                end_leftover(service.pid, service.create_time, LEFTOVER_TIMEOUT_SECONDS)
    state_file(home).unlink(missing_ok=True)
