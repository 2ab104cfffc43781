"""Work on dead letters: who sends what again, drops it, corrects it, and what a bulk of it costs."""

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from meter_assets_tests.dlq_support import Office, check_law
from meter_assets_tests.ingest_support import Pipe
from metering.errors import MetersError
from metering.fault_event import MAX_EVENT_BYTES
from metering.letters import drop_letters, undo_drop
from metering.reading import encode_message
from metering.settings import READINGS_TOPIC, Settings
from metering.store import DEAD_LETTERS, FAULTS
from streaming.dead_letter_topic import dead_letter_headers
from streaming.dead_letters.correction import Correction, parse_assignments
from streaming.ingest.batch import faults_feed
from streaming.kafka.clients import ensure_topics

DAY = datetime(2024, 5, 1, tzinfo=UTC).date()
BAD_USAGE = encode_message({"device_id": "em1", "timestamp": "2024-05-01T00:00:01Z", "usage_kwh": "ten"})
ID = "2024-05-01T00:00:01Z|em1"


def test_letters_that_cannot_be_sent_are_named_and_stay_as_they_are(office: Office):
    elsewhere = dead_letter_headers(
        reason="conflict", stage="X", error_class="X", message="x", topic="secret-topic", partition=0, offset=1
    )
    row = dead_letter_headers(reason="bad_row", stage="REPLAY", error_class="X", message="x")
    office.write(
        (b"em1", b"{}", elsewhere),
        (b"em1", b"a;b;c", [*row, ("source", b"\x1b[2Jfile.csv:7")]),
        (b"em1", os.urandom(2_000_000), office.headers(message="larger than Kafka takes")),
        (b"em1", b"[" * 10_000, office.headers()),
        (b"em1", b'{"usage_kwh": 1, "usage_kwh": NaN}', office.headers()),
    )
    ids = {letter["error"]["message"]: letter["_id"] for letter in office.letters()}

    outcome = office.replay()

    why = {each.letter: each.why for each in outcome.skipped}
    assert len(why) == 3
    assert "MessageSizeTooLarge" in why[ids["larger than Kafka takes"]]
    assert sorted(each for each in why.values() if "Kafka" not in each) == [
        "it came from no topic that ingest reads",
        "it is a row of a file: correct the file and run meters replay on it again",
    ]
    assert len(outcome.sent) == 2
    states = {letter["_id"]: letter["state"] for letter in office.letters()}
    assert {states[each] for each in why} == {"open"}
    assert {states[each] for each in outcome.sent} == {"replaying"}
    assert office.pipe.ingest().refused_again == 2
    # A large letter that was not sent is not lost sight of: the next attempt is the second one.
    corrected = office.replay(ids["larger than Kafka takes"], fields={"a": 1})
    assert "no JSON object" in corrected.skipped[0].why


def test_two_who_replay_at_once_send_each_letter_once(office: Office):
    office.write(*((b"em1", f"garbage {number}".encode(), office.headers()) for number in range(600)))
    ids = [letter["_id"] for letter in office.letters()]
    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(lambda _: office.replay(*ids), range(2)))

    sent = [letter for outcome in outcomes for letter in outcome.sent]
    attempts = sum(len(letter["replays"]) for letter in office.letters())
    assert len(sent) == attempts == len(office.pipe.sent())
    assert set(sent) == set(ids)
    counts = office.pipe.ingest()
    assert counts.refused == counts.refused_again == len(sent)
    assert {letter["state"] for letter in office.letters()} == {"refused_again"}


def test_dropped_letters_come_back(office: Office):
    office.pipe.send([("em1", BAD_USAGE), ("em1", b"garbage")])
    office.pipe.ingest()
    ids = [letter["_id"] for letter in office.letters()]

    assert drop_letters(office.mongo, ids, by="Eva", why="test meter") == 2
    assert drop_letters(office.mongo, ids, by="Bob", why="again") == 0
    dropped = office.letters()
    assert {(each["state"], each["dropped"]["by"], each["dropped"]["why"]) for each in dropped} == {
        ("dropped", "Eva", "test meter")
    }
    assert len(office.pipe.letters()) == 2  # marked, not deleted
    assert undo_drop(office.mongo, ids[:1]) == 1
    assert {each["_id"]: each["state"] for each in office.letters()} == {ids[0]: "open", ids[1]: "dropped"}
    office.replay(fields={"usage_kwh": 2})
    assert office.pipe.ingest().stored == 1
    states = sorted(letter["state"] for letter in office.letters())
    assert "stored" in states


