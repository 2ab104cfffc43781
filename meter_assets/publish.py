"""Publishing: daily documents into MongoDB under natural keys, so that running again leaves the same state."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from pymongo import DeleteOne, ReplaceOne
from pymongo.collection import Collection

WRITE_BATCH = 5_000


@dataclass(frozen=True)
class Published:
    """What publishing one day did: documents in force, and how many were new or changed, or are gone."""

    documents: int
    changed: int
    removed: int


def publish_day(collection: Collection, day: date, documents: Iterable[dict[str, Any]]) -> Published:
    """Make `documents` the collection's only ones with this calculation_date.

    A document that says the same as the one in force is not written: its `computed_at` tells since when the figures
    have stood.

    Args:
        collection: documents with `_id` and `calculation_date` (ISO date).
        day: the calculation_date.
        documents: all documents of that day.
    """
    computed_at = datetime.now(UTC)
    computed_at = computed_at.replace(microsecond=computed_at.microsecond // 1000 * 1000)
    in_force = {document["_id"]: document for document in collection.find({"calculation_date": day.isoformat()})}
    operations: list[ReplaceOne | DeleteOne] = []
    total = changed = 0
    for document in documents:
        total += 1
        before = in_force.pop(document["_id"], None)
        if before is not None and {**before, "computed_at": None} == {**document, "computed_at": None}:
            continue
        changed += 1
        operations.append(ReplaceOne({"_id": document["_id"]}, {**document, "computed_at": computed_at}, upsert=True))
    operations.extend(DeleteOne({"_id": key}) for key in in_force)
    for start in range(0, len(operations), WRITE_BATCH):
        collection.bulk_write(operations[start : start + WRITE_BATCH], ordered=False)
    return Published(documents=total, changed=changed, removed=len(in_force))
