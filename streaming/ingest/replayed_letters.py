"""What ingest does with dead letters that were sent again by `meters dlq replay`.

Such a message carries its letter's id and the number of the attempt. Refused again it makes no second letter; with
`--take` it replaces the reading that it contradicts. Anybody who may write to the topic can set headers, so the headers
alone do nothing: `iot.dead_letters` must hold that attempt, not judged yet, with the digest of this very value.
Otherwise the message is handled like any other.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pymongo import UpdateOne
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from metering.letters import State
from metering.store import DEAD_LETTERS, REPLACED_READINGS
from streaming.kafka.clients import Headers

REPLAY_OF = "meters.replay-of"
"""Header with the letter's `_id`."""
REPLAY_ATTEMPT = "meters.replay-attempt"
"""Header with the number of the attempt, from 1."""

STORED = "stored"
REFUSED = "refused"
NOT_SENT = "not_sent"
"""Kafka did not acknowledge the message; it may have arrived all the same."""

DOCUMENT_VALIDATION_FAILURE = 121
_ATTEMPT = re.compile(r"[1-9]\d{0,8}")

Origin = tuple[str, int, int]
_Claim = tuple[str, int]


def replay_headers(letter_id: str, attempt: int) -> Headers:
    """Headers of a letter's message that is sent again."""
    return [(REPLAY_OF, letter_id.encode()), (REPLAY_ATTEMPT, str(attempt).encode())]


def digest(value: bytes | None) -> str:
    """Digest by which an attempt knows its message; a message without a value has none of its own."""
    return "" if value is None else hashlib.sha256(value).hexdigest()


@dataclass(frozen=True)
class _Replay:
    """An attempt that `iot.dead_letters` confirms."""

    letter: str
    attempt: int
    take: bool
    by: str
    why: str
    is_judged: bool
    """Ingest has judged the message before, and is reading it again."""

    @property
    def key(self) -> str:
        return f"{self.letter}#{self.attempt}"


@dataclass(frozen=True)
class _Refusal:
    reason: str
    message: str


class Replayed:
    """The replayed messages of one batch.

    The batch sets records aside from the first one with these headers on (`holds`). It handles them like the others
    once MongoDB has been asked which of them are genuine (`release`), asks about each one that it would refuse or that
    contradicts a stored reading (`refuses`, `takes`), and has the outcome written before its offsets are committed
    (`settle`).
    """

    def __init__(self) -> None:
        self._held: list[tuple[Any, _Claim | None]] = []
        self._genuine: dict[Origin, _Replay] = {}
        self._outcomes: dict[Origin, _Refusal | None] = {}
        self._takes: list[tuple[Origin, dict[str, Any]]] = []
        self._taken: dict[str, dict[str, Any]] = {}

    def holds(self, record: Any) -> bool:
        """True for a record that says it is a replayed letter, and for all after it: they are kept until `release`.

        So the batch still handles its records in their order, and the first of two readings is the one that came first.
        """
        claim = _claim(record.headers) if record.headers else None
        if claim is None and not self._held:
            return False
        self._held.append((record, claim))
        return True

    def release(self, database: Database) -> list[Any]:
        """The records held, once; from now on `refuses` and `takes` know which of them are genuine.

        Raises:
            pymongo.errors.PyMongoError: MongoDB does not answer; the records are still held.
        """
        if not self._held:
            return []
        claims = [(record, *claim) for record, claim in self._held if claim is not None]
        ids = list({letter for _, letter, _ in claims})
        letters = {
            letter["_id"]: letter["replays"]
            for letter in database[DEAD_LETTERS].find({"_id": {"$in": ids}}, {"replays": 1})
        }
        claimed: set[str] = set()
        for record, letter, number in claims:
            for attempt in letters.get(letter, []):
                if attempt["attempt"] == number and _is_genuine(attempt, record):
                    replay = _replay(letter, attempt)
                    if replay.key not in claimed:  # a copy of the message, sent by somebody else, is no replay
                        claimed.add(replay.key)
                        self._genuine[_origin(record)] = replay
                        self._outcomes[_origin(record)] = None
        records = [record for record, _ in self._held]
        self._held = []
        return records

    def refuses(self, record: Any, reason: str, message: str) -> bool:
        """True when a refused record is a replay, whose letter is there already: it gets no second one."""
        if _origin(record) not in self._genuine:
            return False
        self._outcomes[_origin(record)] = _Refusal(reason, message)
        return True

    def takes(self, record: Any, document: dict[str, Any]) -> bool:
        """True when a reading that contradicts the stored one is to replace it; `settle` does so and counts it."""
        replay = self._genuine.get(_origin(record))
        if replay is None or not replay.take:
            return False
        self._takes.append((_origin(record), document))
        self._taken[document["_id"]] = document
        return True

    def newest(self, kept: dict[str, Any]) -> dict[str, Any]:
        """What the rest of the batch is compared with: the reading that was found stored, or what will replace it."""
        return self._taken.get(kept["_id"], kept)

    def settle(self, collection: Collection, counts: Any) -> None:
        """Replace the readings that are to be taken, and write down what became of each replay.

        After an AutoReconnect it may be called again: whatever was done is found done.
        """
        while self._takes:
            origin, document = self._takes[0]
            refused = _take(collection, self._genuine[origin], document)
            if refused is None:
                counts.stored += 1
                counts.taken += 1
            else:
                counts.refused += 1
                counts.refused_again += 1
                self._outcomes[origin] = refused
            self._takes.pop(0)
        if self._outcomes:
            _write_outcomes(collection.database, [(o, self._genuine[o], r) for o, r in self._outcomes.items()])


