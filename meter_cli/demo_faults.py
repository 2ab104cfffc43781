"""The demo's real-time half: the router beside the past days, and what it must have found in them."""

import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pymongo.database import Database

from local_stack.child import Child
from metering.errors import MetersError
from metering.settings import Settings
from metering.store import FAULTS, HEARTBEATS
from runtime.child_process import CHECKPOINT_HELD
from runtime.database import open_database
from streaming.ingest.batch import faults_feed
from streaming.ingest.member import Ingest
from streaming.simulator.sent_ledger import Ledger

ROUTE_WITHIN_SECONDS = 300
POLL_SECONDS = 0.5


def start_command(settings: Settings, name: str, *arguments: str) -> Child:
    """Start a `meters` command as a child whose output goes to `<home>/logs/<name>.log`."""
    log = settings.home / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    return Child(
        [str(Path(sys.executable).with_name("meters")), *arguments],
        log=log,
        cwd=Path.cwd(),
        environment=settings.environment(),
        death_signal=signal.SIGTERM,
    )


def store_routed_faults(settings: Settings, router: Child, ledger: Ledger) -> dict[str, Any]:
    """Wait until the router has read all that was sent, and store the faults that it found.

    Returns:
        The router's last heartbeat.

    Raises:
        MetersError: the router died, or does not come to the end.
    """
    with open_database(settings) as database:
        since, deadline = datetime.now(UTC), time.monotonic() + ROUTE_WITHIN_SECONDS
        while True:
            heartbeat = database[HEARTBEATS].find_one({"_id": "router", "state": "running", "at": {"$gt": since}})
            if heartbeat and heartbeat["lag"] == 0:
                Ingest(settings, feed=faults_feed(settings)).run(until_caught_up=True)
                # Read is not yet sent: the last faults may still be on their way to the topic.
                if not list(_missing(ledger, database)) or time.monotonic() > deadline:
                    return heartbeat
            if router.exit_code not in (None, CHECKPOINT_HELD):
                raise MetersError("The router has ended", fix=f"Read {settings.home / 'logs' / 'route'}.log")
            if time.monotonic() > deadline:
                raise MetersError(
                    f"The router has not read everything within {ROUTE_WITHIN_SECONDS} s",
                    fix=f"Read {settings.home / 'logs' / 'route'}.log",
                )
            time.sleep(POLL_SECONDS)


def routed_faults(ledger: Ledger, database: Database, start: datetime, end: datetime) -> Iterator[str]:
    """Every injected fault is routed, and no healthy reading of [start, end) is; a line for each that differs."""
    yield from (f"{fault} was injected and not routed" for fault in _missing(ledger, database))
    injected = set(ledger.fault_ids)
    routed = database[FAULTS].find({"timestamp": {"$gte": start, "$lt": end}}, {"rules.explanation": 1})
    for document in routed:
        if document["_id"] not in injected:
            yield f"{document['_id']} was healthy and is routed: {document['rules'][0]['explanation']}"


def _missing(ledger: Ledger, database: Database) -> Iterator[str]:
    injected = list(ledger.fault_ids)
    found = {document["_id"] for document in database[FAULTS].find({"_id": {"$in": injected}}, {"_id": 1})}
    yield from (fault for fault in injected if fault not in found)
