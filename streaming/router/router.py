"""The router: faulty readings from iot-meter to the fault topics while they happen, with windows beside them.

Two queries in one Spark application of its own. The fault query runs in real-time mode: one message at a time, in
batches that last minutes and only serve to save its place. After a crash it repeats up to one batch of output, which
ingest recognises. The aggregates' query runs in micro-batches.
"""

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

from py4j.protocol import Py4JError
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession

from metering.errors import MetersError
from metering.faults import faults, rules_in_force, with_registry
from metering.registry import METER_SPARK_SCHEMA, METERS
from metering.settings import ABNORMAL_TOPIC, READINGS_TOPIC, Settings
from metering.store import connect, ensure_collections
from streaming.kafka import ensure_topics, kafka_errors, open_consumer, partitions_of
from streaming.router.aggregates import MAX_ROWS_A_BATCH, Aggregates, in_time
from streaming.router.failures import died, first_line
from streaming.router.heartbeat import Heartbeat
from streaming.router.messages import fault_messages, is_reading, readings
from streaming.router.place import AGGREGATES_QUERY, FAULTS_QUERY, Place
from streaming.router.progress import FaultTail, Progress, QueryRows
from streaming.router.session import end, router_session

HEARTBEAT_SECONDS = 2
STUCK_SECONDS = 60
"""How long the fault query may stand still with readings waiting before the router says that it is stuck."""

AGGREGATES_EVERY = "5 seconds"

RECORDS_A_POLL = 10_000
"""Readings taken from Kafka at once; some 1.5 MB. Spark asks for a partition's bounds and fetches anew at every poll:
Kafka's default of 500 throws most of what a fetch brings away."""


