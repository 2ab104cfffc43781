"""Dead letters sent again: each ends as stored, taken, duplicate or refused again, and makes no second letter."""

import json
import os
from datetime import UTC, datetime

import pytest

from meter_assets_tests.dlq_support import Office, check_law, conflict, rewind
from meter_assets_tests.ingest_support import Pipe, electricity
from metering.day_ledger import read_day
from metering.reading import encode_message
from metering.store import DEAD_LETTERS, REPLACED_READINGS
from streaming.dead_letters.correction import parse_assignments
from streaming.ingest.replayed_letters import replay_headers
from streaming.kafka.clients import Headers, Sender

DAY = datetime(2024, 5, 1, tzinfo=UTC).date()
BAD_USAGE = encode_message({"device_id": "em1", "timestamp": "2024-05-01T00:00:01Z", "usage_kwh": "ten"})
ID = "2024-05-01T00:00:01Z|em1"


def test_a_corrected_letter_is_stored(office: Office):
    office.pipe.send([("em1", BAD_USAGE)])
    first = office.pipe.ingest()

    assert office.replay(fields={"usage_kwh": 10}).sent == [office.letter()["_id"]]
    assert office.letter()["state"] == "replaying"
    second = office.pipe.ingest()

    assert (second.messages, second.stored, second.refused) == (1, 1, 0)
    assert office.pipe.stored()[ID]["usage_kwh"] == 10.0
    letter = office.letter()
    assert (letter["state"], letter["attempts"]) == ("stored", 2)
    (attempt,) = letter["replays"]
    assert (attempt["by"], attempt["why"], attempt["outcome"]) == ("Eva", "a test", "stored")
    assert json.loads(attempt["correction"]) == {"set": {"usage_kwh": 10}, "unset": []}
    assert letter["value"] == BAD_USAGE  # the letter stays what it was
    assert office.replay().skipped[0].why == "it is stored already"
    check_law(office, first, second)


def test_refused_again_raises_its_attempts_and_makes_no_second_letter(office: Office):
    bad = [("em1", BAD_USAGE), ("em1", b"garbage"), ("em1", b"x" * 5000), ("em1", None)]
    office.pipe.send([electricity("em1", 1), electricity("em1", 1, usage_kwh=9), *bad])
    runs = [office.pipe.ingest()]
    assert runs[0].dead_letters == 5

    for attempts in (2, 3):
        assert len(office.replay().sent) == 5
        runs.append(office.pipe.ingest())
        assert (runs[-1].messages, runs[-1].refused, runs[-1].refused_again) == (5, 5, 5)
        assert (runs[-1].dead_letters, runs[-1].conflicts) == (0, 0)
        assert {(letter["state"], letter["attempts"]) for letter in office.letters()} == {("refused_again", attempts)}

    check_law(office, *runs)
    last = {letter["reason"]: letter["replays"][-1] for letter in office.letters()}
    assert {reason: each["reason"] for reason, each in last.items()} == {reason: reason for reason in last}
    assert "another payload" in last["conflict"]["message"]


def test_a_letter_that_repeats_what_is_stored_is_settled(office: Office):
    office.pipe.send([("em1", BAD_USAGE), electricity("em1", 1, usage_kwh=10)])
    first = office.pipe.ingest()

    office.replay(fields={"usage_kwh": 10})
    second = office.pipe.ingest()

    assert (second.duplicates, second.stored) == (1, 0)
    assert office.letter()["state"] == "stored"
    check_law(office, first, second)


def test_take_replaces_the_reading_keeps_the_old_one_and_makes_the_day_late(office: Office):
    first = conflict(office)
    before = office.pipe.stored()[ID]
    changes = read_day(office.mongo, DAY).changes

    office.replay(take=True)
    second = office.pipe.ingest()

    assert (second.messages, second.stored, second.taken, second.dead_letters) == (1, 1, 1, 0)
    after = office.pipe.stored()[ID]
    assert after["usage_kwh"] == 9.0
    letter = office.letter()
    assert letter["state"] == "stored"
    (replaced,) = office.mongo[REPLACED_READINGS].find()
    assert (replaced["old"], replaced["new"], replaced["reading_id"]) == (before, after, ID)
    assert (replaced["letter"], replaced["by"], replaced["why"]) == (letter["_id"], "Eva", "a test")
    assert read_day(office.mongo, DAY).changes == changes + 1
    check_law(office, first, second)


