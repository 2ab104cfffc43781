"""The router's place: its checkpoint folder, which only one router may use, and whether Kafka still continues there."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from metering.errors import MetersError
from metering.settings import READINGS_TOPIC, Settings
from streaming.kafka import kafka_errors, open_consumer, partitions_of

FAULTS_QUERY = "faults"
AGGREGATES_QUERY = "aggregates"
ACCEPT = "`meters route --accept-gap`"


class AlreadyRoutingError(MetersError):
    """Another router holds the checkpoint."""


@dataclass(frozen=True)
class Gap:
    """Readings that one query will never see.

    Args:
        readings: how many, at most.
        reset: the saved place means nothing any more; the query begins anew with the oldest reading there is.
        go_on_at: the next offset of each partition, where it is not reset.
    """

    query: str
    readings: int
    reset: bool
    go_on_at: dict[int, int] = field(default_factory=dict)


class Place:
    """The checkpoint folder with one subfolder a query."""

    def __init__(self, folder: str) -> None:
        if "://" in folder:
            raise MetersError(
                f"METERS_ROUTER_CHECKPOINT={folder} is not a folder", fix="Set it to an absolute folder of this machine"
            )
        self.folder = Path(folder)

    def of(self, query: str) -> Path:
        """Checkpoint of a query."""
        return self.folder / query

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the place for as long as the block lasts, or until this process dies.

        Raises:
            AlreadyRoutingError: another router holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise AlreadyRoutingError(
                    f"A router is at work on {self.folder} already (process {lock.read().strip() or 'unknown'})",
                    fix="Stop that one first, or give this one another METERS_ROUTER_CHECKPOINT",
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            yield

    def saved_offsets(self, query: str) -> dict[int, int] | None:
        """Next offset of each partition of iot-meter that the query would read; None where it has not begun.

        Raises:
            MetersError: the checkpoint is damaged.
        """
        folder = self.of(query)
        if not (folder / "metadata").exists():
            if folder.exists() and any(folder.iterdir()):
                raise self._damaged(query, "its metadata is missing")
            return None
        committed = [int(file.name) for file in (folder / "commits").glob("*") if file.name.isdigit()]
        if not committed:
            return None
        try:
            json.loads((folder / "metadata").read_text())
            lines = (folder / "offsets" / str(max(committed))).read_text().splitlines()
            offsets = json.loads(lines[2])[READINGS_TOPIC]
            return {int(partition): int(offset) for partition, offset in offsets.items()}
        except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise self._damaged(query, str(error)) from None

    def _damaged(self, query: str, why: str) -> MetersError:
        return MetersError(
            f"The checkpoint {self.of(query)} is damaged: {why}",
            fix=f"Restore it from a backup, or begin anew with the oldest readings in Kafka: {ACCEPT}",
        )

    def gaps(self, settings: Settings, queries: list[str]) -> list[Gap]:
        """What the queries have missed: readings that Kafka has dropped since, or a place that it no longer knows."""
        with kafka_errors(settings):
            consumer = open_consumer(settings, group=None)
            try:
                partitions = partitions_of(consumer, READINGS_TOPIC)
                first = {tp.partition: offset for tp, offset in consumer.beginning_offsets(partitions).items()}
                end = {tp.partition: offset for tp, offset in consumer.end_offsets(partitions).items()}
            finally:
                consumer.close()
        found = []
        for query in queries:
            try:
                saved = self.saved_offsets(query)
            except MetersError:
                found.append(Gap(query, 0, reset=True))
                continue
            if saved is None:
                continue
            if any(offset > end.get(partition, -1) for partition, offset in saved.items()):
                found.append(Gap(query, 0, reset=True))
                continue
            go_on_at = {partition: max(offset, saved.get(partition, offset)) for partition, offset in first.items()}
            missed = sum(go_on_at[partition] - offset for partition, offset in saved.items())
            if missed:
                found.append(Gap(query, missed, reset=False, go_on_at=go_on_at))
        return found

    def require_no_gap(self, settings: Settings, queries: list[str]) -> None:
        """Refuse to go on where readings would be skipped in silence.

        Raises:
            MetersError: naming what is missing, and how to accept it.
        """
        for query in queries:
            self.saved_offsets(query)  # says what is damaged
        for gap in self.gaps(settings, queries):
            if gap.reset:
                raise MetersError(
                    f"Kafka's topic {READINGS_TOPIC} ends before the place saved in {self.of(gap.query)}: "
                    "the topic was deleted and made again",
                    fix=f"Begin anew with the oldest readings in it: {ACCEPT}",
                )
            raise MetersError(
                f"Kafka has dropped {gap.readings:,} readings of {READINGS_TOPIC} that the router has not seen "
                "(retention has passed them)",
                fix=f"Go on with the oldest ones left: {ACCEPT}; and raise the topic's retention.ms",
            )

    def accept_gaps(self, settings: Settings, queries: list[str]) -> tuple[int, str]:
        """Make the queries able to go on.

        Returns:
            how many readings the fault query will never see, at most; and where it begins, as `startingOffsets` of
            the Kafka source, if it has no place of its own.
        """
        skipped, begin = 0, "earliest"
        for gap in self.gaps(settings, queries):
            # Micro-batches jump over a gap by themselves. Real-time mode does not: it begins anew behind the gap.
            if not gap.reset and gap.query == FAULTS_QUERY:
                skipped += gap.readings
                begin = json.dumps({READINGS_TOPIC: {str(partition): at for partition, at in gap.go_on_at.items()}})
            if gap.reset or gap.query == FAULTS_QUERY:
                aside = self.folder / f"{gap.query}.before-gap"
                shutil.rmtree(aside, ignore_errors=True)
                self.of(gap.query).rename(aside)
        return skipped, begin