def _claim(headers: Headers) -> _Claim | None:
    ids = [value for name, value in headers if name == REPLAY_OF]
    attempts = [value for name, value in headers if name == REPLAY_ATTEMPT]
    if len(ids) != 1 or len(attempts) != 1 or not ids[0] or not attempts[0]:
        return None
    letter, attempt = (each[:400].decode("utf-8", "replace") for each in (ids[0], attempts[0]))
    return (letter, int(attempt)) if _ATTEMPT.fullmatch(attempt) else None


def _origin(record: Any) -> Origin:
    return record.topic, record.partition, record.offset


def _replay(letter: str, attempt: dict[str, Any]) -> _Replay:
    judged = attempt["outcome"] not in (None, NOT_SENT)
    return _Replay(letter, attempt["attempt"], attempt["take"], attempt["by"], attempt["why"], is_judged=judged)


def _place(origin: Origin) -> str:
    return "|".join(map(str, origin))


def _is_genuine(attempt: dict[str, Any], record: Any) -> bool:
    """Is the record this attempt's message, not judged yet, or judged at this very offset before a crash?"""
    awaited = attempt["outcome"] in (None, NOT_SENT) or attempt["judged_at_offset"] == _place(_origin(record))
    return awaited and attempt["sha256"] == digest(record.value)


def _take(collection: Collection, replay: _Replay, document: dict[str, Any]) -> _Refusal | None:
    """Replace the stored reading by `document` and keep the old one, both or neither, and once."""
    if replay.is_judged:  # what has replaced the reading since must stay
        return None
    database = collection.database
    payload = {name: value for name, value in document.items() if name != "received_at"}

    def work(session: ClientSession) -> None:
        if database[REPLACED_READINGS].find_one({"_id": replay.key}, {"_id": 1}, session=session):
            return
        kept = collection.find_one({"_id": document["_id"]}, session=session)
        if kept is not None and {name: value for name, value in kept.items() if name != "received_at"} == payload:
            return
        replaced = {
            "_id": replay.key,
            "reading_id": document["_id"],
            "device_id": document["device_id"],
            "old": kept,
            "new": document,
            "letter": replay.letter,
            "by": replay.by,
            "why": replay.why,
            "replaced_at": datetime.now(UTC),
        }
        database[REPLACED_READINGS].insert_one(replaced, session=session)
        collection.replace_one({"_id": document["_id"]}, document, upsert=True, session=session)

    try:
        with database.client.start_session() as session:
            session.with_transaction(work)
    except OperationFailure as error:
        if error.code != DOCUMENT_VALIDATION_FAILURE:
            raise
        return _Refusal("refused_by_database", "Document failed validation")
    return None


def _write_outcomes(database: Database, outcomes: Sequence[tuple[Origin, _Replay, _Refusal | None]]) -> None:
    now = datetime.now(UTC)
    operations: list[UpdateOne] = []
    for origin, replay, refusal in outcomes:
        judged = {
            "outcome": STORED if refusal is None else REFUSED,
            "judged_at": now,
            "judged_at_offset": _place(origin),
            "reason": refusal.reason if refusal else None,
            "message": refusal.message if refusal else None,
        }
        awaited = {"attempt": replay.attempt, "outcome": {"$in": [None, NOT_SENT]}}
        operations.append(
            UpdateOne(
                {"_id": replay.letter, "replays": {"$elemMatch": awaited}},
                {"$set": {f"replays.$.{name}": value for name, value in judged.items()}, "$inc": {"attempts": 1}},
            )
        )
        if refusal is None:
            state, before = State.STORED, {"state": {"$ne": str(State.STORED)}}
        else:  # unless a newer attempt is under way, or a person has dropped the letter since
            state, before = State.REFUSED_AGAIN, {"state": str(State.REPLAYING), "replays": {"$size": replay.attempt}}
        change = {"$set": {"state": str(state), "state_at": now}}
        operations.append(UpdateOne({"_id": replay.letter, **before}, change))
    database[DEAD_LETTERS].bulk_write(operations, ordered=False)
