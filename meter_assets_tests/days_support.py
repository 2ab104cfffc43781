"""An installation of a test's own on the session's stack: its database and lake, and the `meters` command on them."""

import json
import os
from pathlib import Path
from typing import Any

from kafka.structs import OffsetAndMetadata
from pymongo import MongoClient

from meter_assets_tests.support import meters
from metering.reading import encode_message
from metering.settings import READINGS_TOPIC, Settings
from streaming.batch import READINGS_FEED, Feed
from streaming.kafka import Sender, ensure_topics, open_consumer, partitions_of

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
