"""Kafka clients with this platform's defaults, topics, and errors in words.

kafka-python's own defaults (auto commit, latest offset, read_uncommitted) would lose or invent readings.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.errors import (
    AuthorizationError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    SaslAuthenticationFailedError,
    TopicAlreadyExistsError,
    UnsupportedVersionError,
)
from kafka.structs import TopicPartition

from metering.errors import MetersError, ServiceAwayError
from metering.settings import Settings
from runtime.local_services import trouble_note

ANSWER_WITHIN_SECONDS = 10
"""How long a broker may take to answer the first time before we say that it is not there."""

SESSION_SECONDS = 10
"""How long a member of a group may be silent before its partitions go to the others."""

DELIVER_WITHIN_SECONDS = 60
"""How long a message may wait for a broker that went away before sending it has failed."""

FLUSH_WITHIN_SECONDS = DELIVER_WITHIN_SECONDS + ANSWER_WITHIN_SECONDS

Headers = Sequence[tuple[str, bytes]]


LASTING_ERRORS = (AuthorizationError, SaslAuthenticationFailedError, UnsupportedVersionError)
"""What another try does not change."""


def kafka_error(settings: Settings, error: KafkaError) -> MetersError:
    """The line for an error of kafka-python."""
    if isinstance(error, (KafkaConnectionError, KafkaTimeoutError)):
        return _unavailable(settings)
    if isinstance(error, MessageSizeTooLargeError):
        what = str(error.args[0]) if error.args and error.args[0] else "A topic takes no message of this size"
        return MetersError(f"Kafka at {settings.kafka}: {what}", fix="Raise the topic's max.message.bytes")
    return MetersError(
        f"Kafka at {settings.kafka} refused: {str(error) or type(error).__name__}", fix="Read the broker's log"
    )


def _unavailable(settings: Settings) -> MetersError:
    note = "" if settings.kafka_bootstrap else trouble_note(settings, "kafka")
    return ServiceAwayError(
        f"Kafka does not answer at {settings.kafka}",
        fix=note or "Start the local stack with `meters up` or set METERS_KAFKA_BOOTSTRAP",
    )


@contextmanager
def kafka_errors(settings: Settings) -> Iterator[None]:
    """Turn kafka-python's exceptions into the one line that a user needs."""
    try:
        yield
    except KafkaError as error:
        raise kafka_error(settings, error) from error


def _client_options(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap_servers": settings.kafka.split(","),
        "bootstrap_timeout_ms": ANSWER_WITHIN_SECONDS * 1000,
    }


def ensure_topics(settings: Settings, *topics: str, max_message_bytes: int | None = None) -> None:
    """Create the topics that are missing, with the partitions and replicas of the settings; safe to repeat and to race.

    Args:
        settings: where Kafka is.
        topics: their names.
        max_message_bytes: largest message of a topic that is created now; None leaves it to the broker.
    """
    # Arrival by the broker's clock: what a meter's own clock says is judged by it.
    configs = {"message.timestamp.type": "LogAppendTime"}
    if max_message_bytes is not None:
        configs["max.message.bytes"] = str(max_message_bytes)
    if settings.min_in_sync > 1:
        configs["min.insync.replicas"] = str(settings.min_in_sync)
    with kafka_errors(settings):
        # Any: pyright's stubs describe kafka-python 2.
        admin: Any = KafkaAdminClient(**_client_options(settings))
        try:
            missing = set(topics) - set(admin.list_topics())
            new = [
                NewTopic(
                    name=name,
                    num_partitions=settings.kafka_partitions,
                    replication_factor=settings.replication or -1,
                    topic_configs=configs,
                )
                for name in sorted(missing)
            ]
            if new:
                try:
                    admin.create_topics(new, wait_for_metadata=True)
                except TopicAlreadyExistsError:  # another process was faster
                    pass
        finally:
            admin.close()


def keep_messages(settings: Settings, topic: str) -> None:
    """Have Kafka keep the topic's messages for ever, unless somebody has given the topic a retention of its own.

    Where the broker does not let us change a topic, its retention stays what its operators have chosen.
    """
    with kafka_errors(settings):
        # Any: pyright's stubs describe kafka-python 2.
        admin: Any = KafkaAdminClient(**_client_options(settings))
        try:
            asked = ConfigResource(ConfigResourceType.TOPIC, topic, ["retention.ms", "retention.bytes"])
            found = admin.describe_configs([asked], config_filter="all")["topic"][topic]
            unset = {name: "-1" for name, config in found.items() if config["config_source"] != "DYNAMIC_TOPIC_CONFIG"}
            if unset:
                change: Any = ConfigResource(ConfigResourceType.TOPIC, topic, unset)
                admin.alter_configs([change], raise_on_unknown=False)
        finally:
            admin.close()


