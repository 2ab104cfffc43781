"""Dead letters as MongoDB keeps them: `iot.dead_letters`, one document per letter on the dead-letter topic.

Filters, look-ups and the states of a letter live here; `streaming/` fills the collection from Kafka and sends letters
again.

    {_id: "iot-meter-dlq|0|17", short_id: "9f86d081884c", topic, topic_id, partition, offset, at,
     source: {topic, partition, offset}, stage, reason, error: {class, message}, device_id, size, sha256, key, value,
     state: "open", state_at, attempts: 1, replays: [], dropped: null}

`key` and `value` are missing where they are too large for MongoDB: then only the topic has them. Everything in a letter
was written by a producer that nobody has checked: it is never a query, a path or markup.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from typing import Any

from pymongo import UpdateOne
from pymongo.cursor import Cursor
from pymongo.database import Database

from metering.errors import MetersError
from metering.store import DEAD_LETTERS

Letter = dict[str, Any]

PAGE = 50
"""Letters that a command shows, and changes without a confirmation."""

SHORT_ID = re.compile(r"[0-9a-f]{12}")
_NEWEST_FIRST = [("at", -1), ("_id", -1)]
_WITHOUT_PAYLOAD = {"key": 0, "value": 0}
_CHUNK = 1000


class State(StrEnum):
    """What has become of a letter."""

    OPEN = "open"
    """Nobody has done anything about it."""
    REPLAYING = "replaying"
    """Its message was sent again; ingest has not judged it yet."""
    REFUSED_AGAIN = "refused_again"
    """Ingest has refused the message that was sent again."""
    STORED = "stored"
    """The message that was sent again is stored, or repeated what was stored."""
    DROPPED = "dropped"
    """A person has decided to leave it."""


WORKABLE = (State.OPEN, State.REFUSED_AGAIN)
UNSETTLED = (*WORKABLE, State.REPLAYING)


@dataclass(frozen=True)
class Filters:
    """Which letters are meant; all conditions hold at once.

    Args:
        states: any of these.
        reason: the letter's reason, exactly.
        device: the letter's device_id, exactly.
        since: letters of this moment and later.
        until: letters before this moment.
    """

    states: Sequence[State] = UNSETTLED
    reason: str | None = None
    device: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def query(self) -> dict[str, Any]:
        """The MongoDB query; values are compared for equality and never become operators."""
        query: dict[str, Any] = {"state": {"$in": [str(state) for state in self.states]}}
        if self.reason is not None:
            query["reason"] = {"$eq": self.reason}
        if self.device is not None:
            query["device_id"] = {"$eq": self.device}
        between = {"$gte": self.since, "$lt": self.until}
        if given := {operator: instant for operator, instant in between.items() if instant is not None}:
            query["at"] = given
        return query


def short_id(letter_id: str) -> str:
    """Twelve characters that no shell takes for a pipe; two letters hardly ever share them."""
    return hashlib.sha256(letter_id.encode()).hexdigest()[:12]


def find_letters(database: Database, filters: Filters, limit: int = 0) -> Cursor[Letter]:
    """Letters without their payload, the newest first; 0 means all of them."""
    found = database[DEAD_LETTERS].find(filters.query(), _WITHOUT_PAYLOAD)
    return found.sort(_NEWEST_FIRST).limit(limit)


def find_ids(database: Database, filters: Filters, limit: int = 0) -> list[str]:
    """Ids of the letters, the oldest first, as they should be sent again; a limit leaves out the newest."""
    found = database[DEAD_LETTERS].find(filters.query(), {"_id": 1}).sort([("at", 1), ("_id", 1)]).limit(limit)
    return [letter["_id"] for letter in found]


def count_letters(database: Database, filters: Filters) -> int:
    """How many letters the filters mean."""
    return database[DEAD_LETTERS].count_documents(filters.query())


def count_states(database: Database) -> dict[str, int]:
    """How many letters each state has."""
    return {str(state): database[DEAD_LETTERS].count_documents({"state": str(state)}) for state in State}


def resolve_ids(database: Database, given: Sequence[str]) -> list[str]:
    """The `_id` of each letter, given by `_id` or short id, each once.

    Raises:
        MetersError: an id means no letter, or more than one.
    """
    found: dict[str, None] = {}
    for each in given:
        kind = "short_id" if SHORT_ID.fullmatch(each) else "_id"
        matches = [letter["_id"] for letter in database[DEAD_LETTERS].find({kind: {"$eq": each}}, {"_id": 1}).limit(2)]
        if not matches:
            raise MetersError(f"There is no dead letter {_plain(each)}", fix="See their ids: meters dlq list --all")
        if len(matches) > 1:
            raise MetersError(f"{each} is the short id of more than one letter", fix=f"Give one: '{matches[0]}' or …")
        found[matches[0]] = None
    return list(found)


def read_letters(database: Database, ids: Sequence[str]) -> list[Letter]:
    """The letters with those ids, with their payload where MongoDB has it, in the order of the ids."""
    found = {letter["_id"]: letter for letter in database[DEAD_LETTERS].find({"_id": {"$in": list(ids)}})}
    return [found[each] for each in ids if each in found]


def drop_letters(database: Database, ids: Sequence[str], *, by: str, why: str) -> int:
    """Mark letters as dropped; nothing is deleted. Letters that are stored stay so.

    Returns:
        How many letters are newly dropped.
    """
    now = datetime.now(UTC)
    changed = 0
    for chunk in _chunks(ids):
        # An update per state that a letter may come from, so that each letter keeps the one it had.
        changed += _update(
            database,
            [
                UpdateOne(
                    {"_id": each, "state": str(state)},
                    {
                        "$set": {
                            "state": str(State.DROPPED),
                            "state_at": now,
                            "dropped": {"by": by, "why": why, "at": now, "from": str(state)},
                        }
                    },
                )
                for each in chunk
                for state in UNSETTLED
            ],
        )
    return changed


def undo_drop(database: Database, ids: Sequence[str]) -> int:
    """Give dropped letters the state back that they had before; returns how many."""
    now = datetime.now(UTC)
    changed = 0
    for chunk in _chunks(ids):
        changed += _update(
            database,
            [
                UpdateOne(
                    {"_id": each, "state": str(State.DROPPED), "dropped.from": str(state)},
                    {"$set": {"state": str(state), "state_at": now, "dropped": None}},
                )
                for each in chunk
                for state in UNSETTLED
            ],
        )
    return changed


def _update(database: Database, operations: list[UpdateOne]) -> int:
    # In order: the first update of a letter that matches leaves nothing for the others to match.
    return database[DEAD_LETTERS].bulk_write(operations).modified_count if operations else 0


def _chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(ids)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def _plain(text: str) -> str:
    return re.sub(r"[^\w|.:-]", "?", text, flags=re.ASCII)[:120]
