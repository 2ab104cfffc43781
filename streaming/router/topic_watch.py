"""The fault topics and the end of iot-meter, looked at from beside: faults out, their latency, and what waits."""

import threading
import time
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from metering.fault_event import parse_fault_event
from metering.settings import READINGS_TOPIC, Settings
from streaming.kafka.clients import follow, open_consumer, partitions_of, topic_ids
from streaming.router.checkpoint import Offsets
from streaming.router.raw_log import RawLog, Undelivered

LATENCIES_KEPT = 5_000
"""Latencies that percentiles are taken of: those of the last faults."""

LATENCY_SECONDS = 60
"""How long a latency counts among the last ones."""

LOOK_SECONDS = 1
FETCH_SECONDS = 0.2

FAULTS_A_LOOK = 100
"""Faults of a partition that one look reads: the newest. Those of a backlog come faster than Python reads them, and
reading them would take the processor from the router."""

METADATA_SECONDS = 10
"""How often Kafka is asked whether the topic is still the one that it was."""


class FaultTail(threading.Thread):
    """Looks at the fault topics from their end on: counts faults, and how long the newest were under way.

    It also asks where the readings end. A broker that does not answer makes a client wait, and only this thread may.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="fault-tail", daemon=True)
        self._stop_event = threading.Event()
        self._latencies: deque[tuple[float, float]] = deque(maxlen=LATENCIES_KEPT)
        self.faults = 0
        self.since: datetime | None = None
        self.ends: Offsets | None = None
        self.topic_id = ""
        self.looked_at = 0.0
        self._suspects: Offsets | None = None
        self._undelivered: tuple[Offsets, int] = ({}, 0)
        self._asked_at = time.monotonic()
        # Any: pyright's stubs describe kafka-python 2.
        self._consumer: Any = open_consumer(settings, group=None)
        follow(self._consumer, *settings.fault_topics)
        self._began = {partition: self._consumer.position(partition) for partition in self._consumer.assignment()}
        self._counted = Undelivered(RawLog(self._consumer, READINGS_TOPIC))

    def run(self) -> None:
        """Look until `stop`."""
        while not self._stop_event.wait(LOOK_SECONDS):
            with suppress(Exception):  # of whatever kind; `looked_at` shows that nothing is known any more
                self._look()
        self._consumer.close()

    def _look(self) -> None:
        if time.monotonic() - self._asked_at > METADATA_SECONDS:
            self._asked_at = time.monotonic()
            self._consumer._client.cluster.request_update()
        readings = partitions_of(self._consumer, READINGS_TOPIC)
        ends = self._consumer.end_offsets([*self._began, *readings])
        self.topic_id = topic_ids(self._consumer, READINGS_TOPIC).get(READINGS_TOPIC, "")
        self.ends = {partition.partition: ends[partition] for partition in readings}
        self.looked_at = time.monotonic()
        self.faults = sum(ends[partition] - began for partition, began in self._began.items())
        for partition in self._began:
            newest = ends[partition] - FAULTS_A_LOOK
            if self._consumer.position(partition) < newest:
                self._consumer.seek(partition, newest)
        polled = self._consumer.poll(timeout_ms=int(FETCH_SECONDS * 1000))
        now = time.monotonic()
        for records in polled.values():
            for record in records:
                self._see(record, now)
        if self._suspects is not None:
            begin = self._suspects
            self._undelivered = begin, self._counted.count(begin, self.ends)

    def _see(self, record: Any, now: float) -> None:
        try:
            arrived = parse_fault_event(record.value).received_at
        except ValueError:
            return
        if self.since is None or arrived < self.since:
            return
        self._latencies.append((now, record.timestamp - arrived.timestamp() * 1000))

    def waiting(self, begin: Offsets, read: int, *, still: bool) -> int | None:
        """Messages of iot-meter that the fault query has yet to read; None: not known.

        Args:
            begin: where its running batch began.
            read: what it has read since.
            still: it has read nothing since the last time. Then what is left may be markers of transactions, which
                nobody reads: they are counted from the next look on.
        """
        if self.ends is None:
            return None
        counted_from, undelivered = self._undelivered
        offsets = sum(end - begin.get(partition, 0) for partition, end in self.ends.items())
        left = offsets - read - (undelivered if counted_from == begin else 0)
        self._suspects = dict(begin) if left > 0 and (still or undelivered) else None
        return max(0, left)

    def begin(self) -> None:
        """Measure from now on: the router works."""
        self.since = self.since or datetime.now(UTC)

    def percentiles(self) -> tuple[float, float, float] | None:
        """p50, p99 and maximum of the last minute, in milliseconds."""
        since = time.monotonic() - LATENCY_SECONDS
        last = sorted(latency for at, latency in list(self._latencies) if at >= since)
        if not last:
            return None
        return last[len(last) // 2], last[min(len(last) - 1, int(len(last) * 0.99))], last[-1]

    def stop(self) -> None:
        """End the thread."""
        self._stop_event.set()
