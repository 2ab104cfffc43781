"""The index of dead letters: each committed letter is there exactly once, whatever it holds and whatever happens."""

import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from pymongo.database import Database

from meter_assets_tests.dlq_support import Office
from meter_assets_tests.ingest_support import PREFIX, Pipe, electricity
from meter_assets_tests.support import wait_for
from metering.errors import MetersError
from metering.letters import Filters, State, count_letters, drop_letters, find_ids, find_letters, resolve_ids
from metering.settings import Settings
from metering.store import DEAD_LETTER_OFFSETS, DEAD_LETTERS
from streaming.dead_letter_topic import ensure_dead_letters_topic
from streaming.dead_letters.index import MAX_KEPT_BYTES, device_of
from streaming.kafka.clients import open_producer

MANY = 10_000


@pytest.fixture
def office(database: Settings, mongo: Database) -> Office:
    return Office(Pipe.fresh(database), mongo)


@pytest.fixture
def admin(database: Settings) -> Any:
    client: Any = KafkaAdminClient(bootstrap_servers=database.kafka)
    yield client
    client.close()


def test_a_letter_of_ingest_is_a_document(office: Office):
    key, value = electricity("em1", 1, usage_kwh=9)
    office.pipe.send([electricity("em1", 1)])
    office.pipe.ingest()
    office.pipe.send([(key, value), (None, b"\xff{]")])
    office.pipe.ingest()
    sent = {record.value: record for record in office.pipe.sent()}

    conflict, garbage = sorted(office.letters(), key=lambda letter: letter["reason"])

    origin = sent[value]
    assert conflict["source"] == {"topic": origin.topic, "partition": origin.partition, "offset": origin.offset}
    assert (conflict["reason"], conflict["error"]["class"]) == ("conflict", "ConflictingReading")
    assert "another payload" in conflict["error"]["message"]
    assert (conflict["device_id"], conflict["key"], conflict["value"]) == ("em1", b"em1", value)
    assert (conflict["state"], conflict["attempts"], conflict["replays"]) == ("open", 1, [])
    assert conflict["size"] == len(value or b"")
    (letter,) = [each for each in office.pipe.letters() if each.value == value]
    assert conflict["_id"] == f"{letter.topic}|{letter.partition}|{letter.offset}"
    assert conflict["at"] == datetime.fromtimestamp(letter.timestamp / 1000, UTC)
    assert (garbage["device_id"], garbage["key"], garbage["value"]) == (None, None, b"\xff{]")


def test_each_letter_is_there_once_however_often_it_is_read(office: Office):
    """Also when the offsets are forgotten, several commands catch up at once, and a letter has been dropped since."""
    office.write(*((b"em1", f"garbage {number}".encode(), office.headers(offset=number)) for number in range(700)))
    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(lambda _: len(office.letters()), range(3)):
            assert found == 700
    first = office.letters()[0]["_id"]
    assert drop_letters(office.mongo, [first], by="Eva", why="a test") == 1
    with office.index() as index:
        assert index.catch_up() == 0  # nothing is read twice without need

    office.mongo[DEAD_LETTER_OFFSETS].delete_many({"next": {"$exists": True}})

    letters = office.letters()
    assert len(letters) == 700
    assert {letter["value"] for letter in letters} == {f"garbage {number}".encode() for number in range(700)}
    assert letters[0]["state"] == State.DROPPED


def test_only_committed_letters_are_indexed(office: Office):
    office.write((b"em1", b"committed", office.headers()))
    producer = open_producer(office.pipe.settings, transactional_id=f"dead-letters-{uuid.uuid4()}")
    producer.init_transactions()
    for commit in (False, True):
        producer.begin_transaction()
        for number in range(5):
            value = f"{commit} {number}".encode()
            producer.send(office.pipe.dead_letters_topic, key=b"em1", value=value, headers=list(office.headers()))
        producer.flush()
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()

    assert {letter["value"] for letter in office.letters()} == {
        b"committed",
        *(f"True {number}".encode() for number in range(5)),
    }
    with office.index() as index:
        assert index.catch_up() == 0  # markers at the end of the topic are behind it, too


