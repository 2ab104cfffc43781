"""What the platform knows of each local day: `iot.local_days`, one document a day, `_id` its ISO date.

Ingest counts here how often it has changed a day's readings; whoever computes the day notes which count it has seen. A
day whose readings have changed since is *late*: no clock is compared with another one.

    {_id: "2016-10-30", changes: 7, changed_at: ..., runs: 3,
     assets: {daily_averages: {run: 3, changes: 6, at: ..., run_id: ..., first_at: ..., rules: {...}}, ...},
     publishing: [...]}

While a run replaces the day's figures one after another, `publishing` says so: see metering.publishing.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from pymongo import ReturnDocument, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from metering.daily_tables import DAILY_ASSETS
from metering.errors import ServiceAwayError
from metering.publishing import Publishing, read_publishing
from metering.store import LOCAL_DAYS

HOLD_POLL_SECONDS = 0.05
DUPLICATE_KEY = 11000
TRANSIENT = "TransientTransactionError"


@dataclass(frozen=True)
class InForce:
    """What is in force of one asset's day.

    Args:
        run: number of the run that computed it, among the runs that worked on the day; 0 before the first.
        changes: how many changes of the day's readings it has seen.
        rules: versions of the fault rules that it was computed with, by id.
        first_at: since when the day has figures at all.
    """

    run: int = 0
    changes: int = 0
    rules: Mapping[str, int] | None = None
    first_at: datetime | None = None


@dataclass(frozen=True)
class LocalDay:
    """A day's document as it was read.

    Args:
        changes: how often ingest has changed the day's readings.
        run: number of the run that has just begun to work on it, or of the last one.
        assets: what is in force, by asset.
        publishing: runs that have begun to replace its figures and are not through; of a day at rest there are none.
    """

    day: date
    changes: int
    changed_at: datetime | None
    run: int
    assets: Mapping[str, InForce]
    publishing: tuple[Publishing, ...] = ()

    def in_force(self, asset: str) -> InForce:
        """What is in force of that asset."""
        return self.assets.get(asset, InForce())

    @property
    def published_at(self) -> datetime | None:
        """Since when the day has had figures; None for a day that was never computed."""
        return min((each.first_at for each in self.assets.values() if each.first_at), default=None)

    @property
    def is_late(self) -> bool:
        """Have readings come since some asset of it was computed?"""
        return any(each.changes < self.changes for each in self.assets.values())

    def mark(self, now: datetime) -> Publishing | None:
        """The mark of a run that publishes it, of one that was interrupted if there is any."""
        last_first = self.publishing[::-1]
        return next((mark for mark in last_first if mark.is_interrupted(now)), next(iter(last_first), None))

    def is_interrupted(self, now: datetime) -> bool:
        """Has a run been interrupted while it published the day? Then its figures may be of different runs."""
        return any(mark.is_interrupted(now) for mark in self.publishing)

    def awaits_decision(self, horizon_days: int, now: datetime) -> bool:
        """Is it late, with figures that have stood for longer than the horizon? Then a person decides."""
        return self.is_late and self.published_at is not None and now - self.published_at > timedelta(days=horizon_days)


def touch_days(database: Database, days: Iterable[date], at: datetime) -> None:
    """Count one more change of each of those days' readings; call it after the readings are acknowledged."""
    touched = {"$inc": {"changes": 1}, "$set": {"changed_at": at}}
    database[LOCAL_DAYS].bulk_write([UpdateOne({"_id": str(day)}, touched, upsert=True) for day in days], ordered=False)


def begin_days(database: Database, days: Iterable[date]) -> dict[date, LocalDay]:
    """Begin a run's work on days: it gets a number on each, above those of all runs that began before."""
    return {day: _begin_day(database, day) for day in days}


def _begin_day(database: Database, day: date) -> LocalDay:
    begun: Any = database[LOCAL_DAYS].find_one_and_update(
        {"_id": str(day)}, {"$inc": {"runs": 1}}, upsert=True, return_document=ReturnDocument.AFTER
    )
    return _local_day(begun)


def read_day(database: Database, day: date, session: ClientSession | None = None) -> LocalDay:
    """The day as it stands."""
    return _local_day(database[LOCAL_DAYS].find_one({"_id": str(day)}, session=session) or {"_id": str(day)})


