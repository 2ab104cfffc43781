"""One verdict: ingest and the router judge every message alike, those of the corpus and generated ones."""

import json
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from pyspark.sql import SparkSession

from meter_assets_tests.corpus import CASES
from meter_assets_tests.corpus.case import Case
from meter_assets_tests.corpus.generated import run
from meter_assets_tests.corpus.verdicts import arrived, by_ingest, by_router, compare, router_options
from metering.fault_rules import FAULT_RULES
from metering.reading import (
    DOCUMENT_SCHEMA,
    MAX_MESSAGE_BYTES,
    SPARK_SCHEMA,
    STORED_SPARK_SCHEMA,
    encode_message,
    iso_utc,
    parse_reading,
    reading_json_schema,
    to_document,
)
from metering.registry import METER_SPARK_SCHEMA
from streaming.router.messages import MESSAGE_SCHEMA, fault_messages

GENERATED = 50_000


@pytest.fixture(autouse=True, scope="module")
def as_the_router(spark: SparkSession) -> Iterator[None]:
    with router_options(spark):
        yield


def wrong(found: Mapping[str, object], expected: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """The differing entries only: found and expected."""
    return {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]}


def test_the_corpus_has_hundreds_of_different_cases_in_classes():
    assert len({case.id for case in CASES}) == len(CASES) >= 320
    assert len({case.kind for case in CASES}) >= 30
    values = [case.value for case in CASES if case.kind not in ("tombstones", "keys", "headers", "codecs")]
    same_on_purpose = [case for case in CASES if case.id == "repeated readings: the same bytes, second"]
    assert len(set(values)) == len(values) - len(same_on_purpose)


def test_the_parser_gives_each_case_its_verdict_and_its_reason():
    def judged(case: Case) -> str:
        if case.value is None:
            return "empty"
        if len(case.value) > MAX_MESSAGE_BYTES:
            return "too_large"
        try:
            parse_reading(case.value)
        except ValidationError as error:
            return "invalid_json" if error.errors()[0]["type"] == "json_invalid" else "invalid_reading"
        return "a reading"

    expected = {case.id: "a reading" if case.is_reading else case.reason for case in CASES}
    assert wrong({case.id: judged(case) for case in CASES}, expected) == {}


def test_a_reading_is_kept_with_the_instant_and_the_numbers_that_were_sent():
    for case in CASES:
        if case.is_reading and case.stored:
            assert case.value is not None
            document = to_document(parse_reading(case.value))
            found = {name: document[name] for name in case.stored}
            if "timestamp" in found:
                found["timestamp"] = iso_utc(found["timestamp"])
                assert document["_id"] == f"{found['timestamp']}|{document['device_id']}"
            assert found == case.stored, case.id


def test_the_router_gives_each_case_the_same_verdict_instant_and_numbers(spark: SparkSession):
    values = [case.value for case in CASES]
    found = by_router(spark, values)
    expected = {case.id: case.is_reading for case in CASES}
    assert wrong({case.id: number in found for number, case in enumerate(CASES)}, expected) == {}
    for number, judged in found.items():
        assert judged == by_ingest(values[number]), CASES[number].id


def test_a_fault_is_routed_and_a_healthy_reading_is_not(spark: SparkSession):
    """With the platform's own rules, but for unknown meters: the corpus's are not in a registry."""
    no_meters = spark.createDataFrame([], METER_SPARK_SCHEMA)
    rules = tuple(rule for rule in FAULT_RULES if rule.id not in ("unknown_meter", "future_timestamp"))
    cases = [case for case in CASES if case.verdict not in ("duplicate", "conflict")]
    frame = arrived(spark, [case.value for case in cases])
    events = fault_messages(frame, no_meters, rules, topic="t", topics={}).select("value").collect()
    routed = {json.loads(event["value"])["source"]["offset"] for event in events}
    found: dict[str, object] = {case.id: number in routed for number, case in enumerate(cases)}
    assert wrong(found, {case.id: case.verdict == "faulty" for case in cases}) == {}


def no_json(name: str) -> None:
    """Refuse NaN and the infinities, which Python's parser takes."""
    raise ValueError(name)


def test_the_published_schema_agrees_where_a_schema_can_say_it():
    """Times that no calendar has, repeated fields, lengths of numbers: a case that only we refuse is marked as such."""
    validator = Draft202012Validator(json.loads(json.dumps(reading_json_schema())))
    found: dict[str, object] = {}
    for case in CASES:
        try:
            message = json.loads((case.value or b"").decode(), parse_constant=no_json)
        except (ValueError, RecursionError):
            assert not case.is_reading, case.id
            continue
        if case.reason != "too_large":
            found[case.id] = validator.is_valid(message)
    expected = {case.id: case.is_reading or case.schema_misses for case in CASES}
    assert wrong(found, {name: expected[name] for name in found}) == {}
    assert len(found) > 320


def test_the_schemas_of_spark_and_mongodb_are_derived_from_the_contract():
    numbers = "`usage_kwh` double, `usage` double, `flow_rate` double, `register` double"
    assert SPARK_SCHEMA == f"device_id string, timestamp timestamp, meter_type string, {numbers}, received_at timestamp"
    assert STORED_SPARK_SCHEMA == f"_id string, {numbers}, received_at timestamp"
    assert {part.split()[0].strip("`") for part in MESSAGE_SCHEMA.split(", ")} == {
        *("device_id", "timestamp", "usage_kwh", "usage", "flow_rate", "register", "schema_version")
    }
    kinds = {name: each.get("bsonType", "enum") for name, each in DOCUMENT_SCHEMA["properties"].items()}
    assert kinds == {
        **dict.fromkeys(("_id", "device_id"), "string"),
        **dict.fromkeys(("timestamp", "received_at"), "date"),
        **dict.fromkeys(("usage_kwh", "usage", "flow_rate", "register"), "double"),
        "meter_type": "enum",
        "schema_version": "int",
    }


def test_generated_messages_get_one_verdict(spark: SparkSession):
    """Another seed each time; CORPUS_SEED repeats one."""
    seed = int(os.environ.get("CORPUS_SEED") or random.SystemRandom().randrange(2**32))
    report = run(GENERATED, seed, spark=spark)
    print(report)
    assert not report.disagreements, str(report)
    assert report.messages == GENERATED
    assert GENERATED // 5 < report.readings < GENERATED * 4 // 5, str(report)  # both verdicts are well represented


def test_a_disagreement_would_be_found_and_shown(spark: SparkSession, monkeypatch: pytest.MonkeyPatch):
    """The comparison itself, with an ingest that takes Unicode's blanks and keeps another identity."""
    good: dict[str, Any] = {"device_id": "em1", "timestamp": "2024-05-27T15:57:54Z", "usage_kwh": -1}
    values = [encode_message(good) + "\u2028".encode(), encode_message(good)]

    def loose(message: bytes) -> dict[str, Any]:
        document = to_document(parse_reading(message.removesuffix("\u2028".encode())))
        return document | ({"_id": "another"} if message == values[1] else {})

    monkeypatch.setattr("meter_assets_tests.corpus.verdicts.parse", loose)
    taken, differing = compare(spark, values)
    assert (taken, len(differing)) == (2, 2)
    assert differing[0].router is None
    assert "em1" in str(differing[0])
    assert differing[1].router == by_router(spark, values)[1]
