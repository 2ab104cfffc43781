"""What the router is doing: rows in, faults out, lag and latency, measured beside the queries and not by them."""

import json
import re
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from kafka.errors import KafkaError

from metering.fault_event import parse_fault_event
from metering.settings import READINGS_TOPIC, Settings
from streaming.kafka import follow, open_consumer, partitions_of
from streaming.router.place import FAULTS_QUERY

LATENCIES_KEPT = 5_000
"""Latencies that percentiles are taken of: those of the last faults."""

LATENCY_SECONDS = 60
"""How long a latency counts among the last ones."""

LOOK_SECONDS = 1
FETCH_SECONDS = 0.2

FAULTS_A_LOOK = 100
"""Faults of a partition that one look reads: the newest. Those of a backlog come faster than Python reads them, and
reading them would take the processor from the router."""


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
    """Looks at the fault topics from their end on: counts faults, and how long the newest were under way.

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
        self._began = {partition: self._consumer.position(partition) for partition in self._consumer.assignment()}

    def run(self) -> None:
        """Look until `stop`."""
        while not self._stop_event.wait(LOOK_SECONDS):
            with suppress(KafkaError):  # the queries say what is wrong with Kafka
                self._look()
        self._consumer.close()

    def _look(self) -> None:
        readings = partitions_of(self._consumer, READINGS_TOPIC)
        ends = self._consumer.end_offsets([*self._began, *readings])
        self.readings_end = sum(ends[partition] for partition in readings)
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

    def _see(self, record: Any, now: float) -> None:
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


class _RunningBatch(NamedTuple):
    number: int
    execution: int
    metric: int


class QueryRows:
    """How many rows the fault query has read, also in the middle of a batch that lasts minutes.

    Finished batches are in the query's progress. What the running one has read is in Spark's own metrics, which tasks
    report with every executor heartbeat; there is no public way to them.
    """

    def __init__(self, spark: Any, query: Any) -> None:
        self._store = spark._jsparkSession.sharedState().statusStore()
        self._query = query
        self._seen_batch = -1
        self._batch: _RunningBatch | None = None
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
        batch = self._batch
        if batch is None or batch.number <= self._seen_batch or self._has_ended(batch.execution):
            batch = self._batch = self._find_batch()
        if batch is None:
            return 0
        value = self._store.executionMetrics(batch.execution).get(batch.metric)
        return int(value.get().replace(",", "")) if value.isDefined() else 0

    def _has_ended(self, execution: int) -> bool:
        found = self._store.execution(execution)
        return found.isEmpty() or found.get().completionTime().isDefined()

    def _find_batch(self) -> _RunningBatch | None:
        """The batch that runs and is not counted yet. Asked of Spark once a batch: its answer takes a while."""
        executions = self._store.executionsList()
        for index in range(executions.size()):
            execution = executions.apply(index)
            number = re.search(r"batch = (\d+)", execution.description())
            if (
                number
                and execution.description().startswith(FAULTS_QUERY)
                and int(number[1]) > self._seen_batch
                and not execution.completionTime().isDefined()
                and (metric := self._rows_metric(execution.executionId())) is not None
            ):
                return _RunningBatch(int(number[1]), execution.executionId(), metric)
        return None

    def _rows_metric(self, execution: int) -> int | None:
        values = self._store.executionMetrics(execution)
        nodes = self._store.planGraph(execution).allNodes()
        for node in (nodes.apply(index) for index in range(nodes.size())):
            if node.name() == "RealTimeStreamScan":
                metrics = node.metrics()
                for metric in (metrics.apply(index) for index in range(metrics.size())):
                    # Spark plans a batch more than once: of these metrics the one that counts has a value.
                    if metric.name() == "number of output rows" and values.get(metric.accumulatorId()).isDefined():
                        return metric.accumulatorId()
        return None
