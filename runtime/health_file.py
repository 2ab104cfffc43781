"""A sign of life for health checks: a file whose age says when this process last did its work."""

import time

from metering.settings import Settings

EVERY_SECONDS = 5.0


class Alive:
    """Touches METERS_ALIVE_FILE, not more often than every 5 s; nothing where the setting is unset.

    Call it where work gets on, not from a thread of its own: a process that hangs must look dead.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.alive_file
        self._touched = float("-inf")

    def __call__(self) -> None:
        """Say that work gets on."""
        if self._file is not None and time.monotonic() - self._touched >= EVERY_SECONDS:
            self._touched = time.monotonic()
            self._file.touch()
