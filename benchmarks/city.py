"""The made-up city of the benchmarks: 100 readings a day from each meter, as messages and as stored documents.

Simpler and faster to make than the simulator's, with what matters to the figures: both meter types, three decimals,
an hourly shape, one faulty reading in a hundred, and everything in the order of time.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from metering.meter_types import MeterType
from metering.reading import encode_message, iso_utc
from metering.registry import Meter, register_meters
from metering.settings import Settings
from metering.store import READINGS, ensure_collections
from runtime.database import connect
from streaming.ingest.batch import READINGS_FEED

READINGS_PER_METER = 100
INTERVAL = timedelta(days=1) / READINGS_PER_METER
FAULT_RATE = 0.01
BATCH = 5_000

DAY = datetime(2024, 5, 18, tzinfo=UTC)
"""The day that is measured; other stored days come before it."""


def device_ids(meters: int) -> list[str]:
    """Alternately an electricity and a water meter."""
    return [f"{'ew'[number % 2]}m{number // 2 + 1}" for number in range(meters)]


def messages(readings: int, day: datetime = DAY) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of that many readings of one day, `readings` / 100 meters' worth."""
    meters = device_ids(-(-readings // READINGS_PER_METER))
    return islice(_messages(meters, day), readings)


def _messages(meters: list[str], day: datetime) -> Iterator[tuple[bytes, bytes]]:
    choice = random.Random(day.isoformat())  # noqa: S311 - reproducible readings, no secret
    scale = [choice.lognormvariate(0, 0.6) for _ in meters]
    for number in range(READINGS_PER_METER):
        timestamp = iso_utc(day + number * INTERVAL)
        hour = number * 24 // READINGS_PER_METER
        shape = 0.4 + (6 <= hour < 10) + 1.5 * (17 <= hour < 23)
        for meter, size in zip(meters, scale, strict=True):
            amount = round(size * shape * choice.random(), 3)
            fields: dict[str, Any] = {"device_id": meter, "timestamp": timestamp}
            faulty = choice.random() < FAULT_RATE
            if meter.startswith("e"):
                fields["usage_kwh"] = -1 if faulty else amount
            else:
                fields |= {"usage": round(amount * 10, 2), "flow_rate": -1 if faulty else round(amount * 2, 3)}
            yield meter.encode(), encode_message(fields)


def documents(values: Iterator[bytes]) -> Iterator[list[dict[str, Any]]]:
    """The stored form of messages, in batches; exactly what ingest would insert."""
    while batch := list(islice(values, BATCH)):
        received_at = datetime.now(UTC).replace(microsecond=0)
        yield [{**READINGS_FEED.parse(value), "received_at": received_at} for value in batch]


def store_day(settings: Settings, readings: int, day: datetime = DAY) -> None:
    """Store a day's readings in MongoDB, past Kafka."""
    database = connect(settings)
    ensure_collections(database)
    for batch in documents(value for _, value in messages(readings, day)):
        database[READINGS].insert_many(batch, ordered=False)
    database.client.close()


def register(settings: Settings, readings: int) -> None:
    """Enter the meters of a day with that many readings into the registry."""
    database = connect(settings)
    ensure_collections(database)
    register_meters(
        database,
        [
            Meter(
                device_id=device_id,
                meter_type=MeterType.ELECTRICITY if device_id.startswith("e") else MeterType.WATER,
                interval_seconds=int(INTERVAL.total_seconds()),
                removed_at=None,
                source="benchmark",
                installed_at=DAY - timedelta(days=60),
                household_id=f"h{number // 2 + 1:05d}",
                district=f"district {number // 2 % 12 + 1}",
            )
            for number, device_id in enumerate(device_ids(-(-readings // READINGS_PER_METER)))
        ],
    )
    database.client.close()
