"""MongoDB: the collections with their keys, indexes and validators. The connection is made in runtime/database.py.

Who reads or writes what lives with the readers and writers; this module only says how the database is laid out.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pymongo import ReturnDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, OperationFailure

from metering.daily_tables import DAILY_TABLES
from metering.errors import MetersError
from metering.fault_event import FAULT_DOCUMENT_SCHEMA
from metering.lost_messages import LOST_MESSAGES
from metering.meter_types import METER_TYPES
from metering.reading import DOCUMENT_SCHEMA
from metering.registry import METERS
from metering.settings import CHANNELS

READINGS = "iot-meter"
FAULTS = "iot-abnormal"
WINDOW_AGGREGATES = "window_aggregates"
LATEST_READINGS = "latest_readings"
HEARTBEATS = "heartbeats"
FAULT_EPISODES = "fault_episodes"
ALERTS = "alerts"
ALERT_CHANNELS = "alert_channels"
INSTALLATION = "installation"
LOCAL_DAYS = "local_days"
INGEST_POSITIONS = "ingest_positions"
REVISIONS = "revisions"
DEAD_LETTERS = "dead_letters"
DEAD_LETTER_OFFSETS = "dead_letter_offsets"
REPLACED_READINGS = "replaced_readings"

NAMESPACE_EXISTS = 48

# Each collection's options and secondary indexes. iot-meter is clustered by its _id, which begins with the time: one
# B-tree instead of two makes inserts cheaper, and a day is one contiguous range on disk.
_COLLECTIONS: dict[str, dict[str, Any]] = {
    READINGS: {
        "clusteredIndex": {"key": {"_id": 1}, "unique": True},
        "validator": {"$jsonSchema": DOCUMENT_SCHEMA},
    },
    METERS: {
        "validator": {
            "$jsonSchema": {
                "bsonType": "object",
                "required": ["meter_type", "interval_seconds", "installed_at", "household_id", "district"],
                "properties": {
                    "_id": {"bsonType": "string"},
                    "meter_type": {"enum": list(METER_TYPES)},
                    "interval_seconds": {"bsonType": "int", "minimum": 1, "maximum": 86_400},
                    "installed_at": {"bsonType": "date"},
                    "household_id": {"bsonType": "string"},
                    "district": {"bsonType": "string"},
                },
            }
        }
    },
    FAULTS: {"validator": {"$jsonSchema": FAULT_DOCUMENT_SCHEMA}},
    WINDOW_AGGREGATES: {},
    LATEST_READINGS: {},
    HEARTBEATS: {},
    FAULT_EPISODES: {},
    ALERTS: {},
    ALERT_CHANNELS: {},
    INSTALLATION: {},
    LOCAL_DAYS: {},
    INGEST_POSITIONS: {},
    REVISIONS: {},
    LOST_MESSAGES: {},
    DEAD_LETTERS: {},
    DEAD_LETTER_OFFSETS: {},
    REPLACED_READINGS: {},
    **{name: {} for name in DAILY_TABLES},
}
_INDEXES: dict[str, Sequence[Sequence[tuple[str, int]]]] = {
    METERS: [[("household_id", 1)]],
    FAULTS: [[("stored_at", 1)], [("device_id", 1), ("timestamp", 1)]],
    WINDOW_AGGREGATES: [[("device_id", 1), ("minutes", 1), ("window_start", 1)]],
    FAULT_EPISODES: [[("device_id", 1), ("opened_at", 1)], [("state", 1), ("last_seen_at", 1)]],
    ALERTS: [
        [("acknowledged_at", 1), ("created_at", 1)],
        [("short_id", 1)],
        [("kind", 1), ("ended_at", 1)],
        *([(f"channels.{channel}.state", 1), ("created_at", 1)] for channel in CHANNELS),
    ],
    LOST_MESSAGES: [[("found_at", 1)], [("reader", 1), ("topic", 1), ("partition", 1)]],
    # Every query of letters names its states, so that settled letters cost a search for open ones nothing.
    DEAD_LETTERS: [
        [("short_id", 1)],
        [("state", 1), ("at", -1), ("_id", -1)],
        [("state", 1), ("reason", 1), ("at", -1), ("_id", -1)],
        [("state", 1), ("device_id", 1), ("at", -1), ("_id", -1)],
    ],
    REPLACED_READINGS: [[("reading_id", 1)]],
    REVISIONS: [[("collection", 1), ("calculation_date", 1)]],
    **{name: [[("calculation_date", 1)], *table.indexes] for name, table in DAILY_TABLES.items()},
}


def keep_timezone(database: Database, timezone: str) -> None:
    """Note which zone's local days the database holds, or see that they are still of that zone.

    Raises:
        MetersError: they are of another one.
    """
    kept: Any = database[INSTALLATION].find_one_and_update(
        {"_id": "timezone"}, {"$setOnInsert": {"name": timezone}}, upsert=True, return_document=ReturnDocument.AFTER
    )
    if kept["name"] != timezone:
        raise MetersError(
            f"MongoDB's {database.name} holds local days of {kept['name']}; METERS_TIMEZONE={timezone} would change "
            "what they mean",
            fix=f"Set METERS_TIMEZONE={kept['name']}, or begin anew: another METERS_MONGO_DATABASE and METERS_LAKE",
        )


def ensure_collections(database: Database) -> None:
    """Create whatever collection or index is missing, and bring validators up to date; safe to repeat and to race."""
    existing = set(database.list_collection_names())
    for name, options in _COLLECTIONS.items():
        if name not in existing:
            try:
                database.create_collection(name, **options)
                continue
            except CollectionInvalid:  # another process was faster, seen by the client
                pass
            except OperationFailure as error:  # or by the server
                if error.code != NAMESPACE_EXISTS:
                    raise
        if "validator" in options:
            database.command("collMod", name, validator=options["validator"])
    # Documents say themselves until when they are kept, so that changing the time to keep needs no new index.
    database[WINDOW_AGGREGATES].create_index("expires_at", expireAfterSeconds=0)
    for name, indexes in _INDEXES.items():
        for keys in indexes:
            database[name].create_index(keys)


def find_by_id(collection: Collection, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The documents of those ids, each found by its key.

    A clustered collection answers `{_id: {$in: ids}}` by reading all of it: MongoDB uses a clustered key for equality
    and ranges only. So each id is looked up by equality, all of them in one request.
    """
    if not ids:
        return
    pipeline = [
        {"$documents": [{"key": each} for each in ids]},
        {"$lookup": {"from": collection.name, "localField": "key", "foreignField": "_id", "as": "found"}},
        {"$unwind": "$found"},
        {"$replaceRoot": {"newRoot": "$found"}},
    ]
    yield from collection.database.aggregate(pipeline)