def put_in_force(
    database: Database,
    asset: str,
    begun: LocalDay,
    *,
    changes: int,
    rules: Mapping[str, int],
    run_id: str,
    at: datetime,
    session: ClientSession | None = None,
) -> None:
    """Note that the run `begun` has put its work on `asset` in force."""
    place = f"assets.{asset}"
    noted = {"run": begun.run, "changes": changes, "rules": dict(rules), "run_id": run_id, "at": at}
    database[LOCAL_DAYS].update_one(
        {"_id": str(begun.day)},
        {"$set": {f"{place}.{name}": value for name, value in noted.items()}, "$min": {f"{place}.first_at": at}},
        session=session,
    )


@contextmanager
def hold_day(database: Database, day: date) -> Iterator[ClientSession]:
    """Keep others from noting anything of that day until the block ends; whoever else holds it is waited for.

    It is a transaction that begins with a write to the day's document, so it works across machines and needs no clocks
    nor clean-up: MongoDB itself ends the transaction of a holder that is gone, after transactionLifetimeLimitSeconds.
    What the block notes of the day must be part of the session, else it waits for its own transaction.

    Raises:
        ServiceAwayError: MongoDB has ended the transaction before the block was through, and nothing was noted.
    """
    with database.client.start_session() as session:
        while not _take_day(database, day, session):
            time.sleep(HOLD_POLL_SECONDS)
        try:
            yield session
            session.commit_transaction()
        except PyMongoError as error:
            if error.has_error_label(TRANSIENT):
                raise ServiceAwayError(
                    f"MongoDB gave up on {day} before it was in force",
                    fix="Try again; if it stays so, raise MongoDB's transactionLifetimeLimitSeconds",
                ) from error
            raise


def _take_day(database: Database, day: date, session: ClientSession) -> bool:
    """Begin a transaction with the day's document; False when another one has it."""
    session.start_transaction()
    try:
        # A real change: MongoDB sees no conflict between writes that change nothing.
        database[LOCAL_DAYS].update_one({"_id": str(day)}, {"$inc": {"holds": 1}}, upsert=True, session=session)
    except OperationFailure as error:
        session.abort_transaction()
        if error.has_error_label(TRANSIENT) or error.code == DUPLICATE_KEY:
            return False
        raise
    return True


def withdraw(database: Database, asset: str, day: date) -> None:
    """Note that nothing of that asset is in force any more for the day."""
    database[LOCAL_DAYS].update_one({"_id": str(day)}, {"$unset": {f"assets.{asset}": ""}})


def finished_days(database: Database, days: Iterable[date], assets: Iterable[str], run_id: str) -> set[date]:
    """Those of the days of which that run has published every one of the assets: a retry leaves them."""
    done: dict[str, Any] = {f"assets.{asset}.run_id": run_id for asset in assets}
    done["publishing.run_id"] = {"$ne": run_id}
    found = database[LOCAL_DAYS].find({"_id": {"$in": [str(day) for day in days]}, **done}, {"_id": 1})
    return {date.fromisoformat(document["_id"]) for document in found}


def unsettled_days(database: Database, *, before: date) -> list[LocalDay]:
    """Days before that one that are late, or whose figures are being replaced, in their order."""
    # In an expression a missing field is less than anything: the first comparison leaves out what was never computed.
    late = [
        {"$and": [{"$gt": [place, None]}, {"$lt": [place, "$changes"]}]}
        for place in (f"$assets.{asset}.changes" for asset in DAILY_ASSETS)
    ]
    unsettled = [{"$expr": {"$or": late}}, {"publishing.0": {"$exists": True}}]
    found = database[LOCAL_DAYS].find({"_id": {"$lt": str(before)}, "$or": unsettled}).sort("_id")
    return [_local_day(document) for document in found]


def late_days(database: Database, *, before: date) -> list[LocalDay]:
    """Computed days before that one whose readings have changed since, in their order."""
    return [day for day in unsettled_days(database, before=before) if day.is_late]


def dismiss_day(database: Database, day: LocalDay) -> None:
    """Let the figures of a late day stand although readings have come that are not in them."""
    seen = {f"assets.{asset}.changes": day.changes for asset in day.assets}
    database[LOCAL_DAYS].update_one({"_id": str(day.day)}, {"$set": seen})


def _local_day(document: Mapping[str, Any]) -> LocalDay:
    fields = ("run", "changes", "rules", "first_at")
    assets = {
        name: InForce(**{field: noted[field] for field in fields}) for name, noted in document.get("assets", {}).items()
    }
    return LocalDay(
        day=date.fromisoformat(document["_id"]),
        changes=document.get("changes", 0),
        changed_at=document.get("changed_at"),
        run=document.get("runs", 0),
        assets=assets,
        publishing=tuple(read_publishing(mark) for mark in document.get("publishing", ())),
    )
