"""Ingest on the real services: what becomes of each message, and that counts, MongoDB and dead letters agree."""

import json
import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import typer
from kafka.structs import TopicPartition
from typer.testing import CliRunner

from meter_assets_tests.ingest_support import PREFIX, Pipe, electricity, header, source
from meter_assets_tests.support import meters
from meter_cli.ingest import ingest as ingest_command
from metering.reading import DOCUMENT_SCHEMA, MAX_MESSAGE_BYTES, encode_message
from metering.settings import Settings
from metering.store import READINGS
from runtime.database import connect
from streaming.ingest.member import Ingest
from streaming.kafka.clients import open_producer

WATER = {"device_id": "wm4", "timestamp": "2024-05-27T17:57:54.123+02:00", "usage": 13, "flow_rate": 7.5}


@pytest.fixture
def pipe(database: Settings) -> Pipe:
    return Pipe.fresh(database)


def test_a_reading_is_stored_as_its_document(pipe: Pipe):
    pipe.send([("wm4", encode_message(WATER)), electricity("em1", 1)])

    pipe.check_conservation(pipe.ingest())

    stored = pipe.stored()
    water = stored.pop("2024-05-27T15:57:54.123Z|wm4")
    assert water.pop("received_at") > water.pop("timestamp")
    assert water == {
        "_id": "2024-05-27T15:57:54.123Z|wm4",
        "device_id": "wm4",
        "meter_type": "water",
        "usage": 13.0,
        "flow_rate": 7.5,
        "schema_version": 1,
    }
    assert list(stored) == ["2024-05-01T00:00:01Z|em1"]


def test_duplicates_and_conflicts_within_a_batch_and_across_runs(pipe: Pipe):
    """Same key, so same partition: the order is the order of sending, and the first reading is known."""
    same_in_other_words = encode_message({"usage_kwh": 2, "timestamp": "2024-05-01T01:00:02+01:00", "device_id": "em1"})
    pipe.send(
        [
            electricity("em1", 1),
            electricity("em1", 1),
            electricity("em1", 1, usage_kwh=9),
            electricity("em1", 1),
            electricity("em1", 2, usage_kwh=2),
            ("em1", same_in_other_words),
        ]
    )
    first = pipe.ingest()
    assert (first.messages, first.stored, first.duplicates, first.conflicts, first.refused) == (6, 2, 3, 1, 0)
    pipe.check_conservation(first)
    before = pipe.stored()

    pipe.send([electricity("em1", 1), electricity("em1", 1, usage_kwh=8), electricity("em1", 3)])
    second = pipe.ingest()

    assert (second.messages, second.stored, second.duplicates, second.conflicts) == (3, 1, 1, 1)
    assert pipe.reasons() == {"conflict": 2}
    assert {key: document for key, document in pipe.stored().items() if key in before} == before
    assert before["2024-05-01T00:00:01Z|em1"]["usage_kwh"] == 1.5


