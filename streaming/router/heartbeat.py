"""The router's heartbeat: one document in MongoDB that says that it lives, where, and how it fares."""

import os
import socket
from datetime import UTC, datetime
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from metering.store import HEARTBEATS
from streaming.router.progress import Progress

ROUTER = "router"


class Heartbeat:
    """The document, written by the holder of the checkpoint only.

    Args:
        database: where to.
        checkpoint: the router's place.
        run_id: the Dagster run that the router belongs to.
    """

    def __init__(self, database: Database, *, checkpoint: str, run_id: str | None) -> None:
        self._collection = database[HEARTBEATS]
        self._checkpoint = checkpoint
        self._identity = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "run_id": run_id,
            "started_at": datetime.now(UTC),
        }

    def last(self) -> dict[str, Any]:
        """What the last router wrote; empty: there never was one."""
        return self._collection.find_one({"_id": ROUTER}) or {}

    def send(self, state: str, progress: Progress) -> None:
        """Say that it lives.

        Args:
            state: starting, running or stopping.
            progress: so far.
        """
        fields = {"at": datetime.now(UTC), "state": state, **self._identity, **progress.to_json()}
        if state != "starting":  # a checkpoint is one only when it has been used
            fields["checkpoint"] = self._checkpoint
        try:
            self._collection.update_one({"_id": ROUTER}, {"$set": fields}, upsert=True)
        except PyMongoError:  # later a heartbeat may be missing: the sensor knows what to make of it
            if state == "starting":
                raise
