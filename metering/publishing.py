"""The state `publishing` of a local day: some of its figures may already be a run's own, and others not yet.

A day has several figures, each of which changes in one step. Before the first step a run leaves a mark in the day's
document in `iot.local_days`, and takes it out after the last one. A run that is killed in between leaves its mark:

    publishing: [{run: 3, run_id: "…", process: "host 4711 998877", since: …, assets: ["raw_readings", …]}]

The next run over the day finishes it. Marks are a list, since several runs may publish one day at once.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from pymongo.database import Database

from metering.process_identity import is_gone, is_on_this_host
from metering.store import LOCAL_DAYS

LEASE = timedelta(minutes=10)
"""A day is published in seconds. What a process of another host has not finished after so long counts as interrupted;
when it was only slow, the day is computed twice and the later run's figures stay."""


@dataclass(frozen=True)
class Publishing:
    """One run's mark on a day.

    Args:
        run: the run's number among those that worked on the day.
        run_id: the Dagster run.
        process: see processes.own_process.
        since: when its first step began.
        assets: what it publishes.
    """

    run: int
    run_id: str
    process: str
    since: datetime
    assets: tuple[str, ...]

    def is_interrupted(self, now: datetime) -> bool:
        """Will its run never go on?"""
        if is_on_this_host(self.process):
            return is_gone(self.process)
        return now - self.since > LEASE


def read_publishing(document: dict[str, Any]) -> Publishing:
    """A mark out of its document."""
    return Publishing(**{**document, "assets": tuple(document["assets"])})


def begin_publishing(database: Database, day: date, mark: Publishing) -> None:
    """Have the day say `publishing`; call it before the first step."""
    document = {**asdict(mark), "assets": sorted(mark.assets)}
    database[LOCAL_DAYS].update_one({"_id": str(day)}, {"$push": {"publishing": document}})


def end_publishing(database: Database, day: date, *, run: int, assets: Iterable[str]) -> None:
    """Take the run's mark out after its last step, and those of earlier runs whose figures it has replaced."""
    replaced = {"run": {"$lte": run}, "assets": {"$not": {"$elemMatch": {"$nin": sorted(assets)}}}}
    database[LOCAL_DAYS].update_one({"_id": str(day)}, {"$pull": {"publishing": replaced}})


def publishing_line(mark: Publishing, now: datetime) -> str:
    """What people read of a day with such a mark."""
    since, run = f"{mark.since:%Y-%m-%d %H:%M:%S} UTC", f"run {mark.run_id}"
    if mark.is_interrupted(now):
        return f"publishing since {since}: {run} was interrupted, and some figures may be older than others"
    return f"publishing since {since} by {run}"