HOSTILE: list[tuple[bytes | None, bytes | None, list[tuple[str, Any]]]] = [
    (None, b"", []),
    (b"", None, [("reason", b"")]),
    (b"\x00$where", b'{"$where": "sleep(1000)", "a.b": 1}', [("reason", b"\xff\xfe\x00")]),
    (b"k" * 70_000, b"large key", [("reason", b"x" * 20_000)]),
    (b"em1", b"[" * 60_000, [("reason", b"deep"), ("reason", b"twice")]),
    (
        b"../../etc/passwd",
        b"\x1b]0;title\x07[bold red]x[/]",
        [(f"{PREFIX}topic", b"iot-meter"), ("reason", b"[/nope]")],
    ),
    (b"em1", b"offset", [(f"{PREFIX}topic", b"t"), (f"{PREFIX}partition", b"-1"), (f"{PREFIX}offset", b"9" * 40)]),
    (b"em1", b"odd names", [("reason", b""), ("", b"no name"), ("\u202e", b"bidi")]),
    (b"em1", os.urandom(MAX_KEPT_BYTES * 2), [("reason", b"noise")]),
    (b"em1", b'{"device_id"' + b" " * 4000 + b':"em1"', [("reason", b"blanks")]),
]


def test_whatever_a_letter_holds_it_is_one_document_with_its_payload(office: Office):
    office.write(*HOSTILE, *((b"em1", b"neighbour", office.headers(offset=number)) for number in range(20)))

    letters = office.letters()

    assert len(letters) == len(HOSTILE) + 20
    with office.index() as index:
        payloads = [index.payload(letter) for letter in letters]
    for key, value, _ in HOSTILE:
        assert (key, value) in payloads
    (noise,) = [letter for letter in letters if letter["reason"] == "noise"]
    assert "value" not in noise  # the topic alone has it
    assert noise["size"] == MAX_KEPT_BYTES * 2
    assert all(len(letter["reason"]) <= 1000 for letter in letters)
    assert {type(letter["source"]) for letter in letters} == {dict, type(None)}


@pytest.mark.parametrize(
    ("key", "value", "device"),
    [
        (b"em1", b'{"device_id": "em2", "usage', "em2"),
        (b"em1", b"garbage", "em1"),
        (b"em1\n", b"garbage", None),
        (b"\xff", b'{"device_id":7}', None),
        (b"$gt", b'{"device_id":{"$gt":""}}', None),
        (None, None, None),
    ],
)
def test_the_meter_is_named_only_where_it_can_be_recognised(key: bytes, value: bytes, device: str | None):
    assert device_of(key, value) == device


def test_a_topic_that_was_made_again_adds_to_the_letters(office: Office, admin: Any):
    """Its offsets begin at 0 once more; once each of its letters would have been taken for the old one there."""
    topic = office.pipe.dead_letters_topic
    office.write(*((b"em1", f"old {number}".encode(), office.headers()) for number in range(5)))
    before = office.letters()
    admin.delete_topics([topic])
    wait_for(lambda: topic not in admin.list_topics(), 30, "the topic is gone")

    office.write(*((b"em1", f"new {number}".encode(), office.headers()) for number in range(7)))
    after = office.letters()

    assert {letter["_id"]: letter for letter in before}.items() <= {letter["_id"]: letter for letter in after}.items()
    assert sorted(letter["value"] for letter in after) == sorted(
        [f"old {number}".encode() for number in range(5)] + [f"new {number}".encode() for number in range(7)]
    )
    assert office.letters() == after


