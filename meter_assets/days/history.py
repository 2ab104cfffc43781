"""What was published of a day, and when it changed: the published documents and the revisions before them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo.database import Database

from metering.store import REVISIONS

Document = dict[str, Any]


@dataclass(frozen=True)
class Version:
    """One version of one document.

    Args:
        key: `_id` of the document.
        revision: its number; a document that is there from the day's first publication begins with 1.
        since: when it was published.
        document: the figures; None where the document went.
        run_id: the Dagster run that published it, unless it is the first.
        why: reasons, unless it is the first.
    """

    key: str
    revision: int
    since: datetime
    document: Document | None
    run_id: str | None = None
    why: tuple[str, ...] = ()


def read_history(database: Database, collection: str, day: str, *, key: str | None = None) -> list[Version]:
    """Every version of a day's documents, by key and in the order of publication.

    Args:
        database: where they are published.
        collection: daily_averages, daily_consumption or abnormal_device_summary.
        day: calculation_date, ISO 8601.
        key: only the document with this `_id`.
    """
    which = {"_id": key} if key else {}
    in_force = list(database[collection].find({"calculation_date": day, **which}))
    which = {"key": key} if key else {}
    revisions = database[REVISIONS].find({"collection": collection, "calculation_date": day, **which})
    versions: dict[str, list[Version]] = {}
    for entry in sorted(revisions, key=lambda entry: (entry["key"], entry["revision"])):
        of_key = versions.setdefault(entry["key"], [])
        if not of_key and entry["was"]:
            of_key.append(_first(entry["key"], entry["was"]))
        of_key.append(
            Version(
                key=entry["key"],
                revision=entry["revision"],
                since=entry["revised_at"],
                document=entry["now"],
                run_id=entry["run_id"],
                why=tuple(entry["why"]),
            )
        )
    for document in in_force:
        versions.setdefault(document["_id"], [_first(document["_id"], document)])
    return [version for _, of_key in sorted(versions.items()) for version in of_key]


def as_of(versions: list[Version], instant: datetime) -> list[Version]:
    """Those of the versions that were published at that instant."""
    latest: dict[str, Version] = {}
    for version in versions:
        if version.since <= instant:
            latest[version.key] = version
    return [version for version in latest.values() if version.document is not None]


def changed_figures(before: Document | None, after: Document | None) -> dict[str, tuple[Any, Any]]:
    """Figures that differ between two versions of a document, as (was, now)."""
    names = [name for name in (after or before or {}) if name not in ("_id", "computed_at", "revision")]
    pairs = {name: ((before or {}).get(name), (after or {}).get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _first(key: str, document: Document) -> Version:
    return Version(key=key, revision=document["revision"], since=document["computed_at"], document=document)
