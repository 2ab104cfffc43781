"""Dead letters: bad input kept whole on its own topic, with headers that say where it came from and why.

Header names are Kafka Connect's (`__connect.errors.*`, as its DeadLetterQueueReporter writes them), so that tools
that read its dead letter queues read ours.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kafka.structs import OffsetAndMetadata, TopicPartition

from metering.errors import MetersError
from metering.settings import DEAD_LETTERS_TOPIC, Settings
from streaming.kafka import Headers, ensure_topics, kafka_errors, keep_messages, open_producer

MAX_DEAD_LETTER_BYTES = 16 * 1024 * 1024
"""A dead letter holds a whole message and more, so its topic takes more than the broker lets others take."""

MAX_UNCOMPRESSED_BYTES = 1024 * 1024 * 1024
"""The same before compression, by which the client measures: what came in compressed has to get out again."""

COORDINATOR_SECONDS = 30
"""How long to wait for the broker that looks after our transactions: when it dies, Kafka takes some ten seconds to
notice, and then another one has to read up on them."""

TRANSACTION_SECONDS = 20
"""How long a killed process may hold up readers of dead letters and its own successor."""

_PREFIX = "__connect.errors."


@dataclass(frozen=True)
class DeadLetter:
    """Raw key and value of a refused message, and its headers."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter_headers(*, reason: str, stage: str, error_class: str, message: str, **source: object) -> Headers:
    """Headers of one dead letter.

    Args:
        reason: short code for machines, e.g. `invalid_reading` or `conflict`.
        stage: what refused it, e.g. `INGEST`.
        error_class: name of the error's kind.
        message: one line for people; it never repeats the payload.
        source: where it came from: `topic`, `partition` and `offset`, or whatever the source has.
    """
    fields = {**source, "stage": stage, "exception.class.name": error_class, "exception.message": message}
    headers = [(_PREFIX + name, str(value).encode()) for name, value in fields.items()]
    return [*headers, ("reason", reason.encode())]


def ensure_dead_letters_topic(settings: Settings, topic: str = DEAD_LETTERS_TOPIC) -> None:
    """Create the topic if it is missing, large enough for whatever another topic may hold; letters do not expire."""
    ensure_topics(settings, topic, max_message_bytes=MAX_DEAD_LETTER_BYTES)
    keep_messages(settings, topic)


class DeadLetterTransactions:
    """Writes dead letters and commits their source offsets as one Kafka transaction.

    So a dead letter is there exactly once for whoever reads committed messages, also when the process is killed
    between the two, or when its partitions have meanwhile gone to another member of the group.
    """

    def __init__(self, settings: Settings, *, topic: str = DEAD_LETTERS_TOPIC) -> None:
        self._topic = topic
        # A fresh id each time: stale instances are fenced by the consumer group's generation (KIP-447).
        self._producer = open_producer(
            settings,
            transactional_id=f"dead-letters-{uuid.uuid4()}",
            block_seconds=COORDINATOR_SECONDS,
            transaction_timeout_ms=TRANSACTION_SECONDS * 1000,
            compression_type="zstd",
            max_request_size=MAX_UNCOMPRESSED_BYTES,
        )
        with kafka_errors(settings):
            self._producer.init_transactions()

    def commit(
        self,
        letters: Sequence[DeadLetter],
        offsets: dict[TopicPartition, OffsetAndMetadata],
        group_metadata: Any,
    ) -> None:
        """Write the letters and commit the offsets, both or neither.

        Raises:
            kafka.errors.KafkaError, MetersError: neither happened.
        """
        self._producer.begin_transaction()
        try:
            futures = [
                self._producer.send(self._topic, key=letter.key, value=letter.value, headers=list(letter.headers))
                for letter in letters
            ]
            self._producer.flush()
            for future in futures:
                if not future.succeeded():
                    raise MetersError(f"Kafka refused a dead letter: {future.exception}")
            self._producer.send_offsets_to_transaction(offsets, group_metadata)
            self._producer.commit_transaction()
        except BaseException:
            self._producer.abort_transaction()
            raise

    def close(self) -> None:
        """Let go of the connection."""
        self._producer.close()
