"""Keeps the router's queries running: starts them, watches them, and starts again what has died.

A query that fails is started again by itself, after pauses that grow. The fault query's end, a batch that Spark cannot
take, or the end of Spark's JVM takes the other query along, because both read the same topic in the same JVM. What ends
the process is left: a stop, and what no restart can change. A router that hangs altogether is the sensor's.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from py4j.protocol import Py4JError
from pymongo.errors import PyMongoError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from metering.errors import MetersError
from metering.settings import Settings
from runtime.mongo_errors import mongo_unavailable
from streaming.router.aggregates import Aggregates
from streaming.router.checkpoint import FAULTS_QUERY, KnownTopic, Place
from streaming.router.failures import Failure, explain
from streaming.router.poison import Poison
from streaming.router.poison_detour import pass_over
from streaming.router.progress import STALLED_SECONDS, QueryRows, RouterProgress
from streaming.router.queries import Queries
from streaming.router.restart_offsets import Report, RestartOffsets
from streaming.router.session import OUT_OF_MEMORY, discard_jvm, router_session, spark_log
from streaming.router.topic_watch import FaultTail

LOOK_SECONDS = 2
STUCK_SECONDS = 60
"""How long the fault query may stand still with readings waiting before it is started again."""

FIRST_PAUSE_SECONDS = 1
LONGEST_PAUSE_SECONDS = 30
SOUND_SECONDS = 60
"""A query that has run for so long did not die of what the one before it died of."""

REMEMBER_SECONDS = 10
"""How often the topic's ends are kept: what is lost when it is deleted is counted from them."""

BEHIND_LOOKS = 3
"""How many looks in a row must see the topic end before the fault query's offsets: Kafka is asked from beside."""


STUCK_AT_POISON = Failure("it cannot get on")


class PoisonedError(Exception):
    """Spark is at work on what it cannot take: its JVM has to end."""


