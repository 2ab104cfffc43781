"""What the router is doing: its figures, and rows in, measured beside the queries and not by them."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from metering.settings import READINGS_TOPIC
from streaming.router.checkpoint import FAULTS_QUERY, Offsets

STALLED_SECONDS = 15
"""A router that has not got on for so long, though something waits or Kafka is silent, calls itself stalled."""


@dataclass
class RouterProgress:
    """Since the router's start, unless said otherwise.

    Args:
        state: starting, running, stalled or stopping; see `to_json`.
        moved_at: when the fault query last got on, or had nothing to do.
        problem: what keeps the queries from running now, in one line; None: nothing.
        restarts: how often a query, or Spark itself, was started again.
        lost: messages that this installation's router could never read, ever; kept in `iot.lost_messages`.
        rows_in: messages of iot-meter that the fault query has read.
        faults_out: events seen on the fault topics.
        lag: messages of iot-meter that the fault query has not read yet; None while unknown.
        rows_per_second: since the report before.
        latency_p50_ms: of the last minute's faults, from the reading's arrival at the broker to its fault's; None
            without a fault. Also latency_p99_ms and latency_max_ms. What arrived before the router worked has waited
            for it, and is left out.
        late_rows: readings older than the watermark when they came.
        batches: batches that the fault query has finished.
        pause_ms: the last pause between two batches of the fault query.
    """

    state: str = "starting"
    moved_at: datetime | None = None
    problem: str | None = None
    restarts: int = 0
    lost: int = 0
    rows_in: int = 0
    faults_out: int = 0
    lag: int | None = None
    rows_per_second: float = 0.0
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None
    latency_max_ms: float | None = None
    late_rows: int = 0
    batches: int = 0
    pause_ms: float | None = None

    def moved(self) -> None:
        """Note that the fault query gets on, or has nothing to do."""
        self.moved_at = datetime.now(UTC)

    def still_seconds(self) -> float:
        """How long it has not got on."""
        return (datetime.now(UTC) - self.moved_at).total_seconds() if self.moved_at else 0.0

    def to_json(self) -> dict[str, Any]:
        """For scripts, heartbeats and the UI. The state is `running` only while it gets on or nothing waits."""
        fields = asdict(self)
        del fields["moved_at"]
        if self.state == "running" and self.still_seconds() > STALLED_SECONDS:
            fields["state"] = "stalled"
        return fields


class _RunningBatch(NamedTuple):
    number: int
    execution: int
    metric: int


class QueryRows:
    """How many rows the fault query has read, also in the middle of a batch that lasts minutes.

    Finished batches are in the query's progress. What the running one has read is in Spark's own metrics, which tasks
    report with every executor heartbeat; there is no public way to them.
    """

    def __init__(self, spark: Any, query: Any, begin: Offsets) -> None:
        self._store = spark._jsparkSession.sharedState().statusStore()
        self._query = query
        self.begin = begin
        self._seen_batch = -1
        self._batch: _RunningBatch | None = None
        self._finished = 0
        self.pause_ms: float | None = None
        self.batches = 0

    def update(self) -> tuple[int, int]:
        """Rows read since the query's start, and how many of them since `begin`: where the running batch began."""
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
                    self.begin = {int(each): at for each, at in offsets[READINGS_TOPIC].items()}
        running = self._running()
        return self._finished + running, running

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