def test_take_twice_and_read_again_replaces_once(office: Office):
    """Two commands send it, and then all messages are read again from the beginning."""
    conflict(office)
    office.replay(take=True)
    office.replay(take=True)

    counts = office.pipe.ingest()

    assert (counts.stored, counts.taken, counts.duplicates) == (1, 1, 1)
    assert office.mongo[REPLACED_READINGS].count_documents({}) == 1
    rewind(office.pipe)
    again = office.pipe.ingest()
    assert again.messages == 4
    assert again.refused_again == again.taken == 0
    assert office.mongo[REPLACED_READINGS].count_documents({}) == 1
    assert office.pipe.stored()[ID]["usage_kwh"] == 9.0
    assert office.letters()[0]["state"] == "stored"


def test_what_has_replaced_a_taken_reading_stays_when_the_take_is_read_again(office: Office):
    """Two letters for one reading, the second one taken last; once a repeated first take would have won."""
    office.pipe.send([electricity("em1", 1), electricity("em1", 1, usage_kwh=8), electricity("em1", 1, usage_kwh=9)])
    office.pipe.ingest()
    by_usage = {json.loads(letter["value"])["usage_kwh"]: letter["_id"] for letter in office.letters()}
    for usage in (8, 9):
        office.replay(by_usage[usage], take=True)
        assert office.pipe.ingest().taken == 1
    # As if ingest had been killed between the replacement and the note of it in the letter.
    forgotten = {"replays.0.outcome": None, "replays.0.judged_at_offset": None}
    office.mongo[DEAD_LETTERS].update_one({"_id": by_usage[8]}, {"$set": forgotten})

    rewind(office.pipe)
    office.pipe.ingest()

    assert office.pipe.stored()[ID]["usage_kwh"] == 9.0
    assert office.mongo[REPLACED_READINGS].count_documents({}) == 2
    assert {letter["state"] for letter in office.letters() if letter["_id"] in by_usage.values()} == {"stored"}


def test_a_replay_that_was_stored_and_then_replaced_does_not_come_back_when_it_is_read_again(office: Office):
    """It may replace readings, and had none to replace; so no note of a replacement says that its work is done."""
    office.pipe.send([("em1", BAD_USAGE)])
    office.pipe.ingest()
    first = office.letter()["_id"]
    office.replay(first, fields={"usage_kwh": 8}, take=True)
    office.pipe.send([electricity("em1", 1, usage_kwh=9)])
    counts = office.pipe.ingest()
    assert (counts.stored, counts.taken, counts.conflicts) == (1, 0, 1)
    (second,) = [letter["_id"] for letter in office.letters() if letter["_id"] != first]
    office.replay(second, take=True)
    assert office.pipe.ingest().taken == 1

    rewind(office.pipe)
    office.pipe.ingest()

    assert office.pipe.stored()[ID]["usage_kwh"] == 9.0
    assert office.mongo[REPLACED_READINGS].count_documents({}) == 1


def test_a_conflict_without_take_is_refused_again(office: Office):
    conflict(office)
    office.replay()
    counts = office.pipe.ingest()
    assert (counts.refused_again, counts.taken) == (1, 0)
    assert office.pipe.stored()[ID]["usage_kwh"] == 1.5
    assert office.mongo[REPLACED_READINGS].count_documents({}) == 0


@pytest.mark.parametrize("take", [False, True])
def test_a_killed_ingest_repeats_a_replay_without_a_second_effect(office: Office, take: bool):
    """It dies when everything is in MongoDB and nothing is committed: in place of touching the day, or of a commit."""
    conflict(office)
    changes = read_day(office.mongo, DAY).changes
    office.replay(take=take)
    # One more message in the same batch makes a day to touch, so that both kinds die there.
    office.pipe.send([("em1", electricity("em2", 1)[1])])
    with office.pipe.member(until_caught_up=True, die_instead_of="touch_days") as member:
        member.process.wait(timeout=120)
    assert member.process.returncode == -9
    assert read_day(office.mongo, DAY).changes == changes
    office.pipe.forget_dead_members()

    counts = office.pipe.ingest()

    assert counts.messages == 2
    assert len(office.pipe.letters()) == 1
    letter = office.letter()
    assert (letter["state"], letter["attempts"]) == ("stored" if take else "refused_again", 2)
    assert office.mongo[REPLACED_READINGS].count_documents({}) == int(take)
    assert office.pipe.stored()[ID]["usage_kwh"] == (9.0 if take else 1.5)
    assert read_day(office.mongo, DAY).changes == changes + 1


