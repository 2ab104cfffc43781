"""Kafka as the suite sees it: what stands on a topic, read by a plain consumer; how far a group is; administration.

Nothing of streaming/ is used here: what checks the product must not share its mistakes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, UnknownTopicOrPartitionError
from kafka.structs import OffsetAndMetadata

from metering.settings import ABNORMAL_TOPIC, DEAD_LETTERS_TOPIC, READINGS_TOPIC

INGEST_GROUP, FAULTS_GROUP = "meters-ingest", "meters-ingest-faults"
TOPICS = (READINGS_TOPIC, DEAD_LETTERS_TOPIC, ABNORMAL_TOPIC)
GONE_SECONDS = 30
READ_SECONDS = 120
POLL_SECONDS = 0.05

T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """A message where it stands. `era` counts how often the topic was made again before."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes]
    timestamp: int
    era: int = 0


class Topics:
    """Looks at the broker, and changes what stands there.

    Args:
        bootstrap: its addresses, comma-separated.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap.split(",")
        self._watcher: Any = None

    def close(self) -> None:
        """Close the connections."""
        if self._watcher:
            self._watcher.close()
            self._watcher = None

    @contextmanager
    def admin(self) -> Iterator[Any]:
        """An admin client; Any, because pyright's stubs describe kafka-python 2."""
        client = KafkaAdminClient(bootstrap_servers=self._bootstrap)
        try:
            yield client
        finally:
            client.close()

    @contextmanager
    def consumer(self, **options: Any) -> Iterator[Any]:
        """A consumer that keeps no offsets and sees committed messages."""
        chosen = {"isolation_level": "read_committed", "enable_auto_commit": False, **options}
        client = KafkaConsumer(bootstrap_servers=self._bootstrap, **chosen)
        try:
            yield client
        finally:
            client.close()

    def partitions(self, topic: str) -> list[TopicPartition]:
        """Its partitions; none where it is not."""
        with self.consumer() as client:
            return _partitions(client, topic)

    def ends(self, topic: str, isolation_level: str = "read_committed") -> dict[TopicPartition, int]:
        """The end of each partition, as readers of that level see it."""
        with self.consumer(isolation_level=isolation_level) as client:
            return client.end_offsets(_partitions(client, topic))

    def settled(self, topic: str) -> bool:
        """Is every transaction on the topic ended?"""
        return self.ends(topic) == self.ends(topic, "read_uncommitted")

    def read(self, topic: str, *, era: int = 0, begin: dict[int, int] | None = None) -> list[Message]:
        """Every committed message, each partition in its order; none where the topic is not.

        Args:
            topic: its name.
            era: goes into the messages.
            begin: offsets by partition to begin at, behind something that cannot be read.
        """
        with self.consumer(max_poll_records=20_000, auto_offset_reset="earliest") as client:
            partitions = _partitions(client, topic)
            if not partitions:
                return []
            client.assign(partitions)
            client.seek_to_beginning(*partitions)
            ends = client.end_offsets(partitions)
            for number, offset in (begin or {}).items():
                client.seek(TopicPartition(topic, number), offset)
            found: list[Message] = []
            deadline = time.monotonic() + READ_SECONDS
            while left := [tp for tp in partitions if client.position(tp) < ends[tp]]:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{topic} cannot be read to its end within {READ_SECONDS} s")
                client.pause(*(tp for tp in partitions if tp not in left))
                for tp, records in client.poll(timeout_ms=200).items():
                    found += [_message(record, era) for record in records if record.offset < ends[tp]]
            return found

    def committed(self, group: str, topic: str = READINGS_TOPIC) -> dict[int, int] | None:
        """The group's offsets by partition; None while the broker does not answer."""
        try:
            if self._watcher is None:
                self._watcher = KafkaAdminClient(bootstrap_servers=self._bootstrap, request_timeout_ms=5_000)
            offsets = self._watcher.list_group_offsets({group: None})[group]
        except (KafkaError, OSError, KeyError, ValueError, AssertionError):
            self.close()
            return None
        return {tp.partition: each.offset for tp, each in offsets.items() if tp.topic == topic and each.offset >= 0}

    def move_offsets(self, group: str, offsets: dict[int, int], topic: str = READINGS_TOPIC) -> None:
        """Set the offsets of a group that has no member."""
        moved = {TopicPartition(topic, number): OffsetAndMetadata(at, "", -1) for number, at in offsets.items()}
        with self.admin() as client:
            client.alter_group_offsets(group, moved)

    def forget_group(self, group: str) -> None:
        """Delete a group with its offsets, once it has no member."""
        with self.admin() as client:
            self.wait(lambda: self._deleted(client, group), GONE_SECONDS, f"group {group} is deleted")

    @staticmethod
    def _deleted(client: Any, group: str) -> bool:
        try:
            client.delete_groups([group])
        except KafkaError as error:
            return type(error).__name__ == "GroupIdNotFoundError"
        return True

    def make(self, topic: str, partitions: int = 4, **configs: str) -> None:
        """Make a topic as the platform does; dots of names are written as underscores."""
        with self.admin() as client:
            new = NewTopic(
                name=topic,
                num_partitions=partitions,
                replication_factor=-1,
                topic_configs={"message.timestamp.type": "LogAppendTime", **_dotted(configs)},
            )
            client.create_topics([new], wait_for_metadata=True)

    def delete(self, *topics: str) -> None:
        """Delete topics, and wait until they are gone."""
        with self.admin() as client:
            present = [topic for topic in topics if topic in client.list_topics()]
            if present:
                try:
                    client.delete_topics(present)
                except UnknownTopicOrPartitionError:
                    pass
            self.wait(lambda: not set(topics) & set(client.list_topics()), GONE_SECONDS, "topics are gone")

    def topic_id(self, topic: str) -> str:
        """Kafka's id of the topic."""
        with self.admin() as client:
            (described,) = client.describe_topics([topic])
            return str(described.get("topic_id", ""))

    def add_partitions(self, topic: str, count: int) -> None:
        """Give the topic more partitions."""
        with self.admin() as client:
            client.create_partitions({topic: count})

    def remove_before(self, offsets: dict[int, int], topic: str = READINGS_TOPIC) -> None:
        """Have Kafka remove what stands before these offsets, as its retention does."""
        with self.admin() as client:
            client.delete_records({TopicPartition(topic, number): at for number, at in offsets.items()})

    def configuration(self, topic: str) -> dict[str, str]:
        """A topic's configuration."""
        from kafka.admin import ConfigResource, ConfigResourceType

        with self.admin() as client:
            described = client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])["topic"][topic]
        return {name: config["value"] for name, config in described.items()}

    def configure(self, topic: str, **configs: str) -> None:
        """Change a topic's configuration; dots are written as underscores."""
        from kafka.admin import ConfigResource, ConfigResourceType

        with self.admin() as client:
            client.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=_dotted(configs))])

    @staticmethod
    def wait(condition: Callable[[], T], seconds: float, what: str) -> T:
        """Ask again and again until the answer is true; see case.Case.wait for rows."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:.0f} s: {what}")
            time.sleep(POLL_SECONDS)
        return answer


def _partitions(client: Any, topic: str) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in sorted(client.partitions_for_topic(topic) or ())]


def _dotted(configs: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "."): value for name, value in configs.items()}


def _message(record: Any, era: int) -> Message:
    headers = dict(record.headers or ())
    return Message(record.partition, record.offset, record.key, record.value, headers, record.timestamp, era)
