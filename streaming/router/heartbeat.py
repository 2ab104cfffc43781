"""The router's heartbeat: one document in MongoDB that says that it lives, where, and whether it gets on.

A thread of its own writes it. What it says follows the router's progress, which that thread does not make: a router
that hangs is `stalled`, however regularly it says so.
"""

import os
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import PyMongoError

from metering.store import HEARTBEATS
from streaming.router.progress import RouterProgress

ROUTER = "router"
HEARTBEAT_SECONDS = 2
ANSWER_WITHIN_SECONDS = 5


class HeartbeatWriter(threading.Thread):
    """Writes the document every HEARTBEAT_SECONDS, until `end`. For the holder of the checkpoint only.

    Args:
        database: where to.
        checkpoint: the router's place.
        run_id: the Dagster run that the router belongs to.
        progress: of the router; read each time.
    """

    def __init__(self, database: Database, *, checkpoint: str, run_id: str | None, progress: RouterProgress) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._collection = database[HEARTBEATS]
        self._checkpoint = checkpoint
        self._progress = progress
        self._ended = threading.Event()
        self._identity = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "run_id": run_id,
            "started_at": datetime.now(UTC),
        }

    def last(self) -> dict[str, Any]:
        """What the last router wrote; empty: there never was one."""
        return self._collection.find_one({"_id": ROUTER}) or {}

    def run(self) -> None:
        """Write until `end`."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with suppress(PyMongoError):  # a heartbeat may be missing: the sensor knows what to make of it
                self.send()

    def send(self) -> None:
        """Write one.

        Raises:
            PyMongoError: MongoDB does not answer.
        """
        progress = self._progress.to_json()
        fields = {"at": datetime.now(UTC), **self._identity, **progress, "moved_at": self._progress.moved_at}
        if progress["state"] != "starting":  # a checkpoint is one only when it has been used
            fields["checkpoint"] = self._checkpoint
        with pymongo.timeout(ANSWER_WITHIN_SECONDS):
            self._collection.update_one({"_id": ROUTER}, {"$set": fields}, upsert=True)

    def end(self) -> None:
        """Write the last one, and end."""
        self._ended.set()
        if self.is_alive():
            self.join(2 * ANSWER_WITHIN_SECONDS)
        with suppress(PyMongoError):
            self.send()
