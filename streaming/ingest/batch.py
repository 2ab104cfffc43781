"""One batch of messages: validate, store, and say of each message what became of it.

Every message ends in exactly one of `stored`, `duplicates`, `conflicts` or `refused`. Fetching and committing
batches is done in member.py.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

from pydantic import ValidationError
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure

from metering.fault_event import MAX_EVENT_BYTES, fault_document, parse_fault_event
from metering.meter_types import METER_TYPES
from metering.reading import MAX_MESSAGE_BYTES, parse_reading, to_document
from metering.settings import READINGS_TOPIC, Settings
from metering.store import FAULTS, READINGS, find_by_id
from streaming.dead_letter_topic import DeadLetter, dead_letter, dead_letter_headers
from streaming.ingest.replayed_letters import Replayed
from streaming.kafka.bounded_client import PutAside

DUPLICATE_KEY = 11000
DOCUMENT_VALIDATION_FAILURE = 121

MINUTE = len("2024-05-27T15:57")
"""Local days begin at whole minutes. Text, because the hash of an instant with a zone takes Python a microsecond."""


@dataclass(frozen=True)
class Feed:
    """What is ingested: from which topics, into which collection, and how a message becomes a document.

    Args:
        reader: its name in `iot.lost_messages`.
        parse: raises pydantic.ValidationError for a message that is not one.
        stamp: field with the time of this storing, which two copies of a message need not share, and how a record
            gives it.
        max_bytes: longer messages are refused unread.
        conflicts: is a second message with the same identity and another payload refused? Otherwise a duplicate.
        makes_days: are its documents what days are computed from?
    """

    topics: tuple[str, ...]
    collection: str
    group: str
    reader: str
    parse: Callable[[bytes], dict[str, Any]]
    stamp: tuple[str, Callable[[Any], datetime]]
    max_bytes: int = MAX_MESSAGE_BYTES
    conflicts: bool = True
    makes_days: bool = False


def _arrival(record: Any) -> datetime:
    # The broker's clock, not ours: the rules judge a meter's clock by it, and a second attempt says the same.
    return _from_millis(record.timestamp)


LATEST_MILLIS = 253_402_300_799_999
"""The end of the year 9999: where a topic has the producers' timestamps, they may say anything."""


@lru_cache(maxsize=1024)  # what a producer sends together arrives together
def _from_millis(millis: int) -> datetime:
    return datetime.fromtimestamp(min(max(millis, 0), LATEST_MILLIS) / 1000, UTC)


def _now(_: Any) -> datetime:
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


READINGS_FEED = Feed(
    topics=(READINGS_TOPIC,),
    collection=READINGS,
    group="meters-ingest",
    reader="ingest",
    parse=lambda message: to_document(parse_reading(message)),
    stamp=("received_at", _arrival),
    makes_days=True,
)


def faults_feed(settings: Settings) -> Feed:
    """The router's output. What it says of a reading twice, after a crash or of two copies, is one fault."""
    return Feed(
        topics=settings.fault_topics,
        collection=FAULTS,
        group="meters-ingest-faults",
        reader="ingest-faults",
        parse=lambda message: fault_document(parse_fault_event(message)),
        stamp=("stored_at", _now),
        max_bytes=MAX_EVENT_BYTES,
        conflicts=False,
    )


@dataclass
class Counts:
    """What became of messages; `messages` = stored + duplicates + conflicts + refused.

    `lost` are those that Kafka no longer had, at most; they are not among `messages`.
    """

    messages: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    lost: int = 0
    taken: int = 0
    """Of those stored: replayed letters that have replaced a stored reading."""
    refused_again: int = 0
    """Of those refused: replayed letters, which have made no second letter."""
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def dead_letters(self) -> int:
        """Messages that went to the dead letters."""
        return self.conflicts + self.refused - self.refused_again

    def add(self, other: "Counts") -> None:
        """Add another batch's counts to these."""
        self.messages += other.messages
        self.stored += other.stored
        self.duplicates += other.duplicates
        self.conflicts += other.conflicts
        self.refused += other.refused
        self.lost += other.lost
        self.taken += other.taken
        self.refused_again += other.refused_again
        self.reasons.update(other.reasons)


