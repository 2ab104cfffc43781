"""The fault rules: what each one finds, what it says, and that stream and batch say the same."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from meter_assets.transforms.readings import judged, stored
from metering.fault_event import fault_document, parse_fault_event
from metering.faults import FAULT_RULES, fault_details, rules_in_force, with_registry
from metering.reading import MAX_MESSAGE_BYTES, STORED_SPARK_SCHEMA, encode_message, parse_reading, to_document
from metering.registry import METER_SPARK_SCHEMA
from streaming.router.messages import SESSION_OPTIONS, fault_messages, is_reading, readings

RECEIVED = datetime(2024, 5, 18, 12, tzinfo=UTC)
LONG_AGO = datetime(2010, 1, 1, tzinfo=UTC)
MESSAGES = "key binary, value binary, timestamp timestamp, topic string, partition int, offset long"


def meter(device: str, *, interval: int = 900, lower: float | None = None, upper: float | None = None) -> tuple:
    return (device, "electricity", interval, LONG_AGO, None, "h1", "North", lower, upper)


@pytest.fixture(autouse=True, scope="module")
def router_options(spark: SparkSession) -> Iterator[None]:
    """The session as the router sets it up."""
    before = {name: spark.conf.get(name) or "" for name in SESSION_OPTIONS}
    for options in (SESSION_OPTIONS, before):
        for name, value in options.items():
            spark.conf.set(name, value)
        if options is SESSION_OPTIONS:
            yield


@pytest.fixture
def registry(spark: SparkSession) -> DataFrame:
    meters = [meter("em1"), meter("em2", lower=0.5, upper=12), meter("wm1"), meter("wm2", interval=90, upper=100)]
    return spark.createDataFrame(meters, METER_SPARK_SCHEMA)


def message(device: str, *, at: datetime = RECEIVED, **fields: Any) -> bytes:
    return encode_message({"device_id": device, "timestamp": at.isoformat(), **fields})


def arrived(spark: SparkSession, values: list[bytes | None]) -> DataFrame:
    """Messages as the Kafka source gives them."""
    rows = [
        (b"k", bytearray(value) if value is not None else None, RECEIVED, "iot-meter", 0, number)
        for number, value in enumerate(values)
    ]
    return readings(spark.createDataFrame(rows, MESSAGES))


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
    judged = with_registry(arrived(spark, [value for value, _ in CASES]), registry)
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

    events = fault_messages(arrived(spark, values), registry, FAULT_RULES, topic="t", topics={}).collect()
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
        arrived(spark, [value]), registry, FAULT_RULES, topic="faults", topics={"critical": "urgent"}
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
    frame = arrived(spark, [message("em9", usage_kwh=5)])
    assert fault_messages(frame, registry, rules, topic="t", topics={}).count() == 0


GOOD = '{"device_id":"em1","timestamp":"2024-05-27T15:57:54Z","usage_kwh":-1}'
AWKWARD = [
    GOOD,
    f" \n{GOOD}\n",
    GOOD + " x",
    GOOD + GOOD,
    GOOD[:-1],
    GOOD.replace("-1", '"-1"'),
    GOOD.replace("-1", "-01"),
    GOOD.replace("-1", "NaN"),
    GOOD.replace("-1", "-1e3"),
    GOOD.replace("-1", "-1234567890123"),
    GOOD.replace("-1", "true"),
    GOOD.replace("-1", "null"),
    GOOD.replace("-1", '-1,"x":1'),
    GOOD.replace("-1", '-1,"register":null'),
    GOOD.replace("-1", '-1,"register":1e400'),
    GOOD.replace("-1", '-1,"schema_version":1'),
    GOOD.replace("-1", '-1,"schema_version":1.0'),
    GOOD.replace("-1", '-1,"schema_version":2'),
    GOOD.replace("-1", '-1,"schema_version":true'),
    GOOD.replace("-1", '-1,"usage":1,"flow_rate":1'),
    GOOD.replace("usage_kwh", "usage"),
    GOOD.replace('"em1"', "5"),
    GOOD.replace("em1", ""),
    GOOD.replace("em1", "em1\\n"),
    GOOD.replace("em1", "../em1"),
    GOOD.replace("em1", "é"),
    GOOD.replace('"em1"', '"em1","device_id":"em2"'),
    GOOD.replace("Z", ""),
    GOOD.replace("Z", "z"),
    GOOD.replace("Z", "+0200"),
    GOOD.replace("Z", "+02:00"),
    GOOD.replace("Z", ".1239-07:30"),
    GOOD.replace(":54Z", "Z"),
    GOOD.replace("T", " "),
    GOOD.replace("05-27", "02-30"),
    GOOD.replace("15:57:54", "24:00:00"),
    GOOD.replace("15:57:54", "15:57:60"),
    GOOD.replace("2024", "1999"),
    GOOD.replace("2024", "2100"),
    GOOD.replace('"2024-05-27T15:57:54Z"', "1716825474"),
    GOOD.replace('"', "'"),
    "null",
    "5",
    "[]",
    "",
    "{}",
    "\ufeff" + GOOD,
]


def verdicts_agree(spark: SparkSession, values: list[bytes | None]) -> None:
    """What ingest stores is what the router takes for a reading, at the same instant."""
    taken = {
        row["offset"]: row
        for row in arrived(spark, values).where(is_reading()).withColumn("millis", F.unix_millis("timestamp")).collect()
    }
    for number, value in enumerate(values):
        try:
            document = to_document(parse_reading(value or b""))
        except ValidationError:
            document = None
        assert (number in taken) == (document is not None), value
        if document:
            assert taken[number]["millis"] == round(document["timestamp"].timestamp() * 1000), value
            assert taken[number]["device_id"] == document["device_id"]


def test_the_router_takes_for_a_reading_what_ingest_stores(spark: SparkSession):
    verdicts_agree(spark, [text.encode() for text in AWKWARD] + [b"\xff\xfe", None, b"x" * 5000])


def test_a_message_that_is_too_long_is_no_reading_and_no_fault(spark: SparkSession, registry: DataFrame):
    frame = arrived(spark, [GOOD.ljust(MAX_MESSAGE_BYTES + longer).encode() for longer in (0, 1)])
    assert [row["offset"] for row in frame.where(is_reading()).collect()] == [0]
    rules = rules_in_force(unknown_meters=True)
    assert fault_messages(frame, registry, rules, topic="t", topics={}).count() == 1


numbers = st.one_of(st.integers(-(10**10), 10**10), st.floats(allow_nan=False, allow_infinity=False))
FIRST, LAST = datetime(1999, 12, 30), datetime(2100, 1, 2)  # noqa: DTZ001 the offset comes beside it
offsets = st.sampled_from(["Z", "+00:00", "-11:30", "+14:00", "+0530"])
instants = st.builds(lambda at, offset: at.isoformat() + offset, st.datetimes(FIRST, LAST), offsets)
fields = st.fixed_dictionaries(
    {"device_id": st.text(alphabet="emw1-_.:|/ é", max_size=8), "timestamp": instants},
    optional={"usage_kwh": numbers, "usage": numbers, "flow_rate": numbers, "register": numbers},
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(fields, min_size=50, max_size=200))
def test_the_router_and_ingest_agree_on_made_up_messages(spark: SparkSession, made_up: list[dict[str, Any]]):
    verdicts_agree(spark, [encode_message(each) for each in made_up])
