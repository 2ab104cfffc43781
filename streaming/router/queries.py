"""The two queries of the router: how each is started, and what it writes. When and how often is supervisor.py's."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pymongo.database import Database
from pyspark.sql import DataFrame, SparkSession

from metering.fault_rules import faults, rules_in_force, with_registry
from metering.registry import METER_SPARK_SCHEMA, METERS
from metering.settings import ABNORMAL_TOPIC, READINGS_TOPIC, Settings
from streaming.router.aggregates import MAX_ROWS_A_BATCH, Aggregates, in_time
from streaming.router.checkpoint import AGGREGATES_QUERY, FAULTS_QUERY, Place
from streaming.router.messages import fault_messages, is_reading, readings
from streaming.router.poison import RECORDS_A_POLL
from streaming.router.session import quiet, stop_query

AGGREGATES_EVERY = "5 seconds"


class Queries:
    """The queries of one Spark session.

    Args:
        settings: where everything is.
        spark: the session.
        place: their checkpoints.
        aggregates: where windows go; None: the fault query alone.
    """

    def __init__(self, settings: Settings, spark: SparkSession, place: Place, aggregates: Aggregates | None) -> None:
        self._settings = settings
        self._spark = spark
        self._place = place
        self._aggregates = aggregates
        self._running: dict[str, Any] = {}
        self._rules = rules_in_force(unknown_meters=settings.unknown_meters)

    def start(self, name: str) -> Any:
        """Start a query; Spark's own object for it."""
        starts: dict[str, Callable[[], Any]] = {FAULTS_QUERY: self._faults, AGGREGATES_QUERY: self._windows}
        self._running[name] = starts[name]()
        return self._running[name]

    def get(self, name: str) -> Any:
        """A query that was started; None: it was not, or was stopped."""
        return self._running.get(name)

    def stop(self, *names: str) -> None:
        """Stop queries; what a fault batch has not committed is repeated when it starts again."""
        quiet(self._spark)
        for name in names:
            if query := self._running.pop(name, None):
                if name == AGGREGATES_QUERY and self._aggregates:
                    self._aggregates.stopping = True
                try:
                    stop_query(query)
                finally:
                    if self._aggregates:
                        self._aggregates.stopping = False
        quiet(self._spark, "ERROR")

    def route_once(self, name: str, messages: DataFrame, batch: int) -> None:
        """Do with some messages what a query does with a batch.

        Args:
            name: the query.
            messages: columns of the Kafka source that `readings` uses.
            batch: its number in the query's checkpoint.
        """
        if name == FAULTS_QUERY:
            self._fault_messages(messages).write.format("kafka").options(**self._sink()).save()
        elif self._aggregates:
            self._aggregates.query_id = self._place.query_id(AGGREGATES_QUERY)
            self._aggregates.write(self._judged(messages), batch)

    def _registry(self) -> DataFrame:
        """The registry; a static frame of a stream is read again for each batch."""
        return (
            self._spark.read.format("mongodb")
            .option("connection.uri", self._settings.mongo)
            .option("database", self._settings.mongo_database)
            .option("collection", METERS)
            .option("partitioner", "com.mongodb.spark.sql.connector.read.partitioner.SinglePartitionPartitioner")
            .schema(METER_SPARK_SCHEMA)
            .load()
        )

    def _source(self, **options: str) -> DataFrame:
        return (
            self._spark.readStream.format("kafka")
            .option("kafka.bootstrap.servers", self._settings.kafka)
            .option("kafka.isolation.level", "read_committed")
            .option("kafka.max.poll.records", str(RECORDS_A_POLL))
            .option("subscribe", READINGS_TOPIC)
            .option("startingOffsets", "earliest")  # never asked: a checkpoint has its first entry before the query
            .options(**options)
            .load()
        )

    def _sink(self) -> dict[str, str]:
        return {"kafka.bootstrap.servers": self._settings.kafka, "kafka.acks": "all"}

    def _fault_messages(self, messages: DataFrame) -> DataFrame:
        settings = self._settings
        return fault_messages(
            readings(messages), self._registry(), self._rules, topic=ABNORMAL_TOPIC, topics=settings.abnormal_topics
        )

    def _faults(self) -> Any:
        settings = self._settings
        real_time = {"realTime": f"{settings.router_batch_seconds} seconds"}
        trigger = real_time if settings.router_mode == "real-time" else {"processingTime": "0 seconds"}
        # What Kafka has no more is counted before it is passed over, see restart_offsets.py.
        return (
            self._fault_messages(self._source(failOnDataLoss="true"))
            .writeStream.queryName(FAULTS_QUERY)
            .format("kafka")
            .options(**self._sink())
            .option("checkpointLocation", str(self._place.of(FAULTS_QUERY)))
            .outputMode("update")
            .trigger(**trigger)
            .start()
        )

    def _judged(self, messages: DataFrame) -> DataFrame:
        judged = with_registry(in_time(readings(messages).where(is_reading())), self._registry())
        return judged.withColumn("faults", faults(self._rules))

    def _windows(self) -> Any:
        if self._aggregates is None:
            raise ValueError("this router keeps no windows")
        source = self._source(maxOffsetsPerTrigger=str(MAX_ROWS_A_BATCH), failOnDataLoss="false")
        # Spark reads the same id from the checkpoint; a batch may begin before `start` returns.
        self._aggregates.query_id = self._place.query_id(AGGREGATES_QUERY)
        return (
            self._judged(source)
            .writeStream.queryName(AGGREGATES_QUERY)
            .option("checkpointLocation", str(self._place.of(AGGREGATES_QUERY)))
            .trigger(processingTime=AGGREGATES_EVERY)
            .foreachBatch(self._aggregates.write)
            .start()
        )


def new_aggregates(settings: Settings, database: Database) -> Aggregates:
    """What writes the windows, as the settings say."""
    return Aggregates(database, keep=timedelta(days=settings.window_days), late_seconds=settings.late_seconds)