class Batch:
    """Messages on their way into the collection.

    Args:
        feed: what they are.
        records: the consumer's records, those of a partition in their order.
        is_settled: was this message read before, with its dead letter, if it got one, committed?
    """

    def __init__(
        self, feed: Feed, records: Sequence[Any], *, is_settled: Callable[[Any], bool] = lambda record: False
    ) -> None:
        self.counts = Counts(messages=len(records))
        self.letters: list[DeadLetter] = []
        self.touched: set[str] = set()
        """Minutes (UTC, as an `_id` begins) of the documents that were stored, by this or an earlier attempt."""
        self._feed = feed
        self._is_settled = is_settled
        # The first reading of each identity, and what else claims to be it; all with the message each came from.
        self._firsts: dict[str, tuple[dict[str, Any], Any]] = {}
        self._repeats: list[tuple[dict[str, Any], Any]] = []
        self._attempts = 0
        self._replayed = Replayed()
        for record in records:
            if not self._replayed.holds(record):
                self._take(record)

    def _take(self, record: Any) -> None:
        feed = self._feed
        value = record.value
        if isinstance(value, PutAside):
            self._put_aside(record, value)
            return
        if value is None:
            self._refuse(record, "empty", "EmptyMessage", "the message has no value")
            return
        if len(value) > feed.max_bytes:
            explanation = f"{len(value)} bytes; a message has at most {feed.max_bytes}"
            self._refuse(record, "too_large", "MessageTooLarge", explanation)
            return
        try:
            document = feed.parse(value)
        except ValidationError as error:
            reason = "invalid_json" if error.errors()[0]["type"] == "json_invalid" else "invalid_reading"
            self._refuse(record, reason, "ValidationError", _describe(error))
            return
        field, stamp = feed.stamp
        document[field] = stamp(record)
        key = document["_id"]
        if key in self._firsts:
            self._repeats.append((document, record))
        else:
            self._firsts[key] = (document, record)

    def store(self, collection: Collection) -> None:
        """Insert what is new, and judge what was seen before.

        After an error it may be called again: what an earlier attempt has stored is recognised as its own.

        Raises:
            pymongo.errors.PyMongoError: MongoDB does not answer, or did not acknowledge.
        """
        for record in self._replayed.release(collection.database):
            self._take(record)
        self._attempts += 1
        # In the order of their keys, which begin with the time. A duplicate makes MongoDB undo an insert of up to 500
        # documents and do it one by one: what comes again is mostly of one time, and stands together so.
        documents = sorted((document for document, _ in self._firsts.values()), key=itemgetter("_id"))
        failures: list[dict[str, Any]] = []
        if documents:
            try:
                collection.insert_many(documents, ordered=False)
            except BulkWriteError as error:
                failures = error.details["writeErrors"]
                _raise_if_unjudged(error)
        kept = self._stored_before(collection, documents, failures)
        counts = self.counts
        counts.stored += len(documents) - len(failures)
        failed = {failure["index"] for failure in failures}
        self.touched.update(each["_id"][:MINUTE] for index, each in enumerate(documents) if index not in failed)
        refused: dict[str, str] = {}
        for failure in failures:
            document, record = self._firsts[documents[failure["index"]]["_id"]]
            if failure["code"] == DOCUMENT_VALIDATION_FAILURE:
                refused[document["_id"]] = str(failure["errmsg"])
                self._refuse_by_database(record, refused[document["_id"]])
            elif self._attempts > 1 and kept[document["_id"]] == document:
                counts.stored += 1  # by an earlier attempt at this batch
                self.touched.add(document["_id"][:MINUTE])
            else:
                self._judge(document, record, kept[document["_id"]])
        for document, record in self._repeats:
            key = document["_id"]
            if key in refused:  # nothing is stored that it could repeat
                self._refuse_by_database(record, refused[key])
            else:
                self._judge(document, record, kept.get(key) or self._firsts[key][0])

    def settle(self, collection: Collection) -> None:
        """Finish replayed letters, after `store` and before days are touched; may be called again like it."""
        self._replayed.settle(collection, self.counts)

    @staticmethod
    def _stored_before(
        collection: Collection, documents: list[dict[str, Any]], failures: list[dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        seen = [documents[failure["index"]]["_id"] for failure in failures if failure["code"] == DUPLICATE_KEY]
        return {document["_id"]: document for document in find_by_id(collection, seen)}

    def _judge(self, document: dict[str, Any], record: Any, kept: dict[str, Any]) -> None:
        stamp, _ = self._feed.stamp
        kept = self._replayed.newest(kept)
        if kept == document:  # the very message, read again: who stored it may have died before saying so
            self.touched.add(document["_id"][:MINUTE])
        if not self._feed.conflicts or {**kept, stamp: None} == {**document, stamp: None}:
            self.counts.duplicates += 1
        elif self._replayed.takes(record, document):
            self.touched.add(document["_id"][:MINUTE])
        else:
            explanation = f"{document['_id']} is stored with another payload; the first one stays"
            self._refuse(record, "conflict", "ConflictingReading", explanation)

    def _refuse_by_database(self, record: Any, message: str) -> None:
        self._refuse(record, "refused_by_database", "DocumentValidationFailure", message)

    def _put_aside(self, record: Any, aside: PutAside) -> None:
        self.counts.messages += aside.messages - 1  # it stands for so many
        self._refuse(
            record._replace(offset=aside.first, value=aside.raw),
            *("unreadable", "UnreadableBatch", f"{aside.messages} messages cannot be unpacked: {aside.reason}"),
            messages=aside.messages,
        )

    def _refuse(self, record: Any, reason: str, error_class: str, message: str, *, messages: int = 1) -> None:
        counts = self.counts
        if self._replayed.refuses(record, reason, message):
            counts.refused += 1
            counts.refused_again += 1
            return
        if self._is_settled(record):
            counts.duplicates += messages
            return
        headers = dead_letter_headers(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            stage="INGEST",
            reason=reason,
            error_class=error_class,
            message=message,
        )
        if messages > 1:
            headers = [*headers, ("messages", str(messages).encode())]
        self.letters.append(dead_letter(record.key, record.value, headers))
        counts.reasons[reason] += messages
        if reason == "conflict":
            counts.conflicts += messages
        else:
            counts.refused += messages


def _raise_if_unjudged(error: BulkWriteError) -> None:
    """Raise what the database says beside duplicates and refused documents, which are judged one by one."""
    judged = {DUPLICATE_KEY, DOCUMENT_VALIDATION_FAILURE}
    for each in (*error.details["writeErrors"], *error.details.get("writeConcernErrors", ())):
        if each["code"] not in judged:
            raise OperationFailure(str(each.get("errmsg", "")), each["code"], each) from error


def _describe(error: ValidationError) -> str:
    # Field and rule, never the input: dead-letter headers are shown in tools and logs.
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"] if part not in METER_TYPES)
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
