"""Starting and stopping the background supervisor, seen from another process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from local_stack.service import READY_TIMEOUT_SECONDS
from local_stack.state import StackState, end_leftovers, live_state
from metering.errors import MetersError
from metering.settings import Settings

POLL_SECONDS = 0.1
DOWN_TIMEOUT_SECONDS = 90

Observer = Callable[[StackState], None]


def supervisor_log(settings: Settings) -> Path:
    """What the supervisor writes."""
    return settings.home / "logs" / "supervisor.log"


def start_supervisor(settings: Settings, observe: Observer = lambda state: None) -> StackState:
    """Start the supervisor and wait until all its services are usable. When it runs already: only wait.

    Args:
        settings: handed to it as METERS_* variables.
        observe: gets the state again and again while waiting.

    Raises:
        MetersError: the stack cannot start, for the reason given.
    """
    process: subprocess.Popen[bytes] | None = None
    if live_state(settings.home) is None:
        end_leftovers(settings.home)
        process = _spawn(settings)
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS + 30
    while time.monotonic() < deadline:
        state = live_state(settings.home)
        if state:
            observe(state)
            if state.phase == "up":
                return state
        if process and process.poll() is not None:
            if state is None:
                raise _failure(settings)
            process = None  # two `up` at once: the other one's supervisor was first
        if state is None and process is None:
            raise MetersError("The local stack that was starting has gone", fix=f"Read {supervisor_log(settings)}")
        time.sleep(POLL_SECONDS)
    raise MetersError("The local stack is not up in time", fix=f"Read {supervisor_log(settings)}")


def retry_failed(settings: Settings, observe: Observer = lambda state: None) -> StackState:
    """Have the owner of a stack start its failed services now, and wait until all are usable.

    Raises:
        MetersError: a service failed again, or the owner does not start services again.
    """
    state = live_state(settings.home)
    if state is None:
        raise MetersError("The local stack has gone", fix="Start it: meters up")
    if not state.retries_on_signal:
        raise MetersError(
            f"Process {state.pid}, which owns the local stack, does not start services again",
            fix="End it, then meters up",
        )
    before = {name: service.crashes for name, service in state.services.items()}
    os.kill(state.pid, signal.SIGUSR1)
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS + 30
    while time.monotonic() < deadline:
        state = live_state(settings.home)
        if state is None:
            raise MetersError("The local stack has gone", fix=f"Read {supervisor_log(settings)}")
        observe(state)
        if all(service.state == "up" for service in state.services.values()):
            return state
        for name, service in state.services.items():
            if service.crashes > before.get(name, 0):
                again = f"It is tried again at {service.next_try_at[11:19]} UTC, and by `meters up`"
                raise MetersError(service.error.rstrip("."), fix=f"Read {service.log}. {again}")
        time.sleep(POLL_SECONDS)
    waiting = ", ".join(name for name, service in state.services.items() if service.state != "up")
    raise MetersError(f"{waiting}: not up in time", fix=f"Read {supervisor_log(settings)}")


def stop_supervisor(settings: Settings) -> bool:
    """End the stack of this home and wait until nothing of it is left; False when none ran.

    Raises:
        MetersError: it does not end.
    """
    state = live_state(settings.home)
    if state is None:
        end_leftovers(settings.home)
        return False
    try:
        owner = psutil.Process(state.pid)
        owner.send_signal(signal.SIGTERM if state.supervised else signal.SIGINT)
        owner.wait(DOWN_TIMEOUT_SECONDS)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        raise MetersError(
            f"Process {state.pid}, which owns the local stack, does not end", fix=f"End it: kill -9 {state.pid}"
        ) from None
    end_leftovers(settings.home)
    return True


def _spawn(settings: Settings) -> subprocess.Popen[bytes]:
    log = supervisor_log(settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "local_stack.supervisor"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # The working directory may hold an .env, which settings below override; "/" holds none.
            cwd="/",
            env={**os.environ, **settings.environment()},
            start_new_session=True,
        )


def _failure(settings: Settings) -> MetersError:
    lines = supervisor_log(settings).read_text(errors="replace").splitlines()
    last = lines[-1] if lines else "it ended without a word"
    if last.startswith("error: "):
        return MetersError(last.removeprefix("error: ").rstrip("."))
    return MetersError(f"The local stack did not start: {last}", fix=f"Read {supervisor_log(settings)}")