class Supervisor:
    """Runs the queries until `stop`.

    Args:
        settings: where everything is.
        jars: Spark's connectors, comma-separated.
        place: the checkpoints, which this process holds.
        restart_offsets: compares them with Kafka.
        aggregates: where windows go; None: the fault query alone.
        progress: kept up to date.
        stop: ends it.
        report: takes one line for each thing that a user must know.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        jars: str,
        place: Place,
        restart_offsets: RestartOffsets,
        names: list[str],
        aggregates: Aggregates | None,
        progress: RouterProgress,
        stop: threading.Event,
        report: Report,
    ) -> None:
        self._settings = settings
        self._jars = jars
        self._place = place
        self._restart_offsets = restart_offsets
        self._names = names
        self._aggregates = aggregates
        self._progress = progress
        self._stop = stop
        self._report = report
        self._due = dict.fromkeys(names, 0.0)
        self._failures = dict.fromkeys(names, 0)
        self._started_at: dict[str, float] = {}
        self._must_settle = self._must_search = self._searched_in_vain = False
        self._rows: QueryRows | None = None
        self._rows_before = self._batches_before = 0
        self._behind = 0
        self._found: list[Poison] = []
        self._searched_stall = False
        self._measured_at = self._remembered_at = time.monotonic()

    def run(self, partitions: int, on_progress: Callable[[RouterProgress], None] | None) -> None:
        """Run until `stop`.

        Args:
            partitions: of the topic.
            on_progress: called at every look.

        Raises:
            MetersError: a query cannot run in this installation, or Spark never started.
        """
        self._tail = FaultTail(self._settings)
        self._tail.start()
        try:
            while not self._stop.is_set():
                try:
                    with router_session(self._settings, jars=self._jars, partitions=partitions) as spark:
                        partitions = self._session(spark, partitions, on_progress)
                except (Py4JError, PySparkException, OSError, PoisonedError) as error:
                    # The JVM has died, or does not answer any more, or must not go on.
                    code = discard_jvm(at_once=isinstance(error, PoisonedError))
                    if self._stop.is_set():  # a signal to the whole process group has ended Spark before us
                        return
                    why = STUCK_AT_POISON if isinstance(error, PoisonedError) else _lost_spark(code, self._settings)
                    self._failed(*self._names, failure=why, line="Spark died")
                    self._stop.wait(_pause(self._failures[FAULTS_QUERY]))
        finally:
            self._tail.stop()

    def _session(
        self, spark: SparkSession, partitions: int, on_progress: Callable[[RouterProgress], None] | None
    ) -> int:
        """Run the queries in one Spark session until `stop`, or until the topic has other partitions; their number."""
        queries = Queries(self._settings, spark, self._place, self._aggregates)
        while not self._stop.is_set():
            self._start_what_is_due(queries, spark)
            if self._stop.wait(LOOK_SECONDS):
                break
            self._bury(queries)
            self._measure(queries)
            self._look_after(queries)
            if on_progress:
                on_progress(self._progress)
            if self._tail.ends and len(self._tail.ends) > partitions:
                # Real-time mode needs a task slot per partition, and their number is fixed at the session's start.
                partitions = len(self._tail.ends)
                self._report(f"The topic has {partitions} partitions now: starts Spark again with as many tasks")
                self._forget(queries)
                return partitions
        self._progress.state = "stopping"
        queries.stop(*reversed(self._names))
        return partitions

    def _start_what_is_due(self, queries: Queries, spark: SparkSession) -> None:
        now = time.monotonic()
        due = [name for name, at in self._due.items() if at <= now]
        if not due:
            return
        try:
            due = self._prepare(due, queries, spark)
        except (MetersError, PyMongoError) as error:
            known = error if isinstance(error, MetersError) else mongo_unavailable(self._settings, error)
            failure = Failure(known.message, service=True)
            self._failed(*due, failure=failure, line=f"Cannot start the {' and '.join(due)} query now")
            return
        for name in due:
            query = queries.start(name)
            del self._due[name]
            self._started_at[name] = time.monotonic()
            if name == FAULTS_QUERY:
                self._searched_stall = False
                if self._progress.moved_at is None:
                    self._progress.moved()
                self._rows = QueryRows(spark, query, self._place.position(name) or {})

    def _prepare(self, due: list[str], queries: Queries, spark: SparkSession) -> list[str]:
        """Correct what the queries died of; those to start, which are all where all had to stop for it."""
        if self._must_settle and (FAULTS_QUERY in due or FAULTS_QUERY not in self._due):
            self._forget(queries)
            self._restart_offsets.settle()
            self._must_settle = False
            due = list(self._names)
        if self._must_search:
            found = self._found + self._restart_offsets.find_poison(thorough=self._searched_in_vain)
            self._searched_in_vain = not found
            if found:
                self._forget(queries)
                pass_over(self._settings, spark, self._place, queries, self._names, found)
                due = list(self._names)
            self._found = []
            self._must_search = False
        self._progress.lost = self._restart_offsets.lost()
        return due

    def _forget(self, queries: Queries) -> None:
        """Stop all queries, to be started again."""
        self._collect_rows()
        queries.stop(*reversed(self._names))
        self._due = dict.fromkeys(self._names, 0.0)

    def _collect_rows(self) -> None:
        if self._rows is not None:
            self._rows_before = self._progress.rows_in
            self._batches_before = self._progress.batches
            self._rows = None

    def _bury(self, queries: Queries) -> None:
        """Note which queries have died, and why."""
        for name in self._names:
            query = queries.get(name)
            if query is None or query.isActive:
                continue
            folders = [Path(self._place.folder), self._settings.home]
            failure = explain(query.exception(), folders=folders)
            if failure.fatal:
                raise MetersError(f"The {name} query died: {failure.why}", fix=failure.fatal)
            queries.stop(name)
            self._failed(name, failure=failure, line=f"The {name} query died")

    def _failed(self, *names: str, failure: Failure, line: str) -> None:
        """Have queries start again after a pause, and note what has to be looked at before."""
        now = time.monotonic()
        for name in names:
            started_at = self._started_at.pop(name, None)
            sound = self._progress.still_seconds() < SOUND_SECONDS
            if sound and started_at is not None and now - started_at > SOUND_SECONDS:
                self._failures[name] = 0
                self._searched_in_vain = False
            self._failures[name] += 1
            self._due[name] = now + _pause(self._failures[name])
            if failure.damaged:
                self._restart_offsets.give_up(name)
        self._progress.restarts += 1
        self._progress.problem = f"{line}: {failure.why}"
        pause = max(_pause(self._failures[name]) for name in names)
        more = "" if failure.service else f". Spark's log: {spark_log(self._settings)}"
        self._report(f"{self._progress.problem}. Starts again in {pause} s{more}")
        self._must_search |= not failure.service
        self._must_settle |= failure.damaged or FAULTS_QUERY in names
        if FAULTS_QUERY in names:
            self._collect_rows()

    def _measure(self, queries: Queries) -> None:
        progress, tail = self._progress, self._tail
        before, now = progress.rows_in, time.monotonic()
        running = 0
        if self._rows is not None:
            total, running = self._rows.update()
            # Between a batch's end and its report, its rows are in neither.
            progress.rows_in = max(before, self._rows_before + total)
            progress.batches, progress.pause_ms = self._batches_before + self._rows.batches, self._rows.pause_ms
        progress.rows_per_second = round((progress.rows_in - before) / max(now - self._measured_at, 0.001), 1)
        self._measured_at = now
        tail.begin()
        progress.faults_out = tail.faults
        progress.late_rows = self._aggregates.late_readings if self._aggregates else 0
        percentiles = tail.percentiles()
        numbers = [round(number, 1) for number in percentiles] if percentiles else [None] * 3
        progress.latency_p50_ms, progress.latency_p99_ms, progress.latency_max_ms = numbers
        moved = progress.rows_in != before
        if self._rows is None or now - tail.looked_at > STALLED_SECONDS:
            progress.lag = None
        else:
            progress.lag = tail.waiting(self._rows.begin, running, still=not moved)
        if moved or (progress.lag == 0 and not self._behind):
            progress.moved()
            self._searched_stall = False
            if not self._due:
                progress.problem = None
        if self._rows is not None and progress.state == "starting":
            progress.state = "running"

    def _look_after(self, queries: Queries) -> None:
        """See that the fault query gets on, and that its topic is still the one that it began with."""
        progress, tail, now = self._progress, self._tail, time.monotonic()
        if self._rows is None or tail.ends is None:
            return
        is_behind = any(at > tail.ends.get(each, -1) for each, at in self._rows.begin.items())
        self._behind = self._behind + 1 if is_behind else 0
        known = self._place.topic()
        made_again = bool(known and known.topic_id and tail.topic_id and tail.topic_id != known.topic_id)
        if self._behind >= BEHIND_LOOKS or made_again:
            self._behind = 0
            self._forget(queries)
            failure = Failure("its topic was deleted or made again", service=True)
            self._failed(FAULTS_QUERY, failure=failure, line="The faults query was stopped")
            return
        if tail.topic_id and now - self._remembered_at > REMEMBER_SECONDS:
            self._remembered_at = now
            self._place.remember(KnownTopic(tail.topic_id, dict(tail.ends)))
        still = min(progress.still_seconds(), now - self._started_at[FAULTS_QUERY])
        if progress.lag and still > STALLED_SECONDS and not self._searched_stall:
            self._searched_stall = True
            self._search_stall()
        # On a busy machine a query may need longer than that to begin: each attempt has more time than the last.
        if progress.lag and still > STUCK_SECONDS * (1 + self._failures[FAULTS_QUERY]):
            self._forget(queries)
            why = f"it has stood still for {still:.0f} s with {progress.lag:,} readings waiting"
            self._failed(FAULTS_QUERY, failure=Failure(why), line="The faults query was stopped")

    def _search_stall(self) -> None:
        """Look for what the fault query may be unable to pass. Java takes minutes to run out of memory for good."""
        with suppress(MetersError, PyMongoError):  # neither is why it stands still, and both are reported when it ends
            if found := self._restart_offsets.find_poison():
                self._found = found
                raise PoisonedError


def _pause(failures: int) -> int:
    """Seconds before the next start, after so many failures in a row."""
    return min(FIRST_PAUSE_SECONDS * 2 ** max(0, min(failures - 1, 10)), LONGEST_PAUSE_SECONDS)


def _lost_spark(code: int | None, settings: Settings) -> Failure:
    if code == OUT_OF_MEMORY:
        return Failure(f"it ran out of memory (METERS_SPARK_MEMORY={settings.spark_memory})")
    return Failure("its process does not answer" if code is None else f"its process ended with code {code}")


def no_report(line: str) -> None:
    """For a router whose lines nobody reads."""
