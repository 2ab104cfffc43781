"""Dead letters: bad input kept whole on its own topic, with headers that say where it came from and why.

Header names are Kafka Connect's (`__connect.errors.*`, as its DeadLetterQueueReporter writes them), so that tools
that read its dead letter queues read ours.
"""

import hashlib
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    InvalidProducerEpochError,
    InvalidTxnStateError,
    MessageSizeTooLargeError,
    ProducerFencedError,
    RebalanceInProgressError,
    TransactionAbortableError,
    TransactionAbortedError,
    UnknownMemberIdError,
    UnknownProducerIdError,
)
from kafka.structs import OffsetAndMetadata, TopicPartition

from metering.settings import DEAD_LETTERS_TOPIC, Settings
from streaming.kafka.clients import Headers, ensure_topics, keep_messages, open_producer

MAX_DEAD_LETTER_BYTES = 16 * 1024 * 1024
"""A dead letter holds a whole message and more, so its topic takes more than the broker lets others take."""

MAX_UNCOMPRESSED_BYTES = 1024 * 1024 * 1024
"""The same before compression, by which the client measures: what came in compressed has to get out again."""

COORDINATOR_SECONDS = 30
"""How long to wait for the broker that looks after our transactions: when it dies, Kafka takes some ten seconds to
notice, and then another one has to read up on them."""

TRANSACTION_SECONDS = 20
"""How long a killed process may hold up readers of dead letters and its own successor."""

ABORT_SECONDS = 2

RETRY_MILLIS = 20
"""Pause before a request of a transaction is tried again. The broker refuses the first one for some milliseconds after
each transaction, while it writes the end of that; the client's own pause is five times as long. Java's is as this."""

MAX_VALUE_BYTES = 12 * 1024 * 1024
"""A value up to this fits into MAX_DEAD_LETTER_BYTES also where it cannot be compressed; of a larger one only its size
and digest are kept."""

SMALL_VALUE_BYTES = 64 * 1024
"""Where the topic takes less than we ask for, values up to this are kept all the same."""

PUT_OUT = (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    InvalidProducerEpochError,
    InvalidTxnStateError,
    ProducerFencedError,
    RebalanceInProgressError,
    TransactionAbortableError,
    TransactionAbortedError,
    UnknownMemberIdError,
    UnknownProducerIdError,
)
"""What a member meets that was silent for too long: its group has given its partitions away, or the broker has ended
its transaction. Nothing was committed; it may begin again."""

_PREFIX = "__connect.errors."


@dataclass(frozen=True)
class DeadLetter:
    """Raw key and value of a refused message, and its headers."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def dead_letter(key: bytes | None, value: bytes | None, headers: Headers) -> DeadLetter:
    """A letter, without its value where that cannot fit into the topic."""
    # The client sends no message without key and value.
    letter = DeadLetter(key=b"" if key is None and value is None else key, value=value, headers=headers)
    return without_value(letter) if value is not None and len(value) > MAX_VALUE_BYTES else letter


def without_value(letter: DeadLetter) -> DeadLetter:
    """The letter with the size and SHA-256 of its value, in headers `size` and `sha256`, in place of the value."""
    value = letter.value or b""
    measures = [("size", str(len(value)).encode()), ("sha256", hashlib.sha256(value).hexdigest().encode())]
    return DeadLetter(key=letter.key or b"", value=None, headers=[*letter.headers, *measures])


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

    So a dead letter is there exactly once for readers of committed messages, also when the process is killed
    between the two, is paused, or when its partitions have meanwhile gone to another member of the group.

    A producer is thrown away after each transaction that did not end well: kafka-python 3.0.12 keeps the offsets of an
    aborted transaction and commits them with the next one, which skips their messages for good.
    """

    def __init__(self, settings: Settings, *, topic: str = DEAD_LETTERS_TOPIC) -> None:
        self._settings = settings
        self._topic = topic
        self._producer: Any = None  # pyright's stubs describe kafka-python 2
        self._opening: Future[Any] | None = None

    def prepare(self) -> None:
        """Connect in the background, so that `commit` need not wait for it: call it once a letter is sure to come."""
        if self._producer is None and self._opening is None:
            opener = ThreadPoolExecutor(1, thread_name_prefix="dead-letters")
            self._opening = opener.submit(self._open)
            opener.shutdown(wait=False)  # its thread ends when this is done

    def commit(
        self,
        letters: Sequence[DeadLetter],
        offsets: dict[TopicPartition, OffsetAndMetadata],
        membership: Any,
    ) -> None:
        """Write the letters and commit the offsets, both or neither.

        Args:
            letters: what to write.
            offsets: the next offset of each partition.
            membership: the group's metadata under which the messages were polled; the broker refuses an old one.

        Raises:
            kafka.errors.CommitFailedError: neither happened, because the member or its producer was put out.
            kafka.errors.KafkaError, MetersError: neither happened, or the broker's word is missing: the group's
                offsets, asked again, say which.
        """
        try:
            try:
                self._commit(letters, offsets, membership)
            except MessageSizeTooLargeError:
                self._discard()
                small = [
                    without_value(each) if len(each.value or b"") > SMALL_VALUE_BYTES else each for each in letters
                ]
                try:
                    self._commit(small, offsets, membership)
                except MessageSizeTooLargeError as error:
                    raise MessageSizeTooLargeError(
                        f"{self._topic} takes no dead letter of this size, its max.message.bytes is too small"
                    ) from error
        except PUT_OUT as error:
            self._discard()
            raise CommitFailedError(f"{type(error).__name__}: {error}") from error
        except BaseException:
            self._discard()
            raise

    def _commit(
        self, letters: Sequence[DeadLetter], offsets: dict[TopicPartition, OffsetAndMetadata], membership: Any
    ) -> None:
        producer = self._take()
        producer.begin_transaction()
        futures = [
            producer.send(self._topic, key=letter.key, value=letter.value, headers=list(letter.headers))
            for letter in letters
        ]
        producer.flush()
        for future in futures:
            if not future.succeeded():
                raise future.exception
        producer.send_offsets_to_transaction(offsets, membership)
        producer.commit_transaction()

    def _take(self) -> Any:
        if self._producer is None:
            opening, self._opening = self._opening, None
            self._producer = opening.result() if opening else self._open()
        return self._producer

    def _open(self) -> Any:
        # A fresh id each time: stale instances are fenced by the consumer group's generation (KIP-447).
        producer: Any = open_producer(
            self._settings,
            transactional_id=f"dead-letters-{uuid.uuid4()}",
            block_seconds=COORDINATOR_SECONDS,
            transaction_timeout_ms=TRANSACTION_SECONDS * 1000,
            compression_type="zstd",
            max_request_size=MAX_UNCOMPRESSED_BYTES,
            retry_backoff_ms=RETRY_MILLIS,
        )
        try:
            producer.init_transactions()
            producer.partitions_for(self._topic)  # asked for now, the first letter need not wait for it
        except BaseException:
            producer.close(timeout=0)
            raise
        return producer

    def _discard(self) -> None:
        """End the transaction, so that readers need not wait for its timeout, and never use its producer again."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(Exception):  # it may be fenced, or its broker may not answer
                producer.abort_transaction()
            with suppress(Exception):
                producer.close(timeout=ABORT_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        if self._opening is not None:
            with suppress(Exception):  # nobody needs it any more
                self._take()
        if self._producer is not None:
            self._producer.close()
