"""What the tests of dead letters share: a pipe whose letters are indexed, and ways to put letters on its topic."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kafka.structs import OffsetAndMetadata
from pymongo.database import Database

from meter_assets_tests.ingest_support import Pipe, electricity
from metering.letters import Letter
from metering.store import DEAD_LETTERS
from streaming.dead_letter_topic import MAX_DEAD_LETTER_BYTES, dead_letter_headers, ensure_dead_letters_topic
from streaming.dead_letters.correction import Correction
from streaming.dead_letters.index import DeadLetterIndex
from streaming.dead_letters.replay import LetterReplay, ReplayOutcome
from streaming.ingest.batch import Counts
from streaming.kafka.clients import Headers, open_consumer, open_producer, partitions_of


@dataclass(frozen=True)
class Office:
    """The dead letters of one pipe."""

    pipe: Pipe
    mongo: Database

    @contextmanager
    def index(self) -> Iterator[DeadLetterIndex]:
        """The index, caught up."""
        with DeadLetterIndex(self.pipe.settings, self.mongo, topic=self.pipe.dead_letters_topic) as index:
            index.catch_up()
            yield index

    def letters(self) -> list[Letter]:
        """All letters of the index, caught up, in the order of their ids."""
        with self.index():
            return list(self.mongo[DEAD_LETTERS].find().sort("_id", 1))

    def letter(self) -> Letter:
        """The only letter."""
        (letter,) = self.letters()
        return letter

    def replay(self, *ids: str, fields: dict[str, Any] | None = None, take: bool = False) -> ReplayOutcome:
        """Send letters again; all of them where no ids are given."""
        chosen = list(ids) or [letter["_id"] for letter in self.letters()]
        with self.index() as index:
            return LetterReplay(
                self.pipe.settings,
                self.mongo,
                index,
                by="Eva",
                why="a test",
                take=take,
                correction=Correction(fields or {}),
                feeds=[self.pipe.feed],
            ).send(chosen)

    def write(self, *letters: tuple[bytes | None, bytes | None, Headers]) -> None:
        """Put letters on the topic, as anybody who may write to it can."""
        ensure_dead_letters_topic(self.pipe.settings, self.pipe.dead_letters_topic)
        producer = open_producer(self.pipe.settings, max_request_size=MAX_DEAD_LETTER_BYTES)
        sent = [
            producer.send(self.pipe.dead_letters_topic, key=key, value=value, headers=list(headers))
            for key, value, headers in letters
        ]
        producer.close()
        assert all(each.succeeded() for each in sent)

    def headers(self, reason: str = "invalid_reading", offset: int = 0, message: str = "no reading") -> Headers:
        """Headers of a letter from the pipe's topic."""
        return dead_letter_headers(
            reason=reason,
            stage="INGEST",
            error_class="ValidationError",
            message=message,
            topic=self.pipe.feed.topics[0],
            partition=0,
            offset=offset,
        )


def check_law(office: Office, *runs: Counts) -> None:
    """Assert that the runs' counts, MongoDB and the topic of letters are one account of all that was sent."""
    total = Counts()
    for counts in runs:
        assert counts.messages == counts.stored + counts.duplicates + counts.conflicts + counts.refused
        total.add(counts)
    assert total.messages == len(office.pipe.sent())
    assert total.stored - total.taken == office.pipe.stored_count()
    assert total.dead_letters == len(office.pipe.letters()) == office.mongo[DEAD_LETTERS].count_documents({})
    assert total.reasons == office.pipe.reasons()


def conflict(office: Office) -> Counts:
    """Have `em1` contradict a stored 1.5 by 9: one stored, one letter."""
    office.pipe.send([electricity("em1", 1), electricity("em1", 1, usage_kwh=9)])
    counts = office.pipe.ingest()
    assert (counts.stored, counts.conflicts) == (1, 1)
    return counts


def rewind(pipe: Pipe) -> None:
    """Have the group read everything again, as after an offset reset."""
    consumer = open_consumer(pipe.settings, group=pipe.feed.group)
    consumer.commit({each: OffsetAndMetadata(0, "", -1) for each in partitions_of(consumer, *pipe.feed.topics)})
    consumer.close()
