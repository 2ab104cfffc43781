"""What the router is doing: rows in, faults out, lag and latency, measured beside the queries and not by them."""

import json
import re
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from kafka.errors import KafkaError

from metering.fault_event import parse_fault_event
from metering.settings import READINGS_TOPIC, Settings
from streaming.kafka import follow, open_consumer, partitions_of
from streaming.router.place import FAULTS_QUERY

LATENCIES_KEPT = 5_000
"""Latencies that percentiles are taken of: those of the last faults."""

LATENCY_SECONDS = 60
"""How long a latency counts among the last ones."""

POLL_SECONDS = 0.5
END_SECONDS = 1


@dataclass
class Progress:
    """Since the router's start, unless said otherwise.

    Args:
        rows_in: messages of iot-meter that the fault query has read.
        faults_out: events seen on the fault topics.
        lag: messages of iot-meter that the fault query has not read yet; None while unknown.
        rows_per_second: since the report before.
        latency_p50_ms: of the last minute's faults, from the reading's arrival at the broker to its fault's; None
            without a fault. Also latency_p99_ms and latency_max_ms. What arrived before the router worked has waited
            for it, and is left out.
        late_rows: readings older than the watermark when they came.
        gap: readings that were given up with --accept-gap.
        batches: batches that the fault query has finished.
        pause_ms: the last pause between two batches of the fault query.
    """

    rows_in: int = 0
    faults_out: int = 0
    lag: int | None = None
    rows_per_second: float = 0.0
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_max_ms: float | None = None
    late_rows: int = 0
    gap: int = 0
    batches: int = 0
    pause_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """For scripts, heartbeats and the UI."""
        return asdict(self)


class FaultTail(threading.Thread):
    """Follows the fault topics from their end on: counts faults, and how long each was under way.

    It also asks where the readings end. A broker that is away makes a client wait, and only this thread may: the
    heartbeat goes on.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="fault-tail", daemon=True)
        self._stop_event = threading.Event()
        self._latencies: deque[tuple[float, float]] = deque(maxlen=LATENCIES_KEPT)
        self.faults = 0
        self.since: datetime | None = None
        self.readings_end: int | None = None
        # Any: pyright's stubs describe kafka-python 2.
        self._consumer: Any = open_consumer(settings, group=None)
        follow(self._consumer, *settings.fault_topics)

    def run(self) -> None:
        """Follow until `stop`."""
        asked_at = 0.0
        while not self._stop_event.is_set():
            try:
                polled = self._consumer.poll(timeout_ms=int(POLL_SECONDS * 1000))
                if time.monotonic() - asked_at > END_SECONDS:
                    asked_at = time.monotonic()
                    ends = self._consumer.end_offsets(partitions_of(self._consumer, READINGS_TOPIC))
                    self.readings_end = sum(ends.values())
            except KafkaError:  # the queries say what is wrong with Kafka
                self._stop_event.wait(POLL_SECONDS)
                continue
            now = time.monotonic()
            for records in polled.values():
                for record in records:
                    self._see(record, now)
        self._consumer.close()

    def _see(self, record: Any, now: float) -> None:
        self.faults += 1
        try:
            arrived = parse_fault_event(record.value).received_at
        except ValueError:
            return
        if self.since is None or arrived < self.since:
            return
        self._latencies.append((now, record.timestamp - arrived.timestamp() * 1000))

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


class QueryRows:
    """How many rows the fault query has read, also in the middle of a batch that lasts minutes.

    Finished batches are in the query's progress. What the running one has read is in Spark's own metrics, which tasks
    report with every executor heartbeat; there is no public way to them.
    """

    def __init__(self, spark: Any, query: Any) -> None:
        self._store = spark._jsparkSession.sharedState().statusStore()
        self._query = query
        self._seen_batch = -1
        self._finished = 0
        self.position: int | None = None
        self.pause_ms: float | None = None
        self.batches = 0

    def update(self) -> tuple[int, int | None]:
        """Rows read since the start, and the sum of offsets read up to (None before the first batch has ended)."""
        for progress in self._query.recentProgress:
            if progress["batchId"] > self._seen_batch and progress["numInputRows"] is not None:
                self._seen_batch = progress["batchId"]
                self._finished += progress["numInputRows"]
                self.batches += 1
                durations = progress["durationMs"]
                if "addBatch" in durations:
                    self.pause_ms = durations["triggerExecution"] - durations["addBatch"]
                if end := progress["sources"][0]["endOffset"]:
                    offsets = json.loads(end) if isinstance(end, str) else end
                    self.position = sum(offsets[READINGS_TOPIC].values())
        running = self._running()
        position = None if self.position is None else self.position + running
        return self._finished + running, position

    def _running(self) -> int:
        executions = self._store.executionsList()
        rows = 0
        for number in range(executions.size()):
            execution = executions.apply(number)
            if execution.completionTime().isDefined() or not execution.description().startswith(FAULTS_QUERY):
                continue
            batch = re.search(r"batch = (\d+)", execution.description())
            if not batch or int(batch[1]) <= self._seen_batch:  # its rows are counted already
                continue
            values = self._store.executionMetrics(execution.executionId())
            nodes = self._store.planGraph(execution.executionId()).allNodes()
            for index in range(nodes.size()):
                node = nodes.apply(index)
                if node.name() == "RealTimeStreamScan":
                    metrics = node.metrics()
                    for each in range(metrics.size()):
                        metric = metrics.apply(each)
                        value = values.get(metric.accumulatorId())
                        if metric.name() == "number of output rows" and value.isDefined():
                            rows = max(rows, int(value.get().replace(",", "")))
        return rows
