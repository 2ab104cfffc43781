"""Which process did something, and whether that process still runs: for work that a killed process leaves half done."""

import os
import socket
from pathlib import Path

import psutil

STATE, START_TICKS = 0, 19
"""Places in /proc/PID/stat, counted from behind the command's name, which may hold blanks and brackets."""


def own_process() -> str:
    """This process as others recognize it: host, process id, and when it started."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


def is_on_this_host(process: str) -> bool:
    """Can this host answer whether it runs? Not of a text that `own_process` has not written."""
    host, *rest = process.rsplit(" ", 2)
    return host == socket.gethostname() and len(rest) == 2 and rest[0].isascii() and rest[0].isdigit()


def is_gone(process: str) -> bool:
    """Has that process of this host ended? Of another host's process nothing is known: False."""
    if not is_on_this_host(process):
        return False
    _, pid, started = process.rsplit(" ", 2)
    return _started(int(pid)) != started


def _started(pid: int) -> str | None:
    """When the process began, None when it has ended; ids are given to later processes again."""
    try:
        # Ticks since the machine's start: a time of the clock would be another one after somebody has set the clock.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _started_by_clock(pid)
    return None if fields[STATE] in "ZX" else fields[START_TICKS]


def _started_by_clock(pid: int) -> str | None:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
