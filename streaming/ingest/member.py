"""Ingest: Kafka to MongoDB with the effect of exactly once.

Fetches messages, has them stored in batches (batch.py), and commits their offsets only after MongoDB and the dead
letters have acknowledged. One thread writes a batch while the main one validates the next; nothing is under way when
the consumer is polled, so a rebalance never finds work that is not committed. What a member commits is bound to the
generation of the group under which it polled.

Where to read on, and what Kafka no longer has, is decided in positions.py; messages that cannot be unpacked come from
../kafka/bounded_client.py.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymongo
from kafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata, TopicPartition
from pymongo.database import Database
from pymongo.errors import PyMongoError

from metering.day_ledger import touch_days
from metering.settings import DEAD_LETTERS_TOPIC, Settings
from metering.store import ensure_collections, keep_timezone
from runtime.database import connect
from runtime.mongo_errors import is_worth_another_try, mongo_unavailable
from streaming.dead_letter_topic import PUT_OUT, DeadLetterTransactions, ensure_dead_letters_topic
from streaming.ingest.batch import READINGS_FEED, Batch, Counts, Feed
from streaming.ingest.positions import Positions, describe_losses
from streaming.ingest.rebalance import Rebalance
from streaming.ingest.service_wait import Patience
from streaming.kafka.bounded_client import bound
from streaming.kafka.clients import (
    LASTING_ERRORS,
    ensure_topics,
    kafka_error,
    kafka_errors,
    open_consumer,
    partitions_of,
)

BATCH_MESSAGES = 5_000
POLL_MESSAGES = 4 * BATCH_MESSAGES
POLL_SECONDS = 0.2
CLOSE_SECONDS = 2
GIVE_UP_SECONDS = 60
"""How long a run with an end waits for a service that does not answer; nothing is committed meanwhile. A run without an
end waits for ever."""

LOOK_SECONDS = 5
"""How often a member without work asks Kafka whether there is none."""

STUCK_SECONDS = 60
"""After so long without a message, although some are there, the member begins again with a new connection."""

METADATA_SECONDS = 30
"""How long a topic that was made again may go unnoticed, where no error reports it."""

COLLECT_AFTER_OBJECTS = 50_000

Polled = dict[TopicPartition, list[Any]]
Result = TypeVar("Result")


class Ingest:
    """One member of the consumer group.

    Args:
        settings: where Kafka and MongoDB are.
        feed: what to ingest.
        dead_letters_topic: where bad input goes.
        notice: gets lines for people: losses, and services that do not answer.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        feed: Feed = READINGS_FEED,
        dead_letters_topic: str = DEAD_LETTERS_TOPIC,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._dead_letters = DeadLetterTransactions(settings, topic=dead_letters_topic)
        self._dead_letters_topic = dead_letters_topic
        self._notice = notice
        self._stop = threading.Event()
        self._rebalance = Rebalance()
        self._progressed_at = 0.0
        self._looked_at = 0.0
        self.counts = Counts()

    def stop(self) -> None:
        """Ask `run` to finish what it has read, commit and return; for signal handlers and other threads."""
        self._stop.set()

    def run(self, *, until_caught_up: bool = False, on_progress: Callable[[Counts, int], None] | None = None) -> Counts:
        """Ingest until `stop`, or until everything that was there at the start is committed.

        Args:
            until_caught_up: return when the group has committed all that the topic held when this began.
            on_progress: called with the counts so far and the backlog at the start, after each batch and while Kafka
                says that there is nothing to do.

        Raises:
            MetersError: Kafka or MongoDB refuses, or does not answer for GIVE_UP_SECONDS in a run that has an end, or
                holds days of another time zone; whatever is not committed is read again next time.
        """
        settings, feed = self._settings, self._feed
        give_up = GIVE_UP_SECONDS if until_caught_up else None
        self._mongo = Patience(self._stop, give_up_seconds=give_up, notice=self._notice)
        self._kafka = Patience(self._stop, give_up_seconds=give_up, notice=self._notice)
        database = connect(settings)
        self._positions = Positions(database, group=feed.group, reader=feed.reader)
        try:
            self._prepare(database)
            with (
                _rare_collections(),
                ThreadPoolExecutor(1, thread_name_prefix="store") as writer,
                kafka_errors(settings),
            ):
                self._open()
                try:
                    self._serve(writer, database, on_progress if on_progress else lambda *_: None, until_caught_up)
                finally:
                    self._consumer.close()
                    self._dead_letters.close()
        finally:
            with (
                suppress(PyMongoError),
                pymongo.timeout(CLOSE_SECONDS),
            ):  # a server that does not answer is not waited for
                self._positions.flush()
                database.client.close()
        return self.counts

    def _prepare(self, database: Database) -> None:
        try:
            ensure_collections(database)
            keep_timezone(database, self._settings.timezone)
        except PyMongoError as error:
            raise mongo_unavailable(self._settings, error) from error
        ensure_topics(self._settings, *self._feed.topics)
        ensure_dead_letters_topic(self._settings, self._dead_letters_topic)

    def _open(self) -> None:
        # Any: pyright's stubs describe kafka-python 2.
        self._consumer: Any = open_consumer(
            self._settings,
            group=self._feed.group,
            max_poll_records=POLL_MESSAGES,
            auto_offset_reset="none",  # positions.py says where to read on, and what is lost by it
            metadata_max_age_ms=METADATA_SECONDS * 1000,
        )
        bound(self._consumer)
        self._consumer.subscribe(list(self._feed.topics), listener=self._rebalance)
        self._progressed_at = self._looked_at = time.monotonic()

    def _serve(
        self, writer: Executor, database: Database, on_progress: Callable[[Counts, int], None], until_caught_up: bool
    ) -> None:
        goal = self._end_offsets()
        backlog = self._left(goal)
        while not self._stop.is_set():
            try:
                polled, membership = self._poll()
                if polled and not self._commit(polled, membership, self._store(writer, database, polled)):
                    self._rebalance.is_over = True  # read on from what is committed
                    continue
                if polled:
                    self._progressed_at = time.monotonic()
                elif membership is None or not self._is_idle():
                    continue
                self._kafka.succeeded()
                on_progress(self.counts, backlog)
                if until_caught_up and not polled:
                    self._commit_gaps()
                    if not self._left(goal):
                        return
            except PUT_OUT:
                self._rebalance.is_over = True
            except KafkaError as error:
                if isinstance(error, LASTING_ERRORS):
                    raise
                self._rebalance.is_over = True
                self._kafka.failed(kafka_error(self._settings, error))

    def _poll(self) -> tuple[Polled, Any]:
        """Messages, and the membership under which they were polled; no messages and None: they are not ours to store.

        While the group rebalances, the client goes on giving messages of the old partitions. They could not be
        committed, and while they are being stored the client does not go on with joining, so that the group waits for
        this member or gives it up.
        """
        before = self._consumer.group_metadata()
        try:
            polled = self._consumer.poll(timeout_ms=int(POLL_SECONDS * 1000))
        except (OffsetOutOfRangeError, NoOffsetForPartitionError):
            self._rebalance.is_over = True
            polled = {}
        if self._rebalance.is_under_way:
            return {}, None
        membership = self._consumer.group_metadata()
        if self._rebalance.is_over or not self._positions.is_of(self._consumer):
            self._take_up()
            return {}, None
        # A member without a generation never commits: the broker would not refuse it.
        if membership != before or membership.generation_id < 0 or not membership.member_id:
            self._rebalance.is_over = self._rebalance.is_over or bool(polled)
            return {}, None
        return polled, membership

    def _take_up(self) -> None:
        """Read on from what is committed: what was not committed is read, judged and counted again."""
        lost = self._patiently(lambda: self._positions.take_up(self._consumer))
        self._rebalance.is_over = False
        if lost:
            self.counts.lost = self._positions.lost
            self._notice(describe_losses(lost))

    def _is_idle(self) -> bool:
        """Does Kafka answer, and say that there is nothing to do? Asked only now and then.

        A member that gets no messages although there are some has lost its way in the client: it opens another one.
        """
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS:
            return True
        self._looked_at = now
        partitions = partitions_of(self._consumer, *self._feed.topics)
        if not partitions:
            ensure_topics(self._settings, *self._feed.topics)
        ends = self._consumer.end_offsets(partitions, timeout_ms=LOOK_SECONDS * 1000)
        assigned = self._consumer.assignment()
        if all(ends[tp] <= (self._consumer.position(tp) or 0) for tp in assigned if tp in ends):
            self._progressed_at = now
            return True
        if now - self._progressed_at > STUCK_SECONDS:
            self._notice(f"No message came for {STUCK_SECONDS} s although some are there; connecting to Kafka again")
            self._consumer.close()
            self._open()
        return False

    def _end_offsets(self) -> dict[TopicPartition, int]:
        return self._consumer.end_offsets(partitions_of(self._consumer, *self._feed.topics))

    def _left(self, goal: dict[TopicPartition, int]) -> int:
        first = self._consumer.beginning_offsets(list(goal))
        end = self._consumer.end_offsets(list(goal))  # lower than the goal for a topic that was made again
        left = (min(end[tp], to) - max(self._consumer.committed(tp) or 0, first[tp]) for tp, to in goal.items())
        return sum(max(0, messages) for messages in left)

    def _store(self, writer: Executor, database: Database, polled: Polled) -> list[Batch]:
        records = [record for of_partition in polled.values() for record in of_partition]
        stored: list[Batch] = []
        writing: Future[Batch] | None = None
        for start in range(0, len(records), BATCH_MESSAGES):
            batch = Batch(self._feed, records[start : start + BATCH_MESSAGES], is_settled=self._positions.is_settled)
            # Never more than one with the writer: when one fails, none waits behind it to fail as slowly.
            if writing:
                stored.append(writing.result())
                if stored[-1].letters:
                    self._dead_letters.prepare()
            writing = writer.submit(self._store_batch, database, batch)
        if writing:
            stored.append(writing.result())
        return stored

    def _store_batch(self, database: Database, batch: Batch) -> Batch:
        self._patiently(lambda: batch.store(database[self._feed.collection]))
        self._patiently(lambda: batch.settle(database[self._feed.collection]))
        if self._feed.makes_days and batch.touched:
            # After the readings are acknowledged: who reads the count before them finds it grown. Who dies in between
            # has not committed, and the same messages, read again, touch the same days.
            minutes = (datetime.fromisoformat(f"{minute}Z") for minute in batch.touched)
            days = {minute.astimezone(self._settings.zone).date() for minute in minutes}
            self._patiently(lambda: touch_days(database, days, datetime.now(UTC)))
        return batch

    def _patiently(self, use_mongo: Callable[[], Result]) -> Result:
        while True:
            try:
                result = use_mongo()
            except PyMongoError as error:
                failure = mongo_unavailable(self._settings, error)
                if not is_worth_another_try(error):
                    raise failure from error
                self._mongo.failed(failure)
            else:
                self._mongo.succeeded()
                return result

    def _commit(self, polled: Polled, membership: Any, batches: list[Batch]) -> bool:
        """Commit what was polled, with its dead letters; False when it is no longer ours to commit."""
        offsets = {tp: OffsetAndMetadata(records[-1].offset + 1, "", -1) for tp, records in polled.items()}
        letters = [letter for batch in batches for letter in batch.letters]
        if not self._holds(membership):
            return False
        ends = {tp: end for tp in offsets if (end := self._consumer.highwater(tp)) is not None}
        self._patiently(lambda: self._positions.store(offsets, ends))
        if letters:
            self._dead_letters.commit(letters, offsets, membership)
        elif self._holds(membership):
            self._consumer.commit(offsets)
        else:
            return False
        self._positions.settle(offsets)
        for batch in batches:
            self.counts.add(batch.counts)
        return True

    def _holds(self, membership: Any) -> bool:
        """Is this still the member, of the same generation, that has polled?"""
        return self._consumer.group_metadata() == membership and not self._rebalance.is_under_way

    def _commit_gaps(self) -> None:
        """Commit past offsets without a message, like a transaction's end marker: nobody would ever reach the goal."""
        gaps: dict[TopicPartition, OffsetAndMetadata] = {}
        for tp in self._consumer.assignment():
            position = self._consumer.position(tp) or 0
            if position > (self._consumer.committed(tp) or 0):
                gaps[tp] = OffsetAndMetadata(position, "", -1)
        if gaps:
            self._patiently(lambda: self._positions.store(gaps, {}))
            self._consumer.commit(gaps)
            self._positions.settle(gaps)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Have Python seldom look for cycles: a batch is many objects without any, and it would look after every 700."""
    before = gc.get_threshold()
    gc.freeze()  # nor among what has been there from the start
    gc.set_threshold(COLLECT_AFTER_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
