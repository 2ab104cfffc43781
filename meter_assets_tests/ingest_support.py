"""What the tests of ingest share: topics, a group and a database of their own, and an account of what is in them."""

import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import (
    KafkaAdminClient,
    MemberToRemove,  # pyright: ignore[reportAttributeAccessIssue] (its stubs are of kafka-python 2)
)
from kafka.structs import TopicPartition

import streaming.ingest.member
from meter_assets_tests.support import read_topic, wait_for
from metering.reading import encode_message
from metering.settings import Settings
from metering.store import READINGS, ensure_collections
from runtime.database import connect
from streaming.ingest.batch import READINGS_FEED, Counts, Feed
from streaming.ingest.member import Ingest
from streaming.kafka.clients import Sender, ensure_topics, open_consumer, open_producer, partitions_of

PREFIX = "__connect.errors."
REPOSITORY = Path(__file__).parent.parent
CONFLICTING = 999.0
GARBAGE = b"garbage"
LEVELS = ("read_committed", "read_uncommitted")
SETTLED_SECONDS = 60
"""A killed member's open transaction is ended by the broker: after TRANSACTION_SECONDS, and it looks every ten."""

Message = tuple[str | None, bytes | None]


def electricity(device: str, second: int, usage_kwh: float = 1.5) -> Message:
    """A good message; another `usage_kwh` makes it a conflict with the first one."""
    minutes, rest = divmod(second, 60)
    hours, minutes = divmod(minutes, 60)
    timestamp = f"2024-05-{1 + hours // 24:02}T{hours % 24:02}:{minutes:02}:{rest:02}Z"
    return device, encode_message({"device_id": device, "timestamp": timestamp, "usage_kwh": usage_kwh})


def header(record: Any, name: str) -> str:
    """One header of a dead letter; fails when there is not exactly one of that name."""
    (value,) = [value for key, value in record.headers if key == name]
    return value.decode()


def source(record: Any) -> tuple[str, int, int]:
    """Where a dead letter came from, as its headers tell."""
    topic, partition, offset = (header(record, PREFIX + name) for name in ("topic", "partition", "offset"))
    return topic, int(partition), int(offset)


@dataclass(frozen=True)
class Pipe:
    """One test's own way from Kafka to MongoDB."""

    settings: Settings
    feed: Feed
    dead_letters_topic: str

    @classmethod
    def fresh(cls, settings: Settings) -> Self:
        """With names that nobody else uses; the source topic and the collections exist."""
        own = uuid.uuid4().hex[:8]
        feed = replace(READINGS_FEED, topics=(f"ingest-{own}",), group=f"ingest-{own}")
        ensure_topics(settings, feed.topics[0])
        database = connect(settings)
        with database.client:
            ensure_collections(database)
        return cls(settings, feed, f"ingest-{own}-dlq")

    def send(self, messages: Iterable[Message]) -> None:
        """Put messages on the topic."""
        with Sender(self.settings, self.feed.topics[0]) as sender:
            for key, value in messages:
                sender.send(value, key=None if key is None else key.encode())

    def new_ingest(self, notice: Callable[[str], None] = lambda line: None) -> Ingest:
        """A member of the group, not yet running."""
        return Ingest(self.settings, feed=self.feed, dead_letters_topic=self.dead_letters_topic, notice=notice)

    def ingest(self) -> Counts:
        """Ingest in this process until everything is committed."""
        return self.new_ingest().run(until_caught_up=True)

    @contextmanager
    def member(self, *, until_caught_up: bool, die_instead_of: str = "") -> Iterator["Member"]:
        """A member of the group in a process of its own; killed at the end of the block if it still runs.

        Args:
            until_caught_up: as for `Ingest.run`.
            die_instead_of: a method of its Kafka producer, or a function of ingest's member, in whose place the
                process kills itself.
        """
        process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-c",
                    "import sys; from meter_assets_tests.ingest_support import main; main(*sys.argv[1:])",
                ),
                *(self.settings.model_dump_json(), self.feed.topics[0], self.feed.group, self.dead_letters_topic),
                *(str(int(until_caught_up)), die_instead_of),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Member(process)
        finally:
            process.kill()
            process.communicate()

    def stored(self) -> dict[str, dict[str, Any]]:
        """What is in MongoDB, by `_id`."""
        database = connect(self.settings)
        with database.client:
            return {document["_id"]: document for document in database[READINGS].find()}

    def stored_count(self) -> int:
        """How much is in MongoDB."""
        database = connect(self.settings)
        with database.client:
            return database[READINGS].count_documents({})

    def sent(self) -> list[Any]:
        """What is on the source topic, each partition in its order."""
        return read_topic(self.settings, self.feed.topics[0])

    def letters(self) -> list[Any]:
        """The committed dead letters."""
        return read_topic(self.settings, self.dead_letters_topic)

    def reasons(self) -> Counter[str]:
        """How many committed dead letters there are for each reason."""
        return Counter(header(letter, "reason") for letter in self.letters())

    def settled(self) -> bool:
        """Is every transaction of dead letters decided? Readers see no further than the first one that is not."""
        consumers = [KafkaConsumer(bootstrap_servers=self.settings.kafka, isolation_level=level) for level in LEVELS]
        try:
            visible, written = (each.end_offsets(partitions_of(each, self.dead_letters_topic)) for each in consumers)
            return visible == written
        finally:
            for each in consumers:
                each.close()

    def committed(self) -> int:
        """How many messages the group has committed, over all partitions."""
        consumer = open_consumer(self.settings, group=self.feed.group)
        try:
            return sum(consumer.committed(each) or 0 for each in partitions_of(consumer, *self.feed.topics))
        finally:
            consumer.close()

    def ends(self) -> dict[TopicPartition, int]:
        """Where each partition of the source topic ends; markers count."""
        consumer: Any = KafkaConsumer(bootstrap_servers=self.settings.kafka)
        try:
            return consumer.end_offsets(partitions_of(consumer, *self.feed.topics))
        finally:
            consumer.close()

    def remove_all_but(self, left: int) -> int:
        """Have Kafka remove all but the newest messages of each partition, as retention does; how many it was."""
        upto = {tp: max(0, end - left) for tp, end in self.ends().items()}
        admin: Any = KafkaAdminClient(bootstrap_servers=self.settings.kafka)
        try:
            admin.delete_records(upto)
        finally:
            admin.close()
        return sum(upto.values())

    def forget_dead_members(self) -> None:
        """Have the broker do now what it does by itself when its timeouts for members and transactions are over."""
        admin: Any = KafkaAdminClient(bootstrap_servers=self.settings.kafka)
        try:
            group = admin.describe_groups([self.feed.group])[self.feed.group]
            members = [MemberToRemove(member_id=member["member_id"]) for member in group["members"]]
            if members:
                admin.remove_group_members(self.feed.group, members)
            listed = admin.list_transactions(state_filters=["Ongoing"])
        finally:
            admin.close()
        for transaction in (each for of_broker in listed.values() for each in of_broker):
            name = transaction.transactional_id
            if name.startswith("dead-letters-"):
                producer = open_producer(self.settings, transactional_id=name)
                producer.init_transactions()
                producer.close()

    def check_conservation(self, counts: Counts) -> None:
        """Assert that counts, MongoDB and the dead letters are one account of all that was sent to this fresh pipe."""
        assert counts.messages == len(self.sent())
        assert counts.messages == counts.stored + counts.duplicates + counts.dead_letters
        assert counts.stored == self.stored_count()
        assert counts.reasons == self.reasons()
        assert counts.conflicts == counts.reasons["conflict"]
        assert self.committed() == counts.messages


