"""The fault rules: what each one finds, what it says, and that stream and batch say the same."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from meter_assets.figures.device_days import judged, stored
from meter_assets_tests.corpus.verdicts import arrived, router_options
from metering.fault_event import fault_document, parse_fault_event
from metering.fault_rules import FAULT_RULES, fault_details, rules_in_force, with_registry
from metering.reading import MAX_MESSAGE_BYTES, STORED_SPARK_SCHEMA, encode_message, parse_reading, to_document
from metering.registry import METER_SPARK_SCHEMA
from streaming.router.messages import fault_messages, is_reading

RECEIVED = datetime(2024, 5, 18, 12, tzinfo=UTC)
LONG_AGO = datetime(2010, 1, 1, tzinfo=UTC)


def meter(device: str, *, interval: int = 900, lower: float | None = None, upper: float | None = None) -> tuple:
    return (device, "electricity", interval, LONG_AGO, None, "h1", "North", lower, upper)


@pytest.fixture(autouse=True, scope="module")
def as_the_router(spark: SparkSession) -> Iterator[None]:
    with router_options(spark):
        yield


@pytest.fixture
def registry(spark: SparkSession) -> DataFrame:
    meters = [meter("em1"), meter("em2", lower=0.5, upper=12), meter("wm1"), meter("wm2", interval=90, upper=100)]
    return spark.createDataFrame(meters, METER_SPARK_SCHEMA)


def message(device: str, *, at: datetime = RECEIVED, **fields: Any) -> bytes:
    return encode_message({"device_id": device, "timestamp": at.isoformat(), **fields})


CASES = [
    (message("em1", usage_kwh=0), {}),
    (message("em1", usage_kwh=10.875), {}),
    (message("em1", usage_kwh=-1), {"meter_fault": "em1 reports its own fault: -1 in usage_kwh"}),
    (message("wm1", usage=3, flow_rate=-1), {"meter_fault": "wm1 reports its own fault: -1 in flow_rate"}),
    (message("em1", usage_kwh=-1.5), {"negative_usage": "usage_kwh -1.5 is negative"}),
    (message("wm1", usage=-1, flow_rate=2), {"negative_usage": "usage -1.0 is negative"}),
    (
        message("em2", usage_kwh=41.2),
        {"above_upper_bound": "usage_kwh 41.2 is above em2's bound of 12.0 kWh in 15 min"},
    ),
    (
        message("em1", usage_kwh=11),
        {"above_upper_bound": "usage_kwh 11.0 is above em1's bound of 10.875 kWh in 15 min"},
    ),
    (
        message("wm1", usage=1250.5, flow_rate=9),
        {"above_upper_bound": "usage 1250.5 is above wm1's bound of 1250.0 L in 15 min"},
    ),
    (
        message("wm2", usage=101, flow_rate=9),
        {"above_upper_bound": "usage 101.0 is above wm2's bound of 100.0 L in 90 s"},
    ),
    (message("em2", usage_kwh=0.25), {"below_lower_bound": "usage_kwh 0.25 is below em2's bound of 0.5 kWh in 15 min"}),
    (message("em1", at=RECEIVED + timedelta(minutes=5), usage_kwh=1), {}),
    (
        message("em1", at=RECEIVED + timedelta(minutes=12), usage_kwh=1),
        {"future_timestamp": "timestamp 2024-05-18T12:12:00Z is 12 min ahead of its arrival at 2024-05-18T12:00:00Z"},
    ),
    (message("em9", usage_kwh=1000), {"unknown_meter": "em9 is not in the registry"}),
    (
        message("em9", usage_kwh=-1),
        {
            "meter_fault": "em9 reports its own fault: -1 in usage_kwh",
            "unknown_meter": "em9 is not in the registry",
        },
    ),
]


def test_each_rule_finds_its_faults_and_explains_them_with_numbers(spark: SparkSession, registry: DataFrame):
    judged = with_registry(arrived(spark, [value for value, _ in CASES], RECEIVED), registry)
    rows = judged.select("offset", fault_details(FAULT_RULES).alias("rules")).collect()
    found = {row["offset"]: {rule["id"]: rule["explanation"] for rule in row["rules"]} for row in rows}
    assert found == {number: expected for number, (_, expected) in enumerate(CASES)}


def test_stream_and_batch_give_the_same_verdict(spark: SparkSession, registry: DataFrame):
    """The stream's messages, parsed from JSON by Spark, against the stored documents, parsed by pydantic."""
    values = [value for value, _ in CASES]
    documents = [{**to_document(parse_reading(value)), "received_at": RECEIVED} for value in values]
    names = [part.split()[0].strip("`") for part in STORED_SPARK_SCHEMA.split(", ")]
    rows = [tuple(each.get(name) for name in names) for each in documents]
    readings = stored(spark.createDataFrame(rows, STORED_SPARK_SCHEMA))
    found = judged(readings, registry, FAULT_RULES).withColumn("at", F.unix_millis("timestamp")).collect()
    batch = {(row["device_id"], row["at"], row["meter_type"]): row["faults"] for row in found}

    events = fault_messages(arrived(spark, values, RECEIVED), registry, FAULT_RULES, topic="t", topics={}).collect()
    stream = [fault_document(parse_fault_event(bytes(event["value"]))) for event in events]

    assert len(stream) == sum(bool(expected) for _, expected in CASES)
    verdicts = {(each["_id"], each["payload"]): [rule["id"] for rule in each["rules"]] for each in stream}
    for value, document in zip(values, documents, strict=True):
        said = verdicts.get((document["_id"], value.decode()), [])
        expected = dict(CASES)[value]
        assert said == list(expected)
        same_identity = [each for each, other in zip(values, documents, strict=True) if other["_id"] == document["_id"]]
        if len(same_identity) == 1:
            at = round(document["timestamp"].timestamp() * 1000)
            assert batch[document["device_id"], at, document["meter_type"]] == said


