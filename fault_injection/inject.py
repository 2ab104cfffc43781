"""Breaking services: signals to their processes, failpoints of MongoDB, small file systems that fill up."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from fault_injection.row import Skip
from local_stack import LocalStack
from metering.settings import Settings

FILLER = "filler"
PAGE = 4096


def hold(seconds: float) -> None:
    """Let a fault last: its length is what a row is about, not a wait for something."""
    time.sleep(seconds)


def signal_service(stack: LocalStack, name: str, number: signal.Signals) -> None:
    """Send a signal to all processes of a service."""
    child = stack.services[name].child
    if child:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def pause_service(stack: LocalStack, name: str, seconds: float) -> None:
    """Stop a service with SIGSTOP for so long."""
    signal_service(stack, name, signal.SIGSTOP)
    try:
        hold(seconds)
    finally:
        signal_service(stack, name, signal.SIGCONT)


def pause_process(process: psutil.Process, seconds: float) -> None:
    """Stop a process with SIGSTOP for so long; nothing happens to one that has ended."""
    with suppress(psutil.NoSuchProcess):
        process.suspend()
        try:
            hold(seconds)
        finally:
            process.resume()


def revive(stack: LocalStack) -> None:
    """Have every service of the stack run as it should, whatever a row has done to it."""
    for name in stack.services:
        signal_service(stack, name, signal.SIGCONT)
    dead = [name for name, service in stack.services.items() if not service.is_running]
    if dead:
        stack.start_services(dead)
    if "mongo" in stack.services:
        with suppress(PyMongoError), _admin(stack.settings) as admin:
            admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@contextmanager
def _admin(settings: Settings) -> Iterator[Any]:
    with MongoClient(settings.mongo, serverSelectionTimeoutMS=10_000) as client:
        yield client.admin


@contextmanager
def failpoint(settings: Settings, mode: Any = "alwaysOn", **data: Any) -> Iterator[Any]:
    """MongoDB fails commands in the given way until the block ends; yields a function that waits for so many of them.

    Args:
        settings: where MongoDB is.
        mode: as MongoDB takes it: `alwaysOn`, {"times": 3}, {"skip": 2}.
        data: which commands, and how: `failCommands`, `errorCode`, `closeConnection`, `blockConnection`, …
    """
    with _admin(settings) as admin:
        count = admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})["count"]

        def entered(times: int = 1, within_seconds: float = 60) -> None:
            wanted = {"waitForFailPoint": "failCommand", "timesEntered": count + times}
            admin.command({**wanted, "maxTimeMS": round(within_seconds * 1000)})

        try:
            yield entered
        finally:
            with suppress(PyMongoError):  # a row may have killed it
                admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of that size mounted on the folder, which is made, until the block ends.

    Raises:
        Skip: mounting is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={megabytes}m", "meters-faults", str(folder)], capture_output=True, text=True
    )
    if not done or done.returncode:
        raise Skip("a small file system cannot be mounted here (it takes root)")
    try:
        yield
    finally:
        subprocess.run([shutil.which("umount") or "umount", "--lazy", str(folder)], capture_output=True)


def fill(folder: Path, *, leave_bytes: int = 0) -> None:
    """Fill the file system of a folder up, except for so many bytes."""
    free = shutil.disk_usage(folder).free - leave_bytes
    with (folder / FILLER).open("wb") as filler, suppress(OSError):
        block = bytes(1024 * 1024)
        while free > 0:
            free -= filler.write(block[: max(PAGE, min(free, len(block)))])
            filler.flush()


def make_room(folder: Path) -> None:
    """Undo `fill`."""
    (folder / FILLER).unlink(missing_ok=True)
