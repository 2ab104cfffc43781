"""How commands speak: results to standard output, progress and errors to standard error, JSON for scripts.

What is printed is data: ids, names of households and files, texts of messages and errors. So nothing in a string is
taken for markup, and a character that would steer a terminal is written out: ESC as `x1b` after a backslash. Colour is
given by `Text` objects: `GOOD`, `BAD`, `NOTE`, `coloured`.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.status import Status
from rich.text import Text


def visible(text: str) -> str:
    """The text with every control and format character written out; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(each if _is_harmless(each) else _written_out(each) for each in text)


def one_line(text: str) -> str:
    """The text on one line, with every control and format character written out."""
    return visible(" ".join(text.split()))


def _is_harmless(character: str) -> bool:
    # Spaces of other widths are not printable to Python, and harmless.
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) == "Zs"


def _written_out(character: str) -> str:
    return ascii(character)[1:-1]


class _SafeStatus(Status):
    """A spinner whose text is data."""

    def update(self, status: RenderableType | None = None, **options: Any) -> None:
        super().update(Text(visible(status)) if isinstance(status, str) else status, **options)


class SafeConsole(Console):
    """A console that takes no markup from strings and lets no control character through."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich has it; here the width of a cell is counted, so it must be that of what is shown."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich has it, with every text made visible: whatever was printed comes by here."""
        for segment in super().render(renderable, options):
            is_clean = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if is_clean else Segment(visible(segment.text), segment.style)

    def status(self, status: RenderableType, **options: Any) -> Status:
        """A spinner on a terminal; the text is data."""
        text = Text(visible(status)) if isinstance(status, str) else status
        return _SafeStatus(text, console=self, **options)


out = SafeConsole()
err = SafeConsole(stderr=True)


def coloured(text: str, style: str) -> Text:
    """The text in a colour or in bold."""
    return Text(visible(text), style=style)


GOOD = Text("✓", style="green")
BAD = Text("✗", style="red")
NOTE = Text("!", style="yellow")


def print_json(value: Any) -> None:
    """Print one JSON document to standard output; dates become ISO 8601, and what a terminal would obey is escaped."""
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    print(re.sub(r"[^\n\x20-\x7e]", lambda found: _in_json(found[0]), text))


def _in_json(character: str) -> str:
    return character if _is_harmless(character) else json.dumps(character)[1:-1]


def print_error(error: object) -> None:
    """Print the one line of an error to standard error."""
    err.print(coloured("error:", "bold red"), one_line(str(error)), soft_wrap=True)


def counted(number: int, noun: str) -> str:
    """`1 day`, `1,234 days`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def progress(unit: str) -> Progress:
    """A progress bar on standard error that counts `unit` and vanishes from logs and pipes."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit, markup=False),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def byte_progress() -> Progress:
    """A progress bar on standard error that counts bytes of a file and vanishes from logs and pipes."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )
