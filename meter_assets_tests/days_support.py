"""An installation of a test's own on the session's stack: its database and lake, and the `meters` command on them."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset
import pytest
from kafka.structs import OffsetAndMetadata
from pymongo import MongoClient

from meter_assets_tests.support import meters
from metering.day_ledger import touch_days
from metering.reading import encode_message, reading_id
from metering.settings import READINGS_TOPIC, Settings
from metering.store import READINGS
from streaming.ingest.batch import READINGS_FEED, Feed
from streaming.kafka.clients import Sender, ensure_topics, open_consumer, partitions_of

DERIVED = ("daily_averages", "daily_consumption", "abnormal_device_summary")


class Installation:
    """A database and a lake of their own on the session's stack, and the `meters` command on them."""

    def __init__(self, settings: Settings, lake: Path | str) -> None:
        self.settings = settings.model_copy(update={"lake": str(lake)})
        self._client: MongoClient = MongoClient(settings.mongo, tz_aware=True)
        self.database = self._client[settings.mongo_database]
        _skip(self.settings, READINGS_FEED)  # what other tests left on the topic is not this test's

    def choose(self, **changes: object) -> None:
        """Change settings of the commands that follow."""
        self.settings = self.settings.model_copy(update=changes)

    def run(self, *arguments: str) -> Any:
        """Run a command that must succeed, and return its JSON."""
        result = meters(self.settings, *arguments, "--json", timeout_seconds=600)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def send(self, *messages: dict[str, Any]) -> dict[str, Any]:
        """Produce readings, and ingest them."""
        ensure_topics(self.settings, READINGS_TOPIC)
        with Sender(self.settings, READINGS_TOPIC) as sender:
            for message in messages:
                sender.send(encode_message(message), key=message["device_id"].encode())
        return self.run("ingest", "--until-caught-up")

    def documents(self, collection: str) -> dict[str, dict[str, Any]]:
        """All documents of a collection by `_id`."""
        return {document["_id"]: document for document in self.database[collection].find()}

    def derived(self) -> dict[str, Any]:
        """All documents that the assets have published."""
        return {name: self.documents(name) for name in DERIVED}

    @property
    def environment(self) -> dict[str, str]:
        """For a process of the installation that a test starts by itself."""
        return {**os.environ, **self.settings.environment()}

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def _skip(settings: Settings, feed: Feed) -> None:
    """Have ingest begin at the topics' present ends."""
    ensure_topics(settings, *feed.topics)
    consumer: Any = open_consumer(settings, group=feed.group)
    try:
        partitions = [each for topic in feed.topics for each in partitions_of(consumer, topic)]
        consumer.assign(partitions)
        consumer.seek_to_end(*partitions)
        consumer.commit({each: OffsetAndMetadata(consumer.position(each), "", -1) for each in partitions})
    finally:
        consumer.close()


def electricity(device: str, timestamp: str, usage_kwh: float = 1.5) -> dict[str, Any]:
    """A reading; -1 is the meter's own fault sign."""
    return {"device_id": device, "timestamp": timestamp, "usage_kwh": usage_kwh}


def readings(*days: str, hours: tuple[int, ...] = (0, 6, 12), usage_kwh: float = 1.5) -> list[dict[str, Any]]:
    """Readings of the meters em1 to em3 at those hours of those days."""
    return [
        electricity(f"em{meter}", f"{day}T{hour:02}:00:00Z", usage_kwh)
        for day in days
        for hour in hours
        for meter in (1, 2, 3)
    ]


@contextmanager
def failpoint(city: Installation, mode: Any, **data: Any) -> Iterator[Callable[[int], None]]:
    """A failure of MongoDB; what it yields waits until so many commands have met it."""
    admin = city.database.client.admin
    count = admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})["count"]

    def entered(times: int) -> None:
        wanted = {"waitForFailPoint": "failCommand", "timesEntered": count + times, "maxTimeMS": 120_000}
        admin.command(wanted)

    try:
        yield entered
    finally:
        admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def store_readings(city: Installation, day: date, *, hour: float, usage_kwh: float = 1.5) -> None:
    """A reading of each of three meters, as ingest stores them, without Kafka."""
    at = datetime.combine(day, time(), UTC) + timedelta(hours=hour)
    city.database[READINGS].insert_many(
        {
            **{"_id": reading_id(at, f"em{meter}"), "device_id": f"em{meter}", "timestamp": at},
            **{"meter_type": "electricity", "usage_kwh": float(usage_kwh), "schema_version": 1, "received_at": at},
        }
        for meter in (1, 2, 3)
    )
    touch_days(city.database, [day], datetime.now(UTC))


def assert_whole(city: Installation, *days: str) -> None:
    """See that all published figures of those days equal a computation of the test's own over the stored readings.

    The days' readings are electricity of meters that the registry does not know; -1 is a fault.
    """
    for day in days:
        stored = list(city.database["iot-meter"].find({"_id": {"$gte": day, "$lt": f"{day}U"}}))
        sums: dict[str, float] = {}
        healthy: dict[str, int] = {}
        faulty: dict[str, int] = {}
        for reading in stored:
            device = reading["device_id"]
            if reading["usage_kwh"] < 0:
                faulty[device] = faulty.get(device, 0) + 1
            else:
                healthy[device] = healthy.get(device, 0) + 1
                sums[device] = sums.get(device, 0.0) + reading["usage_kwh"]
        found = {
            name: list(city.database[name].find({"calculation_date": day}).sort("_id", 1))
            for name in ("daily_averages", "daily_consumption", "abnormal_device_summary")
        }
        (averages,) = found["daily_averages"]
        assert (averages["readings"], averages["faulty_readings"]) == (sum(healthy.values()), sum(faulty.values()))
        assert averages["total_usage_kwh"] == pytest.approx(sum(sums.values()))
        by_device = {each["key"]: each for each in found["daily_consumption"] if each["level"] == "device"}
        assert {key: each["readings"] for key, each in by_device.items()} == {
            device: healthy.get(device, 0) for device in {*healthy, *faulty}
        }
        for device, each in by_device.items():
            assert each["total_usage_kwh"] == pytest.approx(sums.get(device, 0.0))
        for level in ("household", "district"):
            (each,) = [each for each in found["daily_consumption"] if each["level"] == level]
            assert each["total_usage_kwh"] == pytest.approx(sum(sums.values()))
        assert {each["device_id"]: each["faulty_readings"] for each in found["abnormal_device_summary"]} == faulty
        assert rows_in_the_lake(city, day) == len(stored)
        _assert_revisions(city, day)


def _assert_revisions(city: Installation, day: str) -> None:
    """See that each document's revisions are numbered without a gap or a repetition, and each changed something."""
    of_key: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in city.database["revisions"].find({"calculation_date": day}).sort("revision", 1):
        of_key.setdefault((each["collection"], each["key"]), []).append(each)
    for (collection, key), entries in of_key.items():
        numbers = [entry["revision"] for entry in entries]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        published = city.database[collection].find_one({"_id": key})
        assert published == entries[-1]["now"]
        for entry in entries:
            was, now = (
                {name: value for name, value in (entry[side] or {}).items() if name not in ("computed_at", "revision")}
                for side in ("was", "now")
            )
            assert was != now


def rows_in_the_lake(city: Installation, day: str) -> int:
    """Readings of that day in the lake's folder."""
    folder = Path(city.settings.lake_path) / "raw_readings" / f"day={day}"
    return pyarrow.dataset.dataset(folder, format="parquet").count_rows() if folder.exists() else 0