def test_an_event_carries_the_message_untouched_and_its_rules_in_headers(spark: SparkSession, registry: DataFrame):
    value = b' {"usage_kwh": -1, "device_id": "em9", "timestamp": "2024-05-18T14:00:00.250+02:00"}\n'
    (row,) = fault_messages(
        arrived(spark, [value], RECEIVED), registry, FAULT_RULES, topic="faults", topics={"critical": "urgent"}
    ).collect()
    event = parse_fault_event(bytes(row["value"]))
    assert (row["topic"], bytes(row["key"])) == ("urgent", b"em9")
    assert event.payload.encode() == value
    assert event.event_id == parse_reading(value).id == "2024-05-18T12:00:00.250Z|em9"
    assert event.severity == "critical"
    assert {header["key"]: bytes(header["value"]).decode() for header in row["headers"]} == {
        "event_id": event.event_id,
        "severity": "critical",
        "rules": "meter_fault,unknown_meter",
    }


def test_unknown_meters_can_be_turned_off(spark: SparkSession, registry: DataFrame):
    rules = rules_in_force(unknown_meters=False)
    frame = arrived(spark, [message("em9", usage_kwh=5)], RECEIVED)
    assert fault_messages(frame, registry, rules, topic="t", topics={}).count() == 0


GOOD = '{"device_id":"em1","timestamp":"2024-05-27T15:57:54Z","usage_kwh":-1}'


def test_a_message_that_is_too_long_is_no_reading_and_no_fault(spark: SparkSession, registry: DataFrame):
    frame = arrived(spark, [GOOD.ljust(MAX_MESSAGE_BYTES + longer).encode() for longer in (0, 1)], RECEIVED)
    assert [row["offset"] for row in frame.where(is_reading()).collect()] == [0]
    rules = rules_in_force(unknown_meters=True)
    assert fault_messages(frame, registry, rules, topic="t", topics={}).count() == 1
