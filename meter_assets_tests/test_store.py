"""Look-ups in a clustered collection: MongoDB reads the documents that are asked for, and not the collection."""

from typing import Any

from pymongo.database import Database

from metering.store import READINGS, find_by_id
from streaming.ingest.batch import READINGS_FEED

STORED = 5_000


def reading(number: int) -> dict[str, Any]:
    timestamp = f"2024-05-{1 + number % 28:02}T{number // 28 % 24:02}:{number // 672:02}:00Z"
    value = f'{{"device_id":"em1","timestamp":"{timestamp}","usage_kwh":1}}'
    document = READINGS_FEED.parse(value.encode())
    return {**document, "received_at": document["timestamp"]}


def test_ids_are_found_by_their_keys(mongo: Database):
    documents = [reading(number) for number in range(STORED)]
    mongo[READINGS].insert_many(documents)
    wanted = [document["_id"] for document in documents[::97]]
    mongo.command("profile", 2)
    try:
        found = {document["_id"] for document in find_by_id(mongo[READINGS], [*wanted, "2024-01-01T00:00:00Z|em9"])}
    finally:
        mongo.command("profile", 0)

    assert found == set(wanted)
    (profiled,) = mongo["system.profile"].find({"command.pipeline": {"$exists": True}})
    assert profiled["docsExamined"] <= 2 * len(wanted)


def test_no_ids_are_no_request(mongo: Database):
    assert list(find_by_id(mongo[READINGS], [])) == []
