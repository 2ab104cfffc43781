"""How commands speak: results to standard output, progress and errors to standard error, JSON for scripts."""

import json
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print one JSON document to standard output; dates become ISO 8601."""
    print(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def counted(number: int, noun: str) -> str:
    """`1 day`, `1,234 days`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def progress(unit: str) -> Progress:
    """A progress bar on standard error that counts `unit` and vanishes from logs and pipes."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def byte_progress() -> Progress:
    """A progress bar on standard error that counts bytes of a file and vanishes from logs and pipes."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
