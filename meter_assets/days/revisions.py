"""Publishing: a day's documents into MongoDB as one transaction, under natural keys, with a record of what changed.

Whoever reads a day sees the old figures or the new ones, never some of each. Running again leaves the same state.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from pymongo import DeleteOne, InsertOne, ReplaceOne
from pymongo.client_session import ClientSession
from pymongo.database import Database

from metering.day_ledger import InForce, LocalDay, put_in_force, read_day
from metering.store import REVISIONS

WRITE_BATCH = 5_000

UNCOMPARED = {"computed_at": None, "revision": None}

Document = dict[str, Any]


@dataclass(frozen=True)
class Edition:
    """Who publishes, and on what grounds.

    Args:
        day: the day as it was when the run began to work on it.
        changes: how many changes of the day's readings the figures have seen.
        rules: versions of the fault rules, by id.
        run_id: the Dagster run.
    """

    day: LocalDay
    changes: int
    rules: Mapping[str, int]
    run_id: str


@dataclass(frozen=True)
class Published:
    """What publishing one day did: documents published, how many of them are new or changed, how many are gone.

    `is_outdated`: nothing was written, because a run that began later has published the day already.
    """

    documents: int
    changed: int
    removed: int
    is_outdated: bool = False


def publish_day(database: Database, name: str, documents: Iterable[Document], edition: Edition) -> Published:
    """Make `documents` the only ones of the collection `name` with the edition's day as calculation_date.

    A document that equals the published one is not written: its `computed_at` says since when the figures
    have stood. What changes, appears or goes after the day was first published is kept in `revisions`.

    Args:
        database: where the collection is.
        name: the collection, and the asset.
        edition: whose work it is.
        documents: all documents of the day, with `_id` and `calculation_date`.
    """
    documents = list(documents)

    def transaction(session: ClientSession) -> Published:
        return _publish(database, name, documents, edition, session)

    with database.client.start_session() as session:
        # Two runs that publish the same day at once conflict on its document in local_days: one of them begins again.
        return session.with_transaction(transaction)


def _publish(
    database: Database, name: str, documents: list[Document], edition: Edition, session: ClientSession
) -> Published:
    day = edition.day.day
    before = read_day(database, day, session).in_force(name)
    if before.run > edition.day.run:
        return Published(documents=len(documents), changed=0, removed=0, is_outdated=True)
    now = datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)  # as MongoDB keeps it
    put_in_force(
        database,
        name,
        edition.day,
        changes=edition.changes,
        rules=edition.rules,
        run_id=edition.run_id,
        at=now,
        session=session,
    )
    collection = database[name]
    in_force = {
        document["_id"]: document
        for document in collection.find({"calculation_date": day.isoformat()}, session=session)
    }
    new = {document["_id"]: document for document in documents}
    changed = [key for key in new if not _same(in_force.get(key), new[key])]
    removed = [key for key in in_force if key not in new]
    if not changed and not removed:
        return Published(documents=len(new), changed=0, removed=0)

    is_first = before.first_at is None
    last = {} if is_first else _last_revisions(database, name, day, session)
    writes: list[InsertOne | ReplaceOne | DeleteOne] = []
    revisions: list[InsertOne] = []
    why = reasons(before, edition)
    for key in [*changed, *removed]:
        was = in_force.get(key)
        number = max(last.get(key, 0), was.get("revision", 1) if was else 0) + 1
        document = {**new[key], "computed_at": now, "revision": number} if key in new else None
        if document is None:
            writes.append(DeleteOne({"_id": key}))
        else:
            writes.append(ReplaceOne({"_id": key}, document) if was else InsertOne(document))
        if not is_first:
            revisions.append(
                InsertOne(
                    {
                        "_id": f"{name}|{key}|{number}",
                        "collection": name,
                        "key": key,
                        "calculation_date": day.isoformat(),
                        "revision": number,
                        "was": was,
                        "now": document,
                        "revised_at": now,
                        "run_id": edition.run_id,
                        "why": why,
                    }
                )
            )
    for target, operations in ((collection, writes), (database[REVISIONS], revisions)):
        for start in range(0, len(operations), WRITE_BATCH):
            target.bulk_write(operations[start : start + WRITE_BATCH], ordered=False, session=session)
    return Published(documents=len(new), changed=len(changed), removed=len(removed))


def _same(was: Document | None, new: Document) -> bool:
    return was is not None and {**was, **UNCOMPARED} == {**new, **UNCOMPARED}


def _last_revisions(database: Database, name: str, day: date, session: ClientSession) -> dict[str, int]:
    """Number of the last revision of each document that has any: one that has gone may come back."""
    of_day = {"collection": name, "calculation_date": day.isoformat()}
    pipeline = [{"$match": of_day}, {"$group": {"_id": "$key", "revision": {"$max": "$revision"}}}]
    return {each["_id"]: each["revision"] for each in database[REVISIONS].aggregate(pipeline, session=session)}


def reasons(before: InForce, edition: Edition) -> list[str]:
    """Why figures differ from the published ones, as far as their inputs show it."""
    found = []
    if edition.changes > before.changes:
        found.append("late readings")
    earlier = before.rules or {}
    for rule in sorted({*earlier, *edition.rules}):
        was, now = earlier.get(rule), edition.rules.get(rule)
        if was != now:
            found.append(f"rule {rule}: {_version(was)} -> {_version(now)}")
    return found or ["correction of the registry, or of a formula"]


def _version(number: int | None) -> str:
    return "not in force" if number is None else f"version {number}"