class _Consumer(KafkaConsumer):
    """A KafkaConsumer that carries every rejoin through."""

    _coordinator: Any  # pyright's stubs describe kafka-python 2

    def poll(self, *arguments: Any, **options: Any) -> Any:
        # kafka-python 3.0.12 forgets a rejoin that only new metadata asked for, when it lasts longer than one poll: the
        # member takes part in its group no more, and polls for nothing for ever.
        if self._coordinator.rejoining:
            self._coordinator.request_rejoin()
        return super().poll(*arguments, **options)


def open_consumer(settings: Settings, *, group: str | None, **options: Any) -> KafkaConsumer:
    """A consumer, not yet subscribed, that starts at the earliest offset and commits only when told to.

    Args:
        settings: where Kafka is.
        group: consumer group; None for a reader that keeps no offsets.
        options: further options of KafkaConsumer.
    """
    with kafka_errors(settings):
        return _Consumer(
            **_client_options(settings),
            group_id=group,
            enable_auto_commit=False,
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            session_timeout_ms=SESSION_SECONDS * 1000,
            **{"auto_offset_reset": "earliest", **options},
        )


def partitions_of(consumer: Any, *topics: str) -> list[TopicPartition]:
    """All partitions of the topics; none of a topic that does not exist."""
    return [
        TopicPartition(topic, number)
        for topic in topics
        for number in sorted(consumer.partitions_for_topic(topic) or ())
    ]


def topic_ids(consumer: Any, *topics: str) -> dict[str, str]:
    """Kafka's id of each topic, by name, as the client's newest metadata has it; a topic made again has another id."""
    ids = {topic: consumer._client.cluster.topic_id(topic) for topic in topics}
    return {topic: str(found) for topic, found in ids.items() if found is not None}


def follow(consumer: Any, *topics: str) -> None:
    """Have the consumer read whatever comes to the topics from now on."""
    partitions = partitions_of(consumer, *topics)
    consumer.assign(partitions)
    consumer.seek_to_end(*partitions)
    for partition in partitions:
        consumer.position(partition)  # asks the broker now instead of at the first poll


def open_producer(
    settings: Settings, *, linger_ms: int = 20, block_seconds: int = ANSWER_WITHIN_SECONDS, **options: Any
) -> KafkaProducer:
    """An idempotent producer whose messages count as sent only when all in-sync replicas have them.

    Args:
        settings: where Kafka is.
        linger_ms: how long a message may wait for others to go with it.
        block_seconds: how long a call may wait for the broker that it needs.
        options: further options of KafkaProducer.
    """
    with kafka_errors(settings):
        return KafkaProducer(
            **_client_options(settings),
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            linger_ms=linger_ms,
            batch_size=256 * 1024,
            max_block_ms=block_seconds * 1000,
            delivery_timeout_ms=DELIVER_WITHIN_SECONDS * 1000,
            **options,
        )


class Sender:
    """Sends messages to one topic, each acknowledged by all in-sync replicas; a failure surfaces at `flush`.

    Use as a context manager: leaving it without an exception flushes.
    """

    def __init__(self, settings: Settings, topic: str, *, linger_ms: int = 20) -> None:
        self._settings = settings
        self._topic = topic
        self._failure: Exception | None = None
        self.sent = 0
        self._producer = open_producer(settings, linger_ms=linger_ms)

    def send(self, value: bytes | None, *, key: bytes | None, headers: Headers = ()) -> None:
        """Queue one message.

        Raises:
            MetersError: Kafka does not answer, or has refused an earlier message.
        """
        self._raise_failure()
        with kafka_errors(self._settings):
            future = self._producer.send(self._topic, value=value, key=key, headers=list(headers))
        future.add_errback(self._failed)
        self.sent += 1

    def flush(self) -> None:
        """Return when every message sent so far is acknowledged.

        Raises:
            MetersError: at least one was not.
        """
        with kafka_errors(self._settings):
            self._producer.flush(timeout=FLUSH_WITHIN_SECONDS)
        self._raise_failure()

    def close(self) -> None:
        """Let go of the connection; unsent messages are dropped unless `flush` came first."""
        self._producer.close(timeout=ANSWER_WITHIN_SECONDS)

    def _failed(self, error: Exception) -> None:
        self._failure = self._failure or error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            with kafka_errors(self._settings):
                raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()
