"""What the router has sent, read from its topic as it comes: which events, and how often each."""

import json
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from metering.settings import ABNORMAL_TOPIC


class Routed:
    """Follows iot-abnormal from its beginning. Ask it from one thread.

    Args:
        bootstrap: the brokers.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap.split(",")
        self._client: Any = None
        self._known: set[int] = set()
        self.events: dict[str, int] = {}
        """How often each event was sent, by its id."""

    def look(self) -> set[str]:
        """Ids of all events so far."""
        client = self._open()
        numbers = client.partitions_for_topic(ABNORMAL_TOPIC) or set()
        if new := set(numbers) - self._known:
            self._known |= new
            client.assign([TopicPartition(ABNORMAL_TOPIC, number) for number in sorted(self._known)])
        if self._known:
            for records in client.poll(timeout_ms=200, max_records=10_000).values():
                for record in records:
                    event = json.loads(record.value)["event_id"]
                    self.events[event] = self.events.get(event, 0) + 1
        return set(self.events)

    def _open(self) -> Any:
        if self._client is None:
            self._client = KafkaConsumer(
                bootstrap_servers=self._bootstrap,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                metadata_max_age_ms=2_000,
            )
        return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