class Router:
    """One router.

    Args:
        settings: where everything is.
        jars: Spark's connectors, comma-separated.
        aggregates: run the windows' query as well.
        accept_gap: go on where Kafka no longer has what comes next, and count what is missing.
        run_id: the Dagster run that this belongs to, for the heartbeat.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        jars: str,
        aggregates: bool = True,
        accept_gap: bool = False,
        run_id: str | None = None,
    ) -> None:
        self._settings = settings
        self._jars = jars
        self._with_aggregates = aggregates
        self._accept_gap = accept_gap
        self._run_id = run_id
        self._stop = threading.Event()
        self._begin = "earliest"
        self._began = 0
        self.progress = Progress()

    def stop(self) -> None:
        """Ask `run` to end the queries and return; for signal handlers and other threads."""
        self._stop.set()

    def run(self, on_progress: Callable[[Progress], None] | None = None) -> Progress:
        """Route until `stop`.

        Args:
            on_progress: called every HEARTBEAT_SECONDS once the queries run.

        Raises:
            MetersError: a query died, with its reason, or a service is away.
            AlreadyRoutingError: another router holds the checkpoint.
        """
        settings = self._settings
        place = Place(settings.router_place)
        with place.locked():
            database = connect(settings)
            try:
                ensure_collections(database)
                heartbeat = Heartbeat(database, checkpoint=settings.router_place, run_id=self._run_id)
                self._settle(place, heartbeat)
                heartbeat.send("starting", self.progress)
                with router_session(settings, jars=self._jars, partitions=self._partitions()) as spark:
                    self._route(spark, place, database, heartbeat, on_progress)
            finally:
                with suppress(PyMongoError):
                    database.client.close()
        return self.progress

    def _queries(self) -> list[str]:
        return [FAULTS_QUERY, AGGREGATES_QUERY] if self._with_aggregates else [FAULTS_QUERY]

    def _settle(self, place: Place, heartbeat: Heartbeat) -> None:
        """See that the topics are there, and that the saved place still means something."""
        settings = self._settings
        has_routed = heartbeat.last().get("checkpoint") == str(place.folder)
        if has_routed and not self._accept_gap and not self._topic_exists():
            raise MetersError(
                f"The topic {READINGS_TOPIC} is gone from Kafka at {settings.kafka}",
                fix="Make it again and send what is missing, then `meters route --accept-gap`",
            )
        ensure_topics(settings, READINGS_TOPIC, *settings.fault_topics)
        if self._accept_gap:
            self.progress.gap, self._begin = place.accept_gaps(settings, self._queries())
        elif has_routed and not place.of(FAULTS_QUERY).exists():
            raise MetersError(
                f"The checkpoint {place.of(FAULTS_QUERY)} is gone",
                fix="Restore it from a backup, or route everything that Kafka still has again, which stores no fault "
                "twice: `meters route --accept-gap`",
            )
        else:
            place.require_no_gap(settings, self._queries())

    def _topic_exists(self) -> bool:
        with kafka_errors(self._settings):
            consumer = open_consumer(self._settings, group=None)
            try:
                return READINGS_TOPIC in consumer.topics()
            finally:
                consumer.close()

    def _partitions(self) -> int:
        with kafka_errors(self._settings):
            consumer = open_consumer(self._settings, group=None)
            try:
                return len(partitions_of(consumer, READINGS_TOPIC)) or self._settings.kafka_partitions
            finally:
                consumer.close()

    def _route(
        self,
        spark: SparkSession,
        place: Place,
        database: Database,
        heartbeat: Heartbeat,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        tail = FaultTail(self._settings)
        tail.start()
        aggregates = Aggregates(
            database,
            keep=timedelta(days=self._settings.window_days),
            late_seconds=self._settings.late_seconds,
        )
        self._began = self._began_at(place)
        try:
            queries = [self._start_faults(spark, place)]
            if self._with_aggregates:
                queries.append(self._start_aggregates(spark, place, aggregates))
            self._watch(QueryRows(spark, queries[0]), queries, heartbeat, tail, aggregates, on_progress)
            heartbeat.send("stopping", self.progress)
            aggregates.stopping = True
            end(spark, queries)
        finally:
            tail.stop()

    def _registry(self, spark: SparkSession) -> DataFrame:
        """The registry; a static frame of a stream is read again for each batch."""
        return (
            spark.read.format("mongodb")
            .option("connection.uri", self._settings.mongo)
            .option("database", self._settings.mongo_database)
            .option("collection", METERS)
            .option("partitioner", "com.mongodb.spark.sql.connector.read.partitioner.SinglePartitionPartitioner")
            .schema(METER_SPARK_SCHEMA)
            .load()
        )

    def _source(self, spark: SparkSession, **options: str) -> DataFrame:
        return (
            spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", self._settings.kafka)
            .option("kafka.isolation.level", "read_committed")
            .option("kafka.max.poll.records", str(RECORDS_A_POLL))
            .option("subscribe", READINGS_TOPIC)
            .option("startingOffsets", "earliest")  # where the checkpoint says nothing
            .option("failOnDataLoss", str(not self._accept_gap).lower())
            .options(**options)
            .load()
        )

    def _start_faults(self, spark: SparkSession, place: Place) -> Any:
        settings = self._settings
        rules = rules_in_force(unknown_meters=settings.unknown_meters)
        messages = fault_messages(
            readings(self._source(spark, startingOffsets=self._begin)),
            self._registry(spark),
            rules,
            topic=ABNORMAL_TOPIC,
            topics=settings.abnormal_topics,
        )
        real_time = {"realTime": f"{settings.router_batch_seconds} seconds"}
        trigger = real_time if settings.router_mode == "real-time" else {"processingTime": "0 seconds"}
        return (
            messages.writeStream.queryName(FAULTS_QUERY)
            .format("kafka")
            .option("kafka.bootstrap.servers", settings.kafka)
            .option("kafka.acks", "all")
            .option("checkpointLocation", str(place.of(FAULTS_QUERY)))
            .outputMode("update")
            .trigger(**trigger)
            .start()
        )

    def _start_aggregates(self, spark: SparkSession, place: Place, aggregates: Aggregates) -> Any:
        rules = rules_in_force(unknown_meters=self._settings.unknown_meters)
        source = self._source(spark, maxOffsetsPerTrigger=str(MAX_ROWS_A_BATCH))
        judged = with_registry(in_time(readings(source).where(is_reading())), self._registry(spark))
        query = (
            judged.withColumn("faults", faults(rules))
            .writeStream.queryName(AGGREGATES_QUERY)
            .option("checkpointLocation", str(place.of(AGGREGATES_QUERY)))
            .trigger(processingTime=AGGREGATES_EVERY)
            .foreachBatch(aggregates.write)
            .start()
        )
        aggregates.query_id = lambda: str(query.id)
        return query

    def _watch(
        self,
        rows: QueryRows,
        queries: list[Any],
        heartbeat: Heartbeat,
        tail: FaultTail,
        aggregates: Aggregates,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        """Report until `stop`; raises when a query dies or stands still."""
        moved_at = reported_at = time.monotonic()
        try:
            while not self._stop.wait(HEARTBEAT_SECONDS):
                for query in queries:
                    if not query.isActive:
                        raise died(query.name, query.exception())
                before = self.progress.rows_in
                now = time.monotonic()
                self._measure(rows, tail, aggregates, seconds=now - reported_at)
                reported_at = now
                if self.progress.rows_in != before or not self.progress.lag:
                    moved_at = now
                if now - moved_at > STUCK_SECONDS:
                    raise MetersError(
                        f"The fault query has stood still for {STUCK_SECONDS} s with {self.progress.lag:,} readings "
                        "waiting",
                        fix="Start the router again; it goes on where it was",
                    )
                heartbeat.send("running", self.progress)
                if on_progress:
                    on_progress(self.progress)
        except PySparkException as error:
            raise MetersError(f"Spark gave up: {first_line(error)}", fix="Start the router again") from error
        except (Py4JError, OSError) as error:
            raise MetersError("The router's Spark process has died", fix="Start the router again") from error

    def _measure(self, rows: QueryRows, tail: FaultTail, aggregates: Aggregates, *, seconds: float) -> None:
        progress = self.progress
        before = progress.rows_in
        rows_in, position = rows.update()
        progress.rows_in = max(before, rows_in)  # between a batch's end and its report, its rows are in neither
        progress.batches, progress.pause_ms = rows.batches, rows.pause_ms
        progress.rows_per_second = round((progress.rows_in - before) / max(seconds, 0.001), 1)
        tail.begin()
        progress.faults_out = tail.faults
        progress.late_rows = aggregates.late_readings
        percentiles = tail.percentiles()
        numbers = [round(number, 1) for number in percentiles] if percentiles else [None] * 3
        progress.latency_p50_ms, progress.latency_p99_ms, progress.latency_max_ms = numbers
        if tail.readings_end is not None:
            read = self._began + progress.rows_in if position is None else position
            progress.lag = max(0, tail.readings_end - read)

    def _began_at(self, place: Place) -> int:
        """Sum of the offsets that the fault query begins with."""
        if saved := place.saved_offsets(FAULTS_QUERY):
            return sum(saved.values())
        if self._begin != "earliest":
            return sum(json.loads(self._begin)[READINGS_TOPIC].values())
        with kafka_errors(self._settings):
            consumer = open_consumer(self._settings, group=None)
            try:
                return sum(consumer.beginning_offsets(partitions_of(consumer, READINGS_TOPIC)).values())
            finally:
                consumer.close()