@dataclass(frozen=True)
class Member:
    """A process that ingests."""

    process: subprocess.Popen[str]

    def ended(self) -> bool:
        """Has it come to an end, in whatever way?"""
        return self.process.poll() is not None

    def terminate(self) -> None:
        """Ask it to drain."""
        self.process.send_signal(signal.SIGTERM)

    def finish(self, timeout_seconds: float = 120) -> Counts:
        """Wait for its end in order and return what it says it did."""
        out, errors = self.process.communicate(timeout=timeout_seconds)
        assert self.process.returncode == 0, errors
        assert errors == ""
        return Counts(**{**json.loads(out), "reasons": Counter(json.loads(out)["reasons"])})


def mixed(readings: int, chance: random.Random) -> Iterator[Message]:
    """Readings of 50 meters, some sent again at once or later, some followed by a conflict or by garbage."""
    sent: list[Message] = []
    for number in range(readings):
        message = electricity(f"em{number % 50}", number // 50)
        yield message
        sent.append(message)
        dice = chance.random()
        if dice < 0.05:
            yield message
        elif dice < 0.1:
            yield sent[chance.randrange(len(sent))]
        elif dice < 0.13:
            yield electricity(f"em{number % 50}", number // 50, usage_kwh=CONFLICTING)
        elif dice < 0.16:
            yield f"em{number % 50}", GARBAGE + str(number).encode()


def check_nothing_lost(pipe: Pipe) -> None:
    """Each reading is stored once, each bad message is exactly once among the committed dead letters."""
    readings: set[str] = set()
    bad: set[tuple[str, int, int]] = set()
    sent = pipe.sent()
    for record in sent:
        if record.value.startswith(GARBAGE) or b'"usage_kwh":999.0' in record.value:
            bad.add((record.topic, record.partition, record.offset))
        else:
            fields = record.value.decode().split('"')
            readings.add(f"{fields[7]}|{fields[3]}")
    stored = pipe.stored()
    assert set(stored) == readings
    assert CONFLICTING not in {document["usage_kwh"] for document in stored.values()}
    wait_for(pipe.settled, SETTLED_SECONDS, "dead letters are decided")
    letters = [source(letter) for letter in pipe.letters()]
    assert Counter(letters) == Counter(bad)
    assert pipe.committed() == len(sent)


def main(
    settings: str, topic: str, group: str, dead_letters_topic: str, until_caught_up: str, die_instead_of: str
) -> None:
    """The process of a Member."""
    if die_instead_of:
        owner = KafkaProducer if hasattr(KafkaProducer, die_instead_of) else streaming.ingest.member
        setattr(owner, die_instead_of, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    feed = replace(READINGS_FEED, topics=(topic,), group=group)
    ingest = Ingest(Settings.model_validate_json(settings), feed=feed, dead_letters_topic=dead_letters_topic)
    signal.signal(signal.SIGTERM, lambda *_: ingest.stop())
    counts = ingest.run(until_caught_up=bool(int(until_caught_up)))
    print(json.dumps(vars(counts)))
