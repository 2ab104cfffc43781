"""Behind poison: routes the readings before and between what Spark cannot take, and moves the queries behind it.

Spark's client reads ahead: asked for the readings before a compression bomb, it unpacks the bomb. So these readings are
read here, batch by batch, and handed to Spark as rows.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metering.settings import READINGS_TOPIC, Settings
from streaming.kafka.bounded_client import PutAside, read_batch
from streaming.kafka.clients import kafka_errors, open_consumer
from streaming.router.aggregates import MAX_ROWS_A_BATCH
from streaming.router.checkpoint import AGGREGATES_QUERY, Offsets, Place
from streaming.router.poison import Poison
from streaming.router.queries import Queries
from streaming.router.raw_log import RawLog
from streaming.router.restart_offsets import read_bounds

MESSAGE_SCHEMA = "value binary, millis long, topic string, partition int, offset long"

FAR = 10 * MAX_ROWS_A_BATCH
"""Windows that lag so far behind poison come to it by themselves, and are taken past it then."""


class Piece(NamedTuple):
    """Some messages of one partition, and where the query goes on behind them."""

    partition: int
    rows: list[tuple[bytes | None, int, str, int, int]]
    go_on_at: int


def pass_over(
    settings: Settings, spark: SparkSession, place: Place, queries: Queries, names: Sequence[str], found: list[Poison]
) -> None:
    """Move queries that do not run behind all poison, with what is readable before it routed.

    Raises:
        MetersError: Kafka does not answer.
    """
    with kafka_errors(settings):
        consumer = open_consumer(settings, group=None)
        try:
            log = RawLog(consumer, READINGS_TOPIC)
            oldest = read_bounds(consumer).first
            for name in names:
                _pass(name, spark, place, queries, log, found, oldest)
        finally:
            consumer.close()


def _pass(
    name: str,
    spark: SparkSession,
    place: Place,
    queries: Queries,
    log: RawLog,
    found: list[Poison],
    oldest: Offsets,
) -> None:
    position = place.position(name) or {}
    for partition in sorted({each.partition for each in found}):
        # Retention may have passed the windows' checkpoint: Spark finds that by itself, and a reader of ours does not.
        begin = max(position.get(partition, 0), oldest.get(partition, 0))
        poison = [each for each in found if each.partition == partition and each.end > begin]
        if not poison or (name == AGGREGATES_QUERY and poison[0].first - begin > FAR):
            continue
        for piece in _pieces(log, partition, begin, poison):
            if piece.rows:
                queries.route_once(name, _frame(spark, piece), place.next_batch(name))
            position[partition] = piece.go_on_at
            place.advance(name, position)


def _pieces(log: RawLog, partition: int, begin: int, poison: list[Poison]) -> Iterator[Piece]:
    """What is readable from `begin` to the last poison's end."""
    rows: list[tuple[bytes | None, int, str, int, int]] = []
    at = begin
    for each in poison:
        for batch in log.batches(partition, at, each.first):
            if batch.delivered and batch.data is not None:
                for record in read_batch(batch.data):
                    # What ingest does not unpack is no reading, and is counted there.
                    if at <= record.offset < each.first and not isinstance(record.value, PutAside):
                        rows.append((record.value, record.timestamp, READINGS_TOPIC, partition, record.offset))
                    if len(rows) >= MAX_ROWS_A_BATCH:  # of a small batch, a billion readings may come
                        yield Piece(partition, rows, record.offset + 1)
                        rows = []
            at = max(at, batch.end)
        at = max(at, each.end)
    yield Piece(partition, rows, at)


def _frame(spark: SparkSession, piece: Piece) -> DataFrame:
    rows: list[Any] = [(None if row[0] is None else bytearray(row[0]), *row[1:]) for row in piece.rows]
    frame = spark.createDataFrame(rows, MESSAGE_SCHEMA)
    return frame.withColumn("timestamp", F.timestamp_millis("millis")).drop("millis")