def test_duplicates_and_conflicts_across_batches_of_one_run(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("streaming.ingest.member.BATCH_MESSAGES", 7)
    readings = [electricity("em1", second) for second in range(40)]
    pipe.send([*readings, *readings, *(electricity("em1", second, usage_kwh=9) for second in range(40))])

    counts = pipe.ingest()

    assert (counts.stored, counts.duplicates, counts.conflicts) == (40, 40, 40)
    pipe.check_conservation(counts)
    assert {document["usage_kwh"] for document in pipe.stored().values()} == {1.5}


def test_the_same_payload_by_another_key_is_a_duplicate_too(pipe: Pipe):
    """Other keys are other partitions, so other fetches: which comes first does not matter, one is stored."""
    value = electricity("em1", 1)[1]
    pipe.send([(f"key{number}", value) for number in range(20)] + [(None, value)])

    counts = pipe.ingest()

    assert (counts.stored, counts.duplicates) == (1, 20)
    pipe.check_conservation(counts)


BAD: list[tuple[str | None, bytes | None, str, str]] = [
    ("em1", None, "empty", "EmptyMessage"),
    ("em1", b"", "invalid_json", "ValidationError"),
    ("em1", b"garbage", "invalid_json", "ValidationError"),
    ("em1", b'{"device_id":"em\xff"}', "invalid_json", "ValidationError"),
    (None, b"\x00\xff\xfe", "invalid_json", "ValidationError"),
    ("em1", b'{"device_id":"em1"}', "invalid_reading", "ValidationError"),
    ("em1", b"[1]", "invalid_reading", "ValidationError"),
    ("em1", b"x" * (MAX_MESSAGE_BYTES + 1), "too_large", "MessageTooLarge"),
    ("em1", electricity("em1", 1, usage_kwh=9)[1], "conflict", "ConflictingReading"),
]


def test_dead_letters_are_the_raw_messages_with_connect_headers(pipe: Pipe):
    pipe.send([electricity("em1", 1)])
    assert pipe.ingest().stored == 1
    pipe.send((key, value) for key, value, _, _ in BAD)

    assert pipe.ingest().dead_letters == len(BAD)

    sent = {(record.topic, record.partition, record.offset): record for record in pipe.sent()}
    letters = pipe.letters()
    assert len(letters) == len({source(letter) for letter in letters}) == len(BAD)
    found = set()
    for letter in letters:
        origin = sent[source(letter)]
        assert (letter.key, letter.value) == (origin.key, origin.value)
        assert [name for name, _ in letter.headers] == [
            *(f"{PREFIX}{name}" for name in ("topic", "partition", "offset", "stage")),
            *(f"{PREFIX}exception.{name}" for name in ("class.name", "message")),
            "reason",
        ]
        assert header(letter, f"{PREFIX}stage") == "INGEST"
        message = header(letter, f"{PREFIX}exception.message")
        assert message
        assert "\n" not in message
        key = None if letter.key is None else letter.key.decode()
        found.add((key, letter.value, header(letter, "reason"), header(letter, f"{PREFIX}exception.class.name")))
    assert found == set(BAD)


@pytest.mark.parametrize("noise", [False, True], ids=["5 MB compressed", "1 MB of noise"])
def test_a_message_as_large_as_kafka_takes_does_not_block_the_way(pipe: Pipe, noise: bool):
    """Once the producer's own limit, measured before compression, made ingest fail on it for ever."""
    value = os.urandom(1024 * 1024 - 100) if noise else b"0" * 5_000_000
    options = {"compression_type": None if noise else "gzip", "max_request_size": 10_000_000}
    producer = open_producer(pipe.settings, **options)
    sent = producer.send(pipe.feed.topics[0], key=b"em1", value=value)
    producer.close()
    assert sent.succeeded(), sent.exception
    pipe.send([electricity("em1", 1)])

    counts = pipe.ingest()

    assert (counts.stored, counts.reasons) == (1, {"too_large": 1})
    assert [letter.value for letter in pipe.letters()] == [value]


def test_what_the_database_refuses_is_a_dead_letter(pipe: Pipe):
    """With a stricter validator; what repeats a refused reading is refused, not a duplicate of nothing."""
    database = connect(pipe.settings)
    strict = DOCUMENT_SCHEMA["properties"] | {"usage_kwh": {"bsonType": "double", "maximum": 5}}

    def validate(properties: dict[str, object]) -> None:
        database.command("collMod", READINGS, validator={"$jsonSchema": DOCUMENT_SCHEMA | {"properties": properties}})

    class StrictIngest(Ingest):
        """`run` brings validators up to date, so the stricter one has to come after that."""

        def _end_offsets(self) -> dict[TopicPartition, int]:
            validate(strict)
            return super()._end_offsets()

    good, bad = electricity("em1", 1), electricity("em1", 2, usage_kwh=6)
    pipe.send([good, bad, bad, electricity("em1", 2, usage_kwh=7)])
    with database.client:
        counts = StrictIngest(pipe.settings, feed=pipe.feed, dead_letters_topic=pipe.dead_letters_topic).run(
            until_caught_up=True
        )

    assert (counts.stored, counts.duplicates, counts.reasons) == (1, 0, {"refused_by_database": 3})
    pipe.check_conservation(counts)
    assert {header(letter, f"{PREFIX}exception.class.name") for letter in pipe.letters()} == {
        "DocumentValidationFailure"
    }


def test_a_transactional_source_does_not_keep_ingest_from_being_done(pipe: Pipe):
    """The end marker of a transaction has an offset and no message; once ingest waited for it for ever."""
    producer = open_producer(pipe.settings, transactional_id=f"meters-{uuid.uuid4()}")
    producer.init_transactions()
    for commit in (True, False):
        producer.begin_transaction()
        for second in range(10):
            _, value = electricity("em1", second, usage_kwh=1.5 if commit else 9)
            producer.send(pipe.feed.topics[0], key=b"em1", value=value)
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()

    counts = pipe.ingest()

    assert (counts.messages, counts.stored) == (10, 10)


@pytest.fixture
def command(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    """`meters ingest` in this process, on the topics of the test."""
    own = partial(Ingest, dead_letters_topic=pipe.dead_letters_topic)
    monkeypatch.setattr("streaming.ingest.member.Ingest", own)
    monkeypatch.setattr("streaming.ingest.batch.READINGS_FEED", pipe.feed)
    monkeypatch.setattr("meter_cli.ingest.load_settings", lambda: pipe.settings)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    app = typer.Typer()
    app.command()(ingest_command)
    yield app
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_the_command_prints_json_for_scripts(pipe: Pipe, command: typer.Typer):
    pipe.send([electricity("em1", 1), electricity("em1", 1), electricity("em1", 1, usage_kwh=9), ("em1", b"garbage")])

    result = CliRunner().invoke(command, ["--until-caught-up", "--json"])

    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told.pop("seconds") > 0
    assert told == {
        "messages": 4,
        "stored": 1,
        "duplicates": 1,
        "conflicts": 1,
        "refused": 1,
        "lost_before_ingest": 0,
        "taken": 0,
        "refused_again": 0,
        "reasons": {"conflict": 1, "invalid_json": 1},
    }


def test_the_command_names_what_kafka_no_longer_had(pipe: Pipe, command: typer.Typer):
    pipe.send(electricity(f"em{number}", 1) for number in range(300))
    removed = pipe.remove_all_but(10)

    result = CliRunner().invoke(command, ["--until-caught-up"])

    assert result.exit_code == 3
    assert f"{removed:,} messages are lost: Kafka's retention removed them before they were read" in result.stderr
    assert f"lost: {removed:,} messages were no longer in Kafka" in result.stderr


def test_the_command_says_that_there_is_nothing(command: typer.Typer):
    result = CliRunner().invoke(command, ["--until-caught-up"])
    assert result.exit_code == 0
    assert "Nothing new to ingest" in result.stdout


def test_a_service_that_is_not_there_is_one_line(database: Settings):
    """Both at the same time, because each waits as long for an answer."""
    mongo = "mongodb://127.0.0.1:1/?replicaSet=meters"
    with ThreadPoolExecutor(2) as threads:
        command = partial(meters, database, "ingest", "--until-caught-up", timeout_seconds=60)
        without_kafka = threads.submit(command, METERS_KAFKA_BOOTSTRAP="127.0.0.1:1")
        without_mongo = threads.submit(command, METERS_MONGO_URI=mongo)
    for result, missing in ((without_kafka.result(), "Kafka"), (without_mongo.result(), "MongoDB")):
        assert result.returncode == 1
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {missing} does not answer at 127.0.0.1:1")
