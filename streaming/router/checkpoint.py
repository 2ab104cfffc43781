"""The router's checkpoint folder, which only one router may use: where each query goes on, and in which topic.

Spark writes the checkpoints of its queries here. This module reads where a query goes on, and writes entries of its own
in Spark's format: the first one of a new checkpoint, and one that moves a query behind what it cannot read. What Kafka
has of it is not known here (restart_offsets.py).
"""

import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metering.errors import MetersError
from metering.settings import READINGS_TOPIC

FAULTS_QUERY = "faults"
AGGREGATES_QUERY = "aggregates"

SHUFFLE_PARTITIONS, ROUTER_SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions", "1"
"""A setting of the router's Spark that the checkpoints hold as well: a batch is small, and one task is enough."""

TOPIC_FILE = "topic.json"

Offsets = dict[int, int]
"""An offset for each partition of iot-meter."""


class AlreadyRoutingError(MetersError):
    """Another router holds the checkpoint."""


class DamagedCheckpointError(Exception):
    """A query's checkpoint cannot be read; the text says why."""


@dataclass(frozen=True)
class KnownTopic:
    """The topic as the router last saw it.

    Args:
        topic_id: Kafka's own; a topic made again under the same name has another one.
        ends: where its partitions ended.
    """

    topic_id: str
    ends: Offsets


class Place:
    """The checkpoint folder, with one subfolder per query."""

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

    def position(self, query: str) -> Offsets | None:
        """Next offset of each partition that the query would read; None where it has not begun.

        Raises:
            DamagedCheckpointError: the checkpoint cannot be read.
        """
        folder = self.of(query)
        if not folder.exists() or not any(folder.iterdir()):
            return None
        try:
            json.loads((folder / "metadata").read_text())
            if (last := self._last_commit(query)) is not None:
                return _offsets((folder / "offsets" / str(last)).read_text().splitlines()[2])
            # A first batch that never ended: Spark has noted where it began, behind a zero byte.
            beginning = folder / "sources" / "0" / "0"
            return _offsets(beginning.read_text().splitlines()[1]) if beginning.exists() else None
        except (OSError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise DamagedCheckpointError(str(error)) from None

    def begin(self, query: str, at: Offsets) -> None:
        """Have the query begin there, as a new query; what its checkpoint was is kept beside it as `<query>.before`."""
        folder, aside = self.of(query), self.folder / f"{query}.before"
        if folder.exists():
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        folder.mkdir(parents=True)
        _write(folder / "metadata", json.dumps({"id": str(uuid.uuid4())}))
        self._commit(query, 0, at)

    def advance(self, query: str, at: Offsets) -> None:
        """Have the query go on there: the same query, with one more batch committed."""
        last = self._last_commit(query)
        self._commit(query, 0 if last is None else last + 1, at)

    def next_batch(self, query: str) -> int:
        """The number of the batch that the query would commit next."""
        last = self._last_commit(query)
        return 0 if last is None else last + 1

    def query_id(self, query: str) -> str:
        """Spark's id of the query, which its checkpoint keeps."""
        return json.loads((self.of(query) / "metadata").read_text())["id"]

    def topic(self) -> KnownTopic | None:
        """The topic that the checkpoints are about; None: not known yet."""
        try:
            kept = json.loads((self.folder / TOPIC_FILE).read_text())
            return KnownTopic(kept["topic_id"], {int(each): at for each, at in kept["ends"].items()})
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            return None

    def remember(self, topic: KnownTopic) -> None:
        """Keep which topic the checkpoints are about."""
        kept = {"topic_id": topic.topic_id, "ends": {str(each): at for each, at in topic.ends.items()}}
        _write(self.folder / TOPIC_FILE, json.dumps(kept))

    def _last_commit(self, query: str) -> int | None:
        numbers = [int(file.name) for file in (self.of(query) / "commits").glob("*") if file.name.isdigit()]
        return max(numbers, default=None)

    def _commit(self, query: str, batch: int, at: Offsets) -> None:
        """Write a batch's two entries, in Spark's order, and drop what was planned from there on."""
        folder = self.of(query)
        (folder / "offsets").mkdir(exist_ok=True)
        (folder / "commits").mkdir(exist_ok=True)
        for file in (folder / "offsets").glob("*"):
            if file.name.isdigit() and int(file.name) > batch:
                file.unlink()
        # Spark 4.2 compares this setting of a batch that was interrupted with that of the batch before it, and fails
        # for good ("None.get") where the one before has none.
        conf = {SHUFFLE_PARTITIONS: ROUTER_SHUFFLE_PARTITIONS}
        state: dict[str, Any] = {"batchWatermarkMs": 0, "batchTimestampMs": int(time.time() * 1000), "conf": conf}
        source = json.dumps({READINGS_TOPIC: {str(each): offset for each, offset in at.items()}})
        _write(folder / "offsets" / str(batch), f"v1\n{json.dumps(state)}\n{source}")
        _write(folder / "commits" / str(batch), 'v1\n{"nextBatchWatermarkMs":0}')


def _offsets(line: str) -> Offsets:
    return {int(partition): int(offset) for partition, offset in json.loads(line)[READINGS_TOPIC].items()}


def _write(file: Path, text: str) -> None:
    """Replace a file whole; Hadoop's checksum of what it was goes first."""
    file.with_name(f".{file.name}.crc").unlink(missing_ok=True)
    new = file.with_name(f".{file.name}.new")
    with new.open("w") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    new.rename(file)
