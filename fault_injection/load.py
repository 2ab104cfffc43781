"""The load of a row: a made-up city's past days, sent at a steady pace in a thread of this process, with a ledger."""

import threading
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

from metering.errors import MetersError
from metering.settings import Settings
from streaming.simulator.city import make_city
from streaming.simulator.options import SimulationOptions
from streaming.simulator.sent_ledger import Ledger
from streaming.simulator.simulate import simulate_history

FIRST_DAY = date(2024, 3, 4)
INTERVAL_SECONDS = 900
HOUSEHOLDS = 20
RATE = 1_000
LONGEST_DAYS = 100
RATES = {
    "fault_rate": 0.02,
    "late_rate": 0.01,
    "out_of_order_rate": 0.01,
    "duplicate_rate": 0.01,
    "conflict_rate": 0.02,
    "garbage_rate": 0.02,
}
JOIN_SECONDS = 90


def load_day(number: int) -> date:
    """The first day of a row's load of that number."""
    return FIRST_DAY + number * timedelta(days=LONGEST_DAYS)


class Load(threading.Thread):
    """Sends until it is stopped, or so many days are sent. Use as a context manager.

    Args:
        settings: where to.
        seed: of the city and of what it sends.
        days: complete days to send; None: until stopped.
        rate: messages a second, about; None: as fast as the broker takes them.
        first_day: the day it begins with.
        households: each has two meters.
        rates: other shares of disturbed messages than RATES.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        seed: int = 1,
        days: int | None = None,
        rate: int | None = RATE,
        first_day: date = FIRST_DAY,
        households: int = HOUSEHOLDS,
        **rates: float,
    ) -> None:
        super().__init__(name="load", daemon=True)
        self._settings = settings
        length = days or LONGEST_DAYS
        until = first_day + timedelta(days=length)
        chosen: dict[str, Any] = {**RATES, **rates}
        self._options = SimulationOptions(
            seed=seed, interval_seconds=INTERVAL_SECONDS, days=length, until=until, **chosen
        )
        installed = datetime(first_day.year, first_day.month, first_day.day, tzinfo=UTC)
        self._city = make_city(
            households=households, seed=seed, interval_seconds=INTERVAL_SECONDS, installed_at=installed
        )
        self._rate = rate
        self._enough = threading.Event()
        self._began = 0.0
        self.ledger = Ledger.begin(seed, {})
        self.failure: str = ""

    def run(self) -> None:
        """Send, at the pace."""
        try:
            simulate_history(
                self._city,
                self._settings,
                self._options,
                on_progress=self._pace,
                ledger=self.ledger,
                stop=self._enough.is_set,
            )
        except MetersError as error:
            self.failure = f"error: {error}"
        except Exception as error:  # a user would see its stack trace
            self.failure = f"Traceback (most recent call last): {type(error).__name__}: {error}"

    def _pace(self, ledger: Ledger, done: int) -> None:
        self._began = self._began or time.monotonic()
        if self._rate:
            self._enough.wait(max(0.0, self._began + ledger.messages / self._rate - time.monotonic()))

    def stop(self) -> Ledger:
        """Stop after the round that is being sent; the ledger, complete when every message is acknowledged."""
        self._enough.set()
        return self.finish()

    def finish(self) -> Ledger:
        """Wait until the days are sent."""
        self.join(JOIN_SECONDS)
        return self.ledger

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
