"""Ingest: Kafka to MongoDB with the effect of exactly once.

Fetches messages, has them stored in batches (batch.py), and commits their offsets only after MongoDB and the dead
letters have acknowledged. One thread writes a batch while the main one validates the next; nothing is under way when
the consumer is polled, so a rebalance never finds work that is not committed.
"""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pymongo
from kafka import ConsumerRebalanceListener
from kafka.errors import CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError
from kafka.structs import OffsetAndMetadata, TopicPartition
from pymongo.database import Database
from pymongo.errors import AutoReconnect, PyMongoError

from metering.local_days import touch_days
from metering.settings import DEAD_LETTERS_TOPIC, Settings
from metering.store import connect, ensure_collections, keep_timezone, mongo_unavailable
from streaming.batch import READINGS_FEED, Batch, Counts, Feed
from streaming.dead_letters import DeadLetterTransactions, ensure_dead_letters_topic
from streaming.kafka import ensure_topics, kafka_errors, open_consumer, partitions_of

BATCH_MESSAGES = 5_000
POLL_MESSAGES = 4 * BATCH_MESSAGES
POLL_SECONDS = 0.2
CLOSE_SECONDS = 2
MONGO_AWAY_SECONDS = 60
"""How long a batch waits for a MongoDB that went away before ingest gives up; nothing is committed meanwhile."""

COLLECT_AFTER_OBJECTS = 50_000

LOST_PARTITIONS = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
"""The group gave this member's partitions to another one, or is about to."""

Polled = dict[TopicPartition, list[Any]]