def forge(pipe: Pipe, value: bytes, headers: Headers) -> None:
    """Send a message with headers of the sender's choice."""
    with Sender(pipe.settings, pipe.feed.topics[0]) as sender:
        sender.send(value, key=b"em1", headers=headers)


def test_headers_alone_do_nothing(office: Office):
    """Each of these would lose a bad message or overwrite a reading, if ingest believed headers."""
    conflict(office)
    letter = office.letter()
    _, contradicting = electricity("em1", 1, usage_kwh=7)
    assert contradicting
    forge(office.pipe, contradicting, replay_headers(letter["_id"], 1))  # no attempt is under way
    office.pipe.ingest()
    office.replay(letter["_id"], take=True)
    genuine = replay_headers(letter["_id"], 1)
    strange: list[Headers] = [
        genuine,  # another value than the attempt's
        replay_headers(letter["_id"], 2),
        replay_headers("iot-meter-dlq|0|0", 1),
        [*genuine, *genuine],
        [("meters.replay-of", b"\xff\x00"), ("meters.replay-attempt", b"1")],
        [("meters.replay-of", letter["_id"].encode()), ("meters.replay-attempt", b"9" * 5000)],
        [("meters.replay-of", b"$" * 100_000), ("meters.replay-attempt", b"{}")],
        [("meters.replay-of", letter["_id"].encode())],
        [("meters.take", b"1")],
    ]
    for headers in strange:
        forge(office.pipe, contradicting, headers)
    _, taken = electricity("em1", 1, usage_kwh=9)
    assert taken
    forge(office.pipe, taken, genuine)  # a copy of the true one

    counts = office.pipe.ingest()

    assert (counts.messages, counts.taken, counts.duplicates) == (len(strange) + 2, 1, 1)
    assert (counts.conflicts, counts.refused) == (len(strange), 0)
    assert office.pipe.reasons() == {"conflict": len(strange) + 2}
    assert office.pipe.stored()[ID]["usage_kwh"] == 9.0
    assert office.mongo[REPLACED_READINGS].count_documents({}) == 1


def test_an_attempt_that_waits_for_its_message_takes_no_other_one(office: Office):
    """Kafka has not acknowledged the message, so it may still come; a forger knows the id and the number."""
    office.pipe.send([electricity("em1", 1)])
    office.pipe.ingest()
    office.write((b"em1", os.urandom(2_000_000), office.headers()))
    letter = office.letter()
    assert len(office.replay(take=True).skipped) == 1
    _, contradicting = electricity("em1", 1, usage_kwh=7)
    assert contradicting
    forge(office.pipe, contradicting, replay_headers(letter["_id"], 1))
    forge(office.pipe, b"garbage", replay_headers(letter["_id"], 1))

    counts = office.pipe.ingest()

    assert (counts.taken, counts.refused_again, counts.dead_letters) == (0, 0, 2)
    assert office.pipe.stored()[ID]["usage_kwh"] == 1.5


def test_a_copy_of_a_refused_replay_is_a_message_of_its_own(office: Office):
    office.pipe.send([("em1", b"garbage")])
    office.pipe.ingest()
    letter = office.letter()
    office.replay()
    forge(office.pipe, b"garbage", replay_headers(letter["_id"], 1))

    counts = office.pipe.ingest()

    assert (counts.refused, counts.refused_again) == (2, 1)
    forge(office.pipe, b"garbage", replay_headers(letter["_id"], 1))
    counts = office.pipe.ingest()
    assert (counts.refused, counts.refused_again) == (1, 0)
    assert len(office.letters()) == 3


def test_a_correction_of_the_meter_changes_the_key_too(office: Office):
    office.pipe.send([("wrong meter", encode_message({"device_id": "", "timestamp": "2024-05-01T00:00:01Z"}))])
    office.pipe.ingest()
    fields = parse_assignments(["device_id=em1", "usage_kwh=1.50", 'register="x"', "register=12"])

    office.replay(fields=fields)
    counts = office.pipe.ingest()

    assert counts.stored == 1
    assert office.pipe.stored()[ID]["register"] == 12.0
    assert {record.key for record in office.pipe.sent()} == {b"wrong meter", b"em1"}
