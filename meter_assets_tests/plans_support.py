"""Plans of queries: a test that no query of a workload reads a whole collection, whichever client sends it.

MongoDB itself records every command on a database while its profiler is on: those of pymongo in any process, and those
of Spark's connector. Nothing of the workload needs to know.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pymongo.database import Database

PROFILE_BYTES = 64 * 1024 * 1024
"""Of the collection that keeps what is recorded: the default of 1 MiB forgets after some hundred commands."""

ALL_COMMANDS, OFF = 2, 0

T = TypeVar("T")


@dataclass(frozen=True)
class Query:
    """One command that MongoDB has executed, or a further batch of one.

    Args:
        collection: that it reads.
        operation: find, aggregate, update, remove, count, …
        plan: MongoDB's summary, `COLLSCAN`, `IXSCAN { _id: 1 }`, `CLUSTERED_IXSCAN`, …
        examined: documents that it looked at.
        command: as it was sent.
    """

    collection: str
    operation: str
    plan: str
    examined: int
    command: dict[str, Any]

    @property
    def scans(self) -> bool:
        """Does it read the collection from its beginning? One document, whichever, is no scan."""
        return "COLLSCAN" in self.plan and self.examined > 1

    def __str__(self) -> str:
        return f"{self.operation} on {self.collection}: {self.plan}, {self.examined:,} documents: {self.command}"


@contextmanager
def recorded(database: Database) -> Iterator[list[Query]]:
    """The list that it yields has, after the block, every query that any client sent to the database meanwhile."""
    queries: list[Query] = []
    database.command("profile", OFF)
    database.drop_collection("system.profile")
    database.create_collection("system.profile", capped=True, size=PROFILE_BYTES)
    database.command("profile", ALL_COMMANDS)
    try:
        yield queries
    finally:
        database.command("profile", OFF)
        queries += (_query(entry) for entry in database["system.profile"].find() if entry.get("planSummary"))
        database.drop_collection("system.profile")


def assert_no_collection_scans(
    database: Database, workload: Callable[[], T], allowed: Collection[str] = (), *, reads: Collection[str] = ()
) -> T:
    """See that no query of the workload, of any client, reads a whole collection; returns what the workload does.

    Args:
        database: that the workload works on; its collections must hold more than one document each to be judged.
        workload: it may start processes, if it waits for them.
        allowed: collections that may be read whole, because they are small or because all of it is wanted.
        reads: collections that the workload must be seen to query; without them the test would show nothing.
    """
    with recorded(database) as queries:
        answer = workload()
    unseen = set(reads) - {query.collection for query in queries}
    assert not unseen, f"the workload did not query {sorted(unseen)}"
    scans = [query for query in queries if query.scans and query.collection not in allowed]
    assert not scans, "\n".join(["these queries read a whole collection:", *map(str, scans)])
    return answer


def _query(entry: dict[str, Any]) -> Query:
    command = entry.get("originatingCommand") or entry.get("command", {})
    noise = ("lsid", "$clusterTime", "$db", "$readPreference", "signature")
    return Query(
        collection=entry["ns"].split(".", 1)[1],
        operation=entry["op"] if entry["op"] != "command" else next(iter(command), "command"),
        plan=entry["planSummary"],
        examined=entry.get("docsExamined", 0),
        command={name: value for name, value in command.items() if name not in noise},
    )
