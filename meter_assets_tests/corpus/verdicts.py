"""What ingest and the router make of messages, in bulk: the parser's verdict, and that of the router's columns.

A message that both take must also be the same reading for both: same identity, same instant, same numbers.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from metering.fault_event import Severity, fault_document, parse_fault_event
from metering.fault_rules import FaultRule
from metering.reading import NUMBERS
from metering.registry import METER_SPARK_SCHEMA
from streaming.ingest.batch import READINGS_FEED
from streaming.router.messages import SESSION_OPTIONS, fault_messages, readings

ARRIVED = datetime(2024, 5, 18, 12, tzinfo=UTC)

parse = READINGS_FEED.parse

_EVERY_READING = FaultRule(
    id="every_reading",
    version=1,
    severity=Severity.WARNING,
    meaning="A reading; its numbers are the explanation.",
    condition=lambda: F.lit(True),
    explanation=lambda: F.to_json(F.struct(*NUMBERS)),
)
"""So that the router makes an event of whatever it takes for a reading."""


class Judged(NamedTuple):
    """A message that was taken for a reading, as far as a fault's judgement and its identity depend on it."""

    id: str
    device_id: str
    timestamp: datetime
    meter_type: str
    numbers: dict[str, float]


class Disagreement(NamedTuple):
    """A message on which ingest and the router differ; None: refused."""

    message: bytes | None
    ingest: Judged | None
    router: Judged | None

    def __str__(self) -> str:
        def said(judged: Judged | None) -> str:
            return "refused" if judged is None else f"takes {judged}"

        return f"{self.message!r}\n  ingest: {said(self.ingest)}\n  router: {said(self.router)}"


_AS_IN_A_STREAM = {
    # Spark would interpret the columns of a local table while it plans, instead of compiling them as it does for Kafka.
    "spark.sql.optimizer.excludedRules": "org.apache.spark.sql.catalyst.optimizer.ConvertToLocalRelation"
}


@contextmanager
def router_options(spark: SparkSession) -> Iterator[None]:
    """The session as the router sets it up."""
    options = {**SESSION_OPTIONS, **_AS_IN_A_STREAM}
    before = {name: spark.conf.get(name, None) for name in options}
    for name, value in options.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                spark.conf.unset(name)
            else:
                spark.conf.set(name, value)


def arrived(spark: SparkSession, values: Sequence[bytes | None], at: datetime = ARRIVED) -> DataFrame:
    """Messages as the Kafka source gives them, loosely parsed by the router; `offset` is the position."""
    count = len(values)
    columns = {
        "key": pa.array([b"k"] * count, pa.binary()),
        "value": pa.array(values, pa.binary()),
        "timestamp": pa.array([at] * count, pa.timestamp("us", "UTC")),
        "topic": pa.array(["iot-meter"] * count, pa.string()),
        "partition": pa.array([0] * count, pa.int32()),
        "offset": pa.array(range(count), pa.int64()),
    }
    return readings(spark.createDataFrame(pa.table(columns)))


def by_ingest(value: bytes | None) -> Judged | None:
    """What ingest's parser makes of a message."""
    if value is None or len(value) > READINGS_FEED.max_bytes:
        return None
    try:
        document = parse(value)
    except ValidationError:
        return None
    return _judged(document, document)


def by_router(spark: SparkSession, values: Sequence[bytes | None]) -> dict[int, Judged]:
    """What the router makes of those messages that it takes for readings, by position."""
    no_meters = spark.createDataFrame([], METER_SPARK_SCHEMA)
    events = fault_messages(arrived(spark, values), no_meters, (_EVERY_READING,), topic="t", topics={})
    found: dict[int, Judged] = {}
    for value in events.select("value").toArrow().column("value").to_pylist():
        event = parse_fault_event(value)
        position = event.source.offset
        message = values[position]
        assert message is not None
        assert position not in found, message
        assert event.payload.encode() == message
        found[position] = _judged(fault_document(event), json.loads(event.rules[0].explanation))
    return found


def _judged(document: dict[str, Any], numbers: dict[str, float]) -> Judged:
    return Judged(
        id=document["_id"],
        device_id=document["device_id"],
        timestamp=document["timestamp"].astimezone(UTC),
        meter_type=document["meter_type"],
        numbers={name: numbers[name] for name in NUMBERS if name in numbers},
    )


def compare(spark: SparkSession, values: Sequence[bytes | None]) -> tuple[int, list[Disagreement]]:
    """How many of the messages ingest takes for readings, and those that the router judges differently."""
    router = by_router(spark, values)
    taken = 0
    differing: list[Disagreement] = []
    for position, value in enumerate(values):
        ingest = by_ingest(value)
        taken += ingest is not None
        if ingest != router.get(position):
            differing.append(Disagreement(value, ingest, router.get(position)))
    return taken, differing
