"""The simulator: a city's meters send their readings to Kafka, past days at full speed or one round a second.

Meters, faults and disturbances are made up next door (meter_model.py, fault_plan.py, disturbances.py); what was sent is
written down in a ledger (sent_ledger.py). The command line is in meter_cli/simulate.py.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

from metering.reading import encode_message
from metering.registry import Meter, register_meters
from metering.settings import READINGS_TOPIC, Settings
from metering.store import ensure_collections
from runtime.database import open_database
from streaming.kafka.clients import Sender, ensure_topics
from streaming.simulator.disturbances import LATE_SECONDS, Disturbances
from streaming.simulator.fault_plan import FaultPlan
from streaming.simulator.meter_model import Instant, MeterModel
from streaming.simulator.options import SimulationOptions, history_window
from streaming.simulator.sent_ledger import DeviceDay, Ledger

LIVE_STEP_SECONDS = 1
LIVE_LATE_ROUNDS = 60
"""A late message of live mode waits up to a minute: hours would outlast most runs."""

FLUSH_EVERY_MESSAGES = 20_000
"""kafka-python queues without limit: waiting for acknowledgements bounds memory when the broker is the slower one."""

OnProgress = Callable[[Ledger, int], None]
"""Called after each round with the ledger so far, and the readings (history) or rounds (live) done."""


def register_city(city: Sequence[Meter], settings: Settings) -> None:
    """Enter the city's meters into the registry.

    Raises:
        MetersError: MongoDB is not to be had.
    """
    with open_database(settings) as database:
        ensure_collections(database)
        register_meters(database, city)


def describe(city: Sequence[Meter], settings: Settings, options: SimulationOptions) -> dict[str, Any]:
    """The options as a ledger keeps them: with everything that it takes to repeat the run."""
    households = len({meter.household_id for meter in city})
    described = asdict(options) | {"households": households, "meters": len(city), "timezone": settings.timezone}
    return described | {"until": options.until and options.until.isoformat()}


class _Rounds:
    """Plays rounds: in each, every meter makes one reading."""

    def __init__(
        self,
        city: Sequence[Meter],
        settings: Settings,
        options: SimulationOptions,
        sender: Sender,
        ledger: Ledger,
        *,
        step_seconds: int,
        latest_rounds: int,
    ) -> None:
        self._city = city
        self._zone = settings.zone
        self._sender = sender
        self._ledger = ledger
        self._meters = [
            (
                MeterModel(options.seed, meter, options.interval_seconds),
                FaultPlan(options.seed, meter.device_id, options.fault_rate, step_seconds),
                meter.device_id.encode(),
            )
            for meter in city
        ]
        self._delivery = Disturbances(
            self._send, ledger, options, meters=len(city), step_seconds=step_seconds, latest_rounds=latest_rounds
        )
        self._day = ""
        self._accounts: list[DeviceDay] = []

    def play(self, epoch: int) -> None:
        instant = Instant.at(epoch, self._zone)
        if instant.day != self._day:
            self._day = instant.day
            self._accounts = [
                self._ledger.account(instant.day, meter.meter_type, meter.device_id) for meter in self._city
            ]
        for number, (model, plan, key) in enumerate(self._meters):
            faulty = plan.is_faulty(epoch)
            amount, flow = model.read(instant)
            value = encode_message(model.fields(instant, amount, flow, faulty=faulty))
            self._accounts[number].record(amount, faulty)
            if faulty:
                self._ledger.fault_ids.append(f"{instant.text}|{model.device_id}")
            self._delivery.offer(number, epoch, key, value)
        self._delivery.end_round()

    def finish(self) -> None:
        """Send what waits; return when all is acknowledged."""
        self._delivery.drain()
        self._sender.flush()

    def _send(self, value: bytes, key: bytes) -> None:
        self._sender.send(value, key=key)
        if self._sender.sent % FLUSH_EVERY_MESSAGES == 0:
            self._sender.flush()


@contextmanager
def _rounds(
    city: Sequence[Meter],
    settings: Settings,
    options: SimulationOptions,
    ledger: Ledger,
    topic: str,
    *,
    step_seconds: int,
    latest_rounds: int,
):
    """Rounds on an open connection; the ledger is complete only once everything is acknowledged."""
    ledger.complete = False
    ensure_topics(settings, topic)
    register_city(city, settings)
    with Sender(settings, topic) as sender:
        rounds = _Rounds(
            city, settings, options, sender, ledger, step_seconds=step_seconds, latest_rounds=latest_rounds
        )
        yield rounds
        rounds.finish()
    ledger.complete = True


def _never() -> bool:
    return False


def simulate_history(
    city: Sequence[Meter],
    settings: Settings,
    options: SimulationOptions,
    *,
    on_progress: OnProgress | None = None,
    topic: str = READINGS_TOPIC,
    ledger: Ledger | None = None,
    stop: Callable[[], bool] = _never,
) -> Ledger:
    """Send the readings of `options.days` complete local days as fast as the broker takes them.

    Registers the city first. Memory holds the ledger, one round and what waits to be sent late.

    Args:
        city: the meters; see `streaming.simulator.city.make_city`.
        settings: where to send, and the city's time zone.
        options: what to send.
        on_progress: called after every round.
        topic: another topic than the platform's own, for tests and measurements.
        ledger: goes on with this one, and leaves in it what was sent when an exception ends the run.
        stop: asked before every round; True ends the history there, with everything made so far sent.

    Raises:
        MetersError: Kafka or MongoDB is not to be had, or the days are not possible.
    """
    start, end = history_window(settings, options)
    ledger = ledger or Ledger.begin(options.seed, describe(city, settings, options))
    step = options.interval_seconds
    latest = LATE_SECONDS // step
    with _rounds(city, settings, options, ledger, topic, step_seconds=step, latest_rounds=latest) as rounds:
        for done, epoch in enumerate(range(int(start.timestamp()), int(end.timestamp()), step), 1):
            if stop():
                ledger.interrupted = True
                break
            rounds.play(epoch)
            if on_progress:
                on_progress(ledger, done * len(city))
    return ledger


def history_readings(city: Sequence[Meter], start: datetime, end: datetime, interval_seconds: int) -> int:
    """How many readings a history has."""
    return len(range(int(start.timestamp()), int(end.timestamp()), interval_seconds)) * len(city)


def simulate_live(
    city: Sequence[Meter],
    settings: Settings,
    options: SimulationOptions,
    *,
    rounds: int | None = None,
    on_progress: OnProgress | None = None,
    topic: str = READINGS_TOPIC,
    ledger: Ledger | None = None,
    stop: Callable[[], bool] = _never,
) -> Ledger:
    """Send one round a second, every meter one reading stamped with that second, until stopped or `rounds` are done.

    Time-lapse: each reading carries the usage of a whole `options.interval_seconds`. With an interval of one second
    it is true to scale. A run that falls behind sends the seconds that it missed.

    Args:
        city: the meters.
        settings: where to send, and the city's time zone.
        options: what to send; its days do not matter here.
        rounds: end after so many; None goes on until `stop`.
        on_progress: called after every round.
        topic: another topic than the platform's own, for tests and measurements.
        ledger: goes on with this one, and leaves in it what was sent when an exception ends the run.
        stop: asked about once a second, from this thread.

    Raises:
        MetersError: Kafka or MongoDB is not to be had.
    """
    ledger = ledger or Ledger.begin(options.seed, describe(city, settings, options))
    with _rounds(
        city,
        settings,
        options,
        ledger,
        topic,
        step_seconds=LIVE_STEP_SECONDS,
        latest_rounds=LIVE_LATE_ROUNDS,
    ) as playing:
        first = int(time.time()) + 1
        done = 0
        while done != rounds:
            due = first + done * LIVE_STEP_SECONDS
            time.sleep(max(0.0, due - time.time()))
            if stop():
                break
            playing.play(due)
            done += 1
            if on_progress:
                on_progress(ledger, done)
    return ledger
