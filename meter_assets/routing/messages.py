"""Reading what the router reports while it runs; Dagster's own client hands custom messages out when it has ended."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import dagster as dg
from dagster_pipes import PipesDefaultMessageWriter, PipesParams


class MessageFile(dg.PipesMessageReader):
    """A file that the child writes, read when `poll` is called and at no other time: no thread, no busy waiting."""

    def __init__(self) -> None:
        self._handler: dg.PipesMessageHandler | None = None
        self._file: TextIO | None = None
        self._begun = ""

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[PipesParams]:
        """Make the file; it goes with the session."""
        with tempfile.TemporaryDirectory(prefix="meters-router-") as folder:
            path = Path(folder) / "messages"
            path.touch()
            with path.open(encoding="utf-8") as self._file:
                self._handler = handler
                yield {
                    PipesDefaultMessageWriter.FILE_PATH_KEY: str(path),
                    PipesDefaultMessageWriter.INCLUDE_STDIO_IN_MESSAGES_KEY: False,
                }
            self._file = None

    def poll(self) -> list[Any]:
        """The custom messages since the last call; log lines and the like go where they belong."""
        if self._file is None or self._handler is None:
            return []
        payloads = []
        lines = (self._begun + self._file.read()).split("\n")
        self._begun = lines.pop()  # the child may be in the middle of a line
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:  # what a child that was killed has left
                continue
            if message["method"] == "report_custom_message":
                payloads.append(message["params"]["payload"])
            else:
                self._handler.handle_message(message)
        return payloads

    def no_messages_debug_text(self) -> str:
        """What Dagster adds to its warning when the child never said anything."""
        return "Attempted to read messages from a file."
