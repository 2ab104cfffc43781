"""Waiting for a service that does not answer: for ever in a process that serves, for a while in a command that ends."""

import threading
import time
from collections.abc import Callable

from metering.errors import MetersError

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
NOTICE_EVERY_SECONDS = 60.0


class Patience:
    """Counts how long a service has not answered.

    Args:
        stop: ends every wait.
        give_up_seconds: after so long the error is raised; None: never.
        notice: gets a line when the wait begins, every minute of it, and when it is over.
    """

    def __init__(self, stop: threading.Event, *, give_up_seconds: float | None, notice: Callable[[str], None]) -> None:
        self._stop = stop
        self._give_up_seconds = give_up_seconds
        self._notice = notice
        self._since: float | None = None
        self._noticed_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS

    def failed(self, error: MetersError) -> None:
        """Wait before the next try.

        Raises:
            MetersError: `error`, when the time is over or the process is asked to stop.
        """
        now = time.monotonic()
        if self._since is None:
            self._since, self._pause, self._noticed_at = now, FIRST_PAUSE_SECONDS, float("-inf")
        over = self._give_up_seconds is not None and now - self._since >= self._give_up_seconds
        if over or self._stop.is_set():
            raise error
        if now - self._noticed_at >= NOTICE_EVERY_SECONDS:
            self._noticed_at = now
            self._notice(f"{error.message}; trying again, nothing is lost meanwhile")
        self._stop.wait(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def succeeded(self) -> None:
        """Note that the service answers."""
        if self._since is not None:
            self._notice(f"It answers again, after {time.monotonic() - self._since:.0f} s")
            self._since = None