class Ingest:
    """One member of the consumer group.

    Args:
        settings: where Kafka and MongoDB are.
        feed: what to ingest.
        dead_letters_topic: where bad input goes.
    """

    def __init__(
        self, settings: Settings, *, feed: Feed = READINGS_FEED, dead_letters_topic: str = DEAD_LETTERS_TOPIC
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._dead_letters_topic = dead_letters_topic
        self._dead_letters: DeadLetterTransactions | None = None
        self._stop = threading.Event()
        self._rebalance = _Rebalance()
        self.counts = Counts()

    def stop(self) -> None:
        """Ask `run` to finish what it has read, commit and return; for signal handlers and other threads."""
        self._stop.set()

    def run(self, *, until_caught_up: bool = False, on_progress: Callable[[Counts, int], None] | None = None) -> Counts:
        """Ingest until `stop`, or until everything that was there at the start is committed.

        Args:
            until_caught_up: return when the group has committed all that the topic held when this began.
            on_progress: called after each batch with the counts so far and the backlog at the start.

        Raises:
            MetersError: Kafka or MongoDB is away, or holds days of another time zone; whatever is not committed is read
                again next time.
        """
        database = connect(self._settings)
        ensure_collections(database)
        keep_timezone(database, self._settings.timezone)
        ensure_topics(self._settings, *self._feed.topics)
        ensure_dead_letters_topic(self._settings, self._dead_letters_topic)
        # Any: pyright's stubs describe kafka-python 2.
        self._consumer: Any = open_consumer(self._settings, group=self._feed.group, max_poll_records=POLL_MESSAGES)
        try:
            with (
                _rare_collections(),
                ThreadPoolExecutor(1, thread_name_prefix="store") as writer,
                kafka_errors(self._settings),
            ):
                goal = self._end_offsets()
                backlog = self._left(goal)
                self._consumer.subscribe(list(self._feed.topics), listener=self._rebalance)
                while not self._stop.is_set():
                    polled = self._consumer.poll(timeout_ms=int(POLL_SECONDS * 1000))
                    if self._in_rebalance():
                        continue
                    if polled and not self._commit(polled, self._store(writer, database, polled)):
                        self._rewind()
                    if on_progress:
                        on_progress(self.counts, backlog)
                    if until_caught_up and not polled:
                        self._commit_gaps()
                        if not self._left(goal):
                            break
        finally:
            self._consumer.close()
            if self._dead_letters:
                self._dead_letters.close()
            with pymongo.timeout(CLOSE_SECONDS):  # it takes leave of the server, and waits long for one that is away
                database.client.close()
        return self.counts

    def _in_rebalance(self) -> bool:
        """Does the group share its partitions out anew? Then what was polled is not ours to store.

        The client goes on giving messages of the old partitions. They could not be committed, and while they are being
        stored the client does not go on with joining, so that the group waits for this member or gives it up.
        """
        if self._rebalance.is_over:
            self._rebalance.is_over = False
            self._rewind()  # before what was polled and left
            return True
        return self._rebalance.is_under_way

    def _end_offsets(self) -> dict[TopicPartition, int]:
        return self._consumer.end_offsets(partitions_of(self._consumer, *self._feed.topics))

    def _left(self, goal: dict[TopicPartition, int]) -> int:
        first = self._consumer.beginning_offsets(list(goal))
        left = (end - max(self._consumer.committed(tp) or 0, first[tp]) for tp, end in goal.items())
        return sum(max(0, messages) for messages in left)

    def _store(self, writer: Executor, database: Database, polled: Polled) -> list[Batch]:
        records = [record for of_partition in polled.values() for record in of_partition]
        stored: list[Batch] = []
        writing: Future[Batch] | None = None
        for start in range(0, len(records), BATCH_MESSAGES):
            batch = Batch(self._feed, records[start : start + BATCH_MESSAGES])
            # Never more than one with the writer: when one fails, none waits behind it to fail as slowly.
            if writing:
                stored.append(writing.result())
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

    def _patiently(self, write: Callable[[], None]) -> None:
        give_up_at = time.monotonic() + MONGO_AWAY_SECONDS
        while True:
            try:
                write()
                return
            except AutoReconnect as error:
                if time.monotonic() > give_up_at or self._stop.is_set():
                    raise mongo_unavailable(self._settings, error) from error
                self._stop.wait(0.5)
            except PyMongoError as error:
                raise mongo_unavailable(self._settings, error) from error

    def _commit(self, polled: Polled, batches: list[Batch]) -> bool:
        """Commit what was polled, with its dead letters; False when it is no longer ours to commit."""
        offsets = {tp: OffsetAndMetadata(records[-1].offset + 1, "", -1) for tp, records in polled.items()}
        letters = [letter for batch in batches for letter in batch.letters]
        try:
            if letters:
                if self._dead_letters is None:
                    self._dead_letters = DeadLetterTransactions(self._settings, topic=self._dead_letters_topic)
                self._dead_letters.commit(letters, offsets, self._consumer.group_metadata())
            else:
                self._consumer.commit(offsets)
        except LOST_PARTITIONS:
            return False
        for batch in batches:
            self.counts.add(batch.counts)
        return True

    def _commit_gaps(self) -> None:
        """Commit past offsets without a message, like a transaction's end marker: nobody would ever reach the goal."""
        gaps: dict[TopicPartition, OffsetAndMetadata] = {}
        for tp in self._consumer.assignment():
            position = self._consumer.position(tp) or 0
            if position > (self._consumer.committed(tp) or 0):
                gaps[tp] = OffsetAndMetadata(position, "", -1)
        if gaps:
            try:
                self._consumer.commit(gaps)
            except LOST_PARTITIONS:
                self._rewind()

    def _rewind(self) -> None:
        """Read on from what is committed: what was not committed is read, judged and counted again."""
        for tp in self._consumer.assignment():
            committed = self._consumer.committed(tp)
            if committed is None:
                self._consumer.seek_to_beginning(tp)
            else:
                self._consumer.seek(tp, committed)


class _Rebalance(ConsumerRebalanceListener):
    """Where the group's sharing out of its partitions stands, as the client tells it."""

    def __init__(self) -> None:
        self.is_under_way = False
        self.is_over = False

    def on_partitions_revoked(self, revoked: Any) -> None:
        self.is_under_way = True

    def on_partitions_assigned(self, assigned: Any) -> None:
        self.is_under_way, self.is_over = False, True


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
