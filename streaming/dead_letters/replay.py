"""Sends the messages of dead letters again, to the topics that they came from.

An attempt is written to `iot.dead_letters` before its message is sent, so that ingest (replayed.py) recognises it. A
letter whose message Kafka has not acknowledged gets its former state back.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from kafka.errors import KafkaError
from pydantic import ValidationError
from pymongo import UpdateOne
from pymongo.database import Database

from metering.errors import MetersError
from metering.letters import Letter, State, read_letters
from metering.settings import Settings
from metering.store import DEAD_LETTERS
from streaming.dead_letter_topic import COORDINATOR_SECONDS, MAX_UNCOMPRESSED_BYTES
from streaming.dead_letters.correction import Correction
from streaming.dead_letters.index import DeadLetterIndex
from streaming.ingest.batch import READINGS_FEED, Feed, faults_feed
from streaming.ingest.replayed_letters import NOT_SENT, digest, replay_headers
from streaming.kafka.clients import ANSWER_WITHIN_SECONDS, FLUSH_WITHIN_SECONDS, kafka_errors, open_producer

PAGE_LETTERS = 1000
PAGE_BYTES = 16 * 1024 * 1024
"""A page of letters ends with the one that brings it to this size: their payloads are held in memory."""
LARGE_BYTES = 512 * 1024
"""A larger letter is sent by itself, because the broker may find it too large."""


@dataclass(frozen=True)
class Skipped:
    """A letter that was not sent, and why not."""

    letter: str
    why: str


@dataclass(frozen=True)
class Planned:
    """A message that is ready to be sent again.

    Args:
        verdict: what ingest would refuse in it, by a look at the message alone; None where it is one that ingest takes.
    """

    letter: Letter
    topic: str
    key: bytes | None
    value: bytes | None
    verdict: str | None

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self.key or b"") + len(self.value or b"")


@dataclass
class ReplayOutcome:
    """What a replay of letters did."""

    sent: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


class LetterReplay:
    """Plans and sends.

    Args:
        settings: where Kafka is.
        database: holds the index of letters.
        index: finds payloads.
        by: who sends, for the record.
        why: the reason, for the record.
        take: may the messages replace readings that they contradict?
        correction: what to change in each payload.
        feeds: what ingest reads: letters from other topics are not sent.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        index: DeadLetterIndex,
        *,
        by: str,
        why: str = "",
        take: bool = False,
        correction: Correction | None = None,
        feeds: Sequence[Feed] | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._index = index
        self._by = by
        self._why = why
        self._may_take = take
        self._correction = correction or Correction()
        chosen = (READINGS_FEED, faults_feed(settings)) if feeds is None else feeds
        self._feeds = {topic: feed for feed in chosen for topic in feed.topics}

    def plan(self, ids: Sequence[str]) -> Iterator[Planned | Skipped]:
        """What would be sent for each letter, one at a time; changes nothing."""
        for start in range(0, len(ids), PAGE_LETTERS):
            for letter in read_letters(self._database, ids[start : start + PAGE_LETTERS]):
                try:
                    yield self._plan(letter)
                except MetersError as error:
                    yield Skipped(letter["_id"], error.message)

    def send(self, ids: Sequence[str], on_progress: Callable[[int], None] | None = None) -> ReplayOutcome:
        """Send the letters' messages again; returns once Kafka has acknowledged each or not.

        Args:
            ids: of the letters, in the order in which they are sent.
            on_progress: called after each page with the letters done so far.

        Raises:
            MetersError: Kafka does not answer; letters of finished pages are sent, the others as they were.
        """
        outcome = ReplayOutcome()
        page: list[Planned] = []

        def send_page() -> None:
            if page:
                self._send_page(page, outcome)
                page.clear()
            if on_progress:
                on_progress(len(outcome.sent) + len(outcome.skipped))

        for planned in self.plan(ids):
            if isinstance(planned, Skipped):
                outcome.skipped.append(planned)
                continue
            if planned.size > LARGE_BYTES:
                send_page()
            page.append(planned)
            size = sum(each.size for each in page)
            if len(page) >= PAGE_LETTERS or size >= PAGE_BYTES or planned.size > LARGE_BYTES:
                send_page()
        send_page()
        return outcome

    def _plan(self, letter: Letter) -> Planned:
        if letter["state"] == State.STORED:
            raise MetersError("it is stored already")
        source = letter["source"] or {}
        if "file" in source:
            raise MetersError("it is a row of a file: correct the file and run meters replay on it again")
        feed = self._feeds.get(source.get("topic", ""))
        if feed is None:
            raise MetersError("it came from no topic that ingest reads")
        key, value = self._index.payload(letter)
        value = self._correction.apply(value)
        if isinstance(device := self._correction.fields.get("device_id"), str):
            key = device.encode("utf-8", "replace")  # a message's key is its device_id
        if key is None and value is None:
            raise MetersError("it has neither key nor value, so there is nothing to send")
        return Planned(letter, source["topic"], key, value, _verdict(feed, value))

    def _send_page(self, page: list[Planned], outcome: ReplayOutcome) -> None:
        run = uuid.uuid4().hex
        mine = self._register(page, run)
        waiting: dict[str, Any] = {}
        failed: dict[str, str] = {}
        try:
            # A producer per page: one message that the broker finds too large ends all work of kafka-python's.
            with kafka_errors(self._settings), self._producer() as producer:
                for planned in page:
                    letter = planned.letter["_id"]
                    if letter in mine:
                        headers = list(replay_headers(letter, len(planned.letter["replays"]) + 1))
                        waiting[letter] = producer.send(
                            planned.topic, key=planned.key, value=planned.value, headers=headers
                        )
                    else:
                        outcome.skipped.append(Skipped(letter, "it has changed since: somebody else is at work on it"))
                producer.flush(timeout=FLUSH_WITHIN_SECONDS)
        finally:
            for letter in mine:
                future = waiting.get(letter)
                if future is None or not future.succeeded():
                    failed[letter] = _name(getattr(future, "exception", None))
            self._take_back([each.letter for each in page if each.letter["_id"] in failed], run)
        outcome.sent += [letter for letter in waiting if letter not in failed]
        outcome.skipped += [Skipped(letter, f"Kafka did not take it ({why})") for letter, why in failed.items()]

    @contextmanager
    def _producer(self) -> Iterator[Any]:  # Any: pyright's stubs describe kafka-python 2
        # Sizes as for dead letters: what came in compressed has to get out.
        producer = open_producer(
            self._settings,
            block_seconds=COORDINATOR_SECONDS,
            compression_type="zstd",
            max_request_size=MAX_UNCOMPRESSED_BYTES,
        )
        try:
            yield producer
        finally:
            producer.close(timeout=ANSWER_WITHIN_SECONDS)

    def _register(self, page: list[Planned], run: str) -> set[str]:
        """Write down the attempts; returns the letters that nobody else has changed since they were read."""
        now = datetime.now(UTC)
        operations = []
        for planned in page:
            letter = planned.letter
            attempt = {
                "attempt": len(letter["replays"]) + 1,
                "run": run,
                "at": now,
                "by": self._by,
                "why": self._why,
                "take": self._may_take,
                "correction": self._correction.to_text(),
                "sha256": digest(planned.value),
                "outcome": None,
                "judged_at": None,
                "judged_at_offset": None,
                "reason": None,
                "message": None,
            }
            unchanged = {"_id": letter["_id"], "state": letter["state"], "replays": {"$size": len(letter["replays"])}}
            change = {"state": str(State.REPLAYING), "state_at": now, "dropped": None}
            operations.append(UpdateOne(unchanged, {"$set": change, "$push": {"replays": attempt}}))
        letters = self._database[DEAD_LETTERS]
        letters.bulk_write(operations, ordered=False)
        ids = [planned.letter["_id"] for planned in page]
        return {each["_id"] for each in letters.find({"_id": {"$in": ids}, "replays.run": run}, {"_id": 1})}

    def _take_back(self, letters: list[Letter], run: str) -> None:
        now = datetime.now(UTC)
        operations = []
        for letter in letters:
            sent = {"replays": {"$elemMatch": {"run": run, "outcome": None}}, "_id": letter["_id"]}
            operations.append(UpdateOne(sent, {"$set": {"replays.$.outcome": NOT_SENT}}))
            former = {"state": letter["state"], "state_at": now, "dropped": letter["dropped"]}
            still = {
                "_id": letter["_id"],
                "state": str(State.REPLAYING),
                "replays": {"$size": len(letter["replays"]) + 1},
            }
            operations.append(UpdateOne(still, {"$set": former}))
        if operations:
            self._database[DEAD_LETTERS].bulk_write(operations, ordered=False)


def _verdict(feed: Feed, value: bytes | None) -> str | None:
    if value is None:
        return "it has no value"
    if len(value) > feed.max_bytes:
        return f"{len(value):,} bytes; a message has at most {feed.max_bytes:,}"
    try:
        feed.parse(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return first["msg"].removeprefix("Value error, ")
    return None


def _name(error: Any) -> str:
    return type(error).__name__ if isinstance(error, KafkaError) else "not sent"
