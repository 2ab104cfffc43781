"""Running a process that is measured: in the installation of the benchmarks, with JSON as its answer."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metering.errors import MetersError
from metering.settings import Settings

PROJECT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 1800


def run(settings: Settings, module: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run `python -m module`; its JSON answer, with the seconds from start to end of the process as `whole`."""
    return _answer([sys.executable, "-m", module, *arguments], settings, environment)


def meters(settings: Settings, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run the `meters` command as a user would, with --json; see `run`."""
    command = [sys.executable, "-m", "meter_cli", *arguments, "--json"]
    return _answer(command, settings, environment)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables with which a process works in the installation, on this tree."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, **settings.environment(), "PYTHONPATH": path}


def _answer(command: Sequence[str], settings: Settings, environment: dict[str, str]) -> dict[str, Any]:
    started = time.monotonic()
    done = subprocess.run(
        command,
        env={**environment_of(settings), **environment},
        cwd=settings.home,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    whole = time.monotonic() - started
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise MetersError(f"{' '.join(command[2:])} ended with exit code {done.returncode}: {last}")
    return {**json.loads(done.stdout), "whole": whole}