def test_a_fault_event_is_replayed_to_its_own_topic(office: Office, database: Settings):
    """Letters of `meters ingest --faults` are on the same dead-letter topic."""
    own = f"abnormal-{uuid.uuid4().hex[:8]}"
    ensure_topics(database, own)
    feed = replace(faults_feed(database), topics=(own,), group=own)
    pipe = Pipe(database, feed, office.pipe.dead_letters_topic)
    faults = Office(pipe, office.mongo)
    event = {
        "event_id": ID,
        "device_id": "em1",
        "timestamp": "2024-05-01T00:00:01Z",
        "meter_type": "electricity",
        "severity": "worst",
        "rules": [{"id": "negative", "version": 1, "severity": "critical", "explanation": "below 0"}],
        "payload": "{}",
        "received_at": "2024-05-01T00:00:02Z",
        "source": {"topic": READINGS_TOPIC, "partition": 0, "offset": 1},
    }
    pipe.send([("em1", json.dumps(event).encode()), ("em1", b"x" * (MAX_EVENT_BYTES + 1))])
    assert pipe.ingest().refused == 2

    ids = {letter["reason"]: letter["_id"] for letter in faults.letters()}
    faults.replay(ids["invalid_reading"], fields={"severity": "critical"})
    faults.replay(ids["too_large"])
    counts = pipe.ingest()

    assert (counts.stored, counts.refused_again, counts.dead_letters) == (1, 1, 0)
    assert office.mongo[FAULTS].find_one({"_id": ID})
    assert {letter["state"] for letter in faults.letters()} == {"stored", "refused_again"}


def commands(office: Office) -> int:
    """How many commands MongoDB has executed that read or write documents, each with one or many of them."""
    metrics = office.mongo.command("serverStatus")["metrics"]["commands"]
    return sum(metrics[name]["total"] for name in ("aggregate", "find", "findAndModify", "insert", "update"))


def test_a_bulk_of_replays_does_not_slow_ingest_to_one_at_a_time(office: Office):
    """5,000 corrected letters: looked up and written down in bulk."""
    office.pipe.send(
        (f"em{n}", encode_message({"device_id": f"em{n}", "timestamp": "2024-05-01T00:00:01Z", "usage_kwh": "x"}))
        for n in range(5000)
    )
    first = office.pipe.ingest()
    assert len(office.replay(fields={"usage_kwh": 1}).sent) == 5000

    before = commands(office)
    second = office.pipe.ingest()

    assert commands(office) - before < 200
    assert second.stored == 5000
    assert office.mongo[DEAD_LETTERS].count_documents({"state": "stored"}) == 5000
    check_law(office, first, second)


@pytest.mark.parametrize(
    ("assignments", "fields"),
    [
        (["a=1"], {"a": 1}),
        (["a=1.50"], {"a": 1.5}),
        (['a="1"'], {"a": "1"}),
        (["a=em1"], {"a": "em1"}),
        (["a=2024-05-01T00:00:01Z"], {"a": "2024-05-01T00:00:01Z"}),
        (["a=null", "b=true"], {"a": None, "b": True}),
        (["a="], {"a": ""}),
        (["a=b=c"], {"a": "b=c"}),
        (["$set=1", "a.b=2"], {"$set": 1, "a.b": 2}),
        (["a=" + "[" * 100_000], {"a": "[" * 100_000}),
    ],
)
def test_assignments_are_json_or_text(assignments: list[str], fields: dict[str, object]):
    assert parse_assignments(assignments) == fields


@pytest.mark.parametrize("assignment", ["a", "=1", "a=NaN", "a=-Infinity", "a=[Infinity]"])
def test_what_is_no_assignment_is_one_line(assignment: str):
    with pytest.raises(MetersError) as error:
        parse_assignments([assignment])
    assert "\n" not in str(error.value)


def test_a_correction_keeps_what_it_does_not_name():
    value = b'{"device_id":"em1","usage_kwh":1,"note":"\\ud800","x":12345678901234567890}'
    corrected = Correction({"usage_kwh": 2}, ("note",)).apply(value)
    assert corrected == b'{"device_id":"em1","usage_kwh":2,"x":12345678901234567890}'
    assert Correction().apply(b"\xff") == b"\xff"