def test_letters_do_not_expire(database: Settings, admin: Any):
    """Kafka's default would remove them after seven days. A retention that somebody has set on the topic stays."""

    def retention(topic: str) -> tuple[str, str]:
        asked = ConfigResource(ConfigResourceType.TOPIC, topic, ["retention.ms"])
        found = admin.describe_configs([asked], config_filter="all")["topic"][topic]["retention.ms"]
        return found["value"], found["config_source"]

    fresh, older, own = (f"dlq-{name}-{uuid.uuid4().hex[:8]}" for name in ("fresh", "older", "own"))
    admin.create_topics(
        [
            NewTopic(older, num_partitions=1, replication_factor=1),
            NewTopic(own, num_partitions=1, replication_factor=1, topic_configs={"retention.ms": "86400000"}),
        ]
    )
    assert retention(older)[1] != "DYNAMIC_TOPIC_CONFIG"  # the broker's default, whatever that is

    for topic in (fresh, older, own):
        ensure_dead_letters_topic(database, topic)

    assert [retention(topic)[0] for topic in (fresh, older, own)] == ["-1", "-1", "86400000"]
    assert {retention(topic)[1] for topic in (fresh, older, own)} == {"DYNAMIC_TOPIC_CONFIG"}


def test_letters_that_kafka_has_removed_are_recorded_as_lost(office: Office, admin: Any):
    """A large payload that only the topic had is named as gone; the letter stays."""
    office.write((b"em1", os.urandom(MAX_KEPT_BYTES + 1), office.headers()))
    (large,) = office.letters()
    office.write(*((b"em1", f"unread {number}".encode(), office.headers()) for number in range(9)))
    partition = TopicPartition(office.pipe.dead_letters_topic, large["partition"])
    admin.delete_records({partition: large["offset"] + 6})

    letters = office.letters()

    assert {letter["value"] for letter in letters if "value" in letter} == {
        f"unread {number}".encode() for number in range(5, 9)
    }
    (lost,) = office.mongo["lost_messages"].find()
    assert (lost["reader"], lost["reason"], lost["messages"]) == ("dead-letters", "retention", 5)
    with office.index() as index, pytest.raises(MetersError, match="no longer on"):
        index.payload(large)


def test_ten_thousand_letters_are_listed_fast_and_by_index(office: Office):
    """No filter reads the collection or sorts in memory, and settled letters do not slow the open ones down."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    template = office.headers()
    office.write((b"em1", b"garbage", template))
    (letter,) = office.letters()
    office.mongo[DEAD_LETTERS].insert_many(
        {
            **letter,
            "_id": f"{letter['topic']}|9|{number}",
            "short_id": f"{number:012x}",
            "at": began + timedelta(seconds=number),
            "reason": ("conflict", "invalid_json", "too_large")[number % 3],
            "device_id": f"em{number % 500}",
            "state": str(list(State)[number % 5] if number % 100 == 0 else State.STORED),
        }
        for number in range(MANY)
    )
    since, until = began + timedelta(seconds=MANY // 2), began + timedelta(seconds=MANY)
    for filters in (
        Filters(),
        Filters(states=tuple(State)),
        Filters(reason="conflict"),
        Filters(device="em7", states=tuple(State)),
        Filters(reason="conflict", device="em7", since=since, until=until),
        Filters(states=tuple(State), since=since, until=until),
    ):
        found = list(find_letters(office.mongo, filters, 50))
        matching = count_letters(office.mongo, filters)
        ids = find_ids(office.mongo, filters)
        assert len(ids) == matching >= len(found)
        assert [each["at"] for each in found] == sorted((each["at"] for each in found), reverse=True)
        explained = find_letters(office.mongo, filters, 50).explain()
        stages = _stages(explained["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in stages
        assert not {"COLLSCAN", "SORT"} & stages, filters
        # With several filters one index serves some of them; never more documents than a page and the open letters.
        assert explained["executionStats"]["totalDocsExamined"] <= 100, filters
    assert len(list(find_letters(office.mongo, Filters(states=tuple(State)), 50))) == 50
    assert resolve_ids(office.mongo, [f"{7:012x}"]) == [f"{letter['topic']}|9|7"]


def _stages(plan: dict[str, Any]) -> set[str]:
    inner = [*plan.get("inputStages", []), *([plan["inputStage"]] if "inputStage" in plan else [])]
    return {plan["stage"], *(stage for each in inner for stage in _stages(each))}
