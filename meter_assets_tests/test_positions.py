"""Where ingest reads on, and what Kafka no longer has: the decision alone, and on the real services."""

import random
from contextlib import closing
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata, TopicPartition

from meter_assets_tests.ingest_support import Pipe, check_nothing_lost, electricity, mixed
from meter_assets_tests.support import wait_for
from metering.lost_messages import LOST_MESSAGES, LossReason
from metering.settings import Settings
from runtime.database import connect
from streaming.ingest.positions import Kept, Position, Positions, resume
from streaming.kafka.clients import ensure_topics, open_consumer

TP = TopicPartition("iot-meter", 3)
OLD, NEW = "old-id", "new-id"


@pytest.mark.parametrize(
    ("known", "kept", "starts", "lost"),
    [
        (None, Kept(NEW, 0, 50, None), 0, []),
        (None, Kept(NEW, 0, 50, 20), 20, []),
        (None, Kept(NEW, 30, 50, None), 30, [(0, 30, "retention")]),
        (Position(NEW, 20, 20, 50), Kept(NEW, 0, 50, 20), 20, []),
        (Position(NEW, 20, 10, 50), Kept(NEW, 0, 50, 10), 10, []),
        (Position(NEW, 20, 20, 50), Kept(NEW, 35, 50, 20), 35, [(20, 35, "retention")]),
        (Position(NEW, 20, 10, 50), Kept(NEW, 35, 50, 10), 35, [(10, 35, "retention")]),
        (Position(NEW, 35, 35, 50), Kept(NEW, 35, 50, 20), 35, []),  # killed after it had found the loss
        (Position(NEW, 20, 20, 50), Kept(NEW, 10, 50, 0), 10, []),  # moved back to what is gone, and was read
        (Position(NEW, 20, 20, 50), Kept(NEW, 0, 50, 50), 50, [(20, 50, "offsets_moved")]),
        (Position(NEW, 20, 20, 50), Kept(NEW, 45, 50, 40), 45, [(20, 40, "offsets_moved"), (40, 45, "retention")]),
        (Position(NEW, 20, 20, 50), Kept(NEW, 0, 50, 0), 0, []),
        (Position(NEW, 20, 15, 50), Kept(NEW, 0, 50, None), 15, []),
        (Position(OLD, 20, 20, 50), Kept(NEW, 0, 99, 20), 0, [(20, 50, "topic_recreated")]),
        (Position(OLD, 50, 50, 50), Kept(NEW, 0, 99, None), 0, [(50, 50, "topic_recreated")]),
        (Position(OLD, 20, 20, 50), Kept(NEW, 7, 99, 20), 7, [(20, 50, "topic_recreated"), (0, 7, "retention")]),
        (Position(NEW, 50, 50, 50), Kept(NEW, 0, 40, 50), 40, []),
        (Position(NEW, 40, 60, 90, ((30, 50),)), Kept(NEW, 0, 90, 35), 35, []),
        # What is read after all can be lost again.
        (Position(NEW, 35, 60, 90, ((30, 50),)), Kept(NEW, 40, 90, 35), 40, [(35, 40, "retention")]),
        (
            Position(NEW, 30, 60, 90, ((30, 50),)),
            *(Kept(NEW, 70, 90, 30), 70, [(30, 50, "retention"), (60, 70, "retention")]),
        ),
    ],
)
def test_where_it_reads_on(known: Position | None, kept: Kept, starts: int, lost: list[tuple[int, int, str]]):
    begin, position, losses = resume("ingest", TP, known, kept)
    assert begin == starts
    same_log = known is not None and known.topic_id == kept.topic_id and known.next <= kept.end
    assert position.next == (max(known.next, starts) if known and same_log else starts)
    assert [(loss.first, loss.end, str(loss.reason)) for loss in losses] == lost
    assert all(loss.topic_id == (OLD if loss.reason == LossReason.TOPIC_RECREATED else NEW) for loss in losses)


@pytest.fixture
def pipe(database: Settings) -> Pipe:
    return Pipe.fresh(database)


def lost(pipe: Pipe) -> list[dict[str, Any]]:
    database = connect(pipe.settings)
    with database.client:
        return list(database[LOST_MESSAGES].find().sort("_id"))


def admin(pipe: Pipe) -> Any:
    return closing(KafkaAdminClient(bootstrap_servers=pipe.settings.kafka))


@pytest.mark.parametrize("began_before", [False, True], ids=["never ran", "ran before"])
def test_what_retention_removes_before_it_is_read_is_counted(pipe: Pipe, began_before: bool):
    before = 0
    if began_before:
        pipe.send(electricity(f"em{number}", 0) for number in range(50))
        before = pipe.ingest().stored
    pipe.send(electricity(f"em{number}", 1) for number in range(400))
    removed = pipe.remove_all_but(10) - before

    counts = pipe.ingest()

    assert counts.lost == removed > 0
    assert counts.messages == counts.stored == 400 - removed
    assert sum(each["messages"] for each in lost(pipe)) == removed
    assert {each["reason"] for each in lost(pipe)} == {"retention"}
    assert pipe.ingest().lost == 0  # it is found once


def test_retention_that_overtakes_a_running_member_is_counted(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    """It has fetched some and asks for the next: what it asks for is gone."""
    monkeypatch.setattr("streaming.ingest.member.POLL_MESSAGES", 100)
    pipe.send(("em1", electricity("em1", second)[1]) for second in range(20_000))
    ingest = pipe.new_ingest()
    removed: list[int] = []

    def overtake(*_: Any) -> None:
        if not removed:
            removed.append(pipe.remove_all_but(10))

    counts = ingest.run(until_caught_up=True, on_progress=overtake)

    assert counts.lost == sum(each["messages"] for each in lost(pipe)) > 0
    assert counts.stored + counts.lost == 20_000


def make_again(pipe: Pipe) -> None:
    (topic,) = pipe.feed.topics
    with admin(pipe) as client:
        client.delete_topics([topic])
        wait_for(lambda: topic not in client.list_topics(), 30, "the topic is gone")
    ensure_topics(pipe.settings, topic)


@pytest.mark.parametrize("messages", [100, 3_000], ids=["fewer", "more"])
def test_a_topic_made_again_is_read_from_its_beginning(pipe: Pipe, messages: int):
    pipe.send(electricity(f"em{number}", 0) for number in range(1_000))
    assert pipe.ingest().stored == 1_000
    make_again(pipe)
    pipe.send(electricity(f"em{number}", 1) for number in range(messages))

    counts = pipe.ingest()

    assert (counts.stored, counts.lost) == (messages, 0)


def move(pipe: Pipe, to: dict[TopicPartition, int]) -> None:
    """Move the group's offsets, as an administrator does while no member runs."""
    consumer: Any = open_consumer(pipe.settings, group=pipe.feed.group)
    with closing(consumer):
        consumer.assign(list(to))
        consumer.commit({tp: OffsetAndMetadata(offset, "", -1) for tp, offset in to.items()})


def test_offsets_moved_to_the_end_are_a_loss_until_they_are_moved_back(pipe: Pipe):
    pipe.send(mixed(500, random.Random(1)))
    pipe.ingest()
    start = pipe.ends()
    pipe.send(mixed(1_500, random.Random(1)))
    move(pipe, pipe.ends())

    skipped = pipe.ingest()

    unread = sum(pipe.ends().values()) - sum(start.values())
    assert (skipped.messages, skipped.lost) == (0, unread)
    assert {each["reason"] for each in lost(pipe)} == {"offsets_moved"}

    move(pipe, start)
    pipe.ingest()

    assert lost(pipe) == []
    check_nothing_lost(pipe)  # dead letters of what was skipped are there, too


def skip(pipe: Pipe) -> dict[TopicPartition, int]:
    """Some messages are read, more are skipped, and behind them some are read; where the skipped ones begin."""
    pipe.send(mixed(500, random.Random(1)))
    pipe.ingest()
    start = pipe.ends()
    pipe.send(mixed(3_000, random.Random(2)))
    move(pipe, pipe.ends())
    assert pipe.ingest().lost == sum(pipe.ends().values()) - sum(start.values())
    pipe.send(mixed(500, random.Random(3)))
    pipe.ingest()
    return start


def test_skipped_messages_are_read_to_their_end_although_the_member_stops_among_them(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
):
    """The next member counted their bad messages as duplicates and wrote no dead letter for them."""
    move(pipe, skip(pipe))
    monkeypatch.setattr("streaming.ingest.member.POLL_MESSAGES", 100)
    for _ in range(3):
        ingest = pipe.new_ingest()
        ingest.run(on_progress=lambda *_, ingest=ingest: ingest.stop())
    assert 0 < sum(pipe.ends().values()) - pipe.committed()  # among them

    pipe.ingest()

    assert lost(pipe) == []
    check_nothing_lost(pipe)


def test_offsets_moved_back_to_the_middle_leave_the_beginning_lost(pipe: Pipe):
    middle = {tp: offset + 100 for tp, offset in skip(pipe).items()}
    move(pipe, middle)
    again = pipe.ingest()
    assert again.dead_letters > 0
    assert {(each["end"], each["messages"]) for each in lost(pipe)} == {(end, 100) for end in middle.values()}

    move(pipe, {tp: offset - 100 for tp, offset in middle.items()})
    pipe.ingest()

    assert lost(pipe) == []
    check_nothing_lost(pipe)


def test_offsets_moved_back_write_no_dead_letter_twice(pipe: Pipe):
    pipe.send(mixed(2_000, random.Random(2)))
    first = pipe.ingest()
    move(pipe, dict.fromkeys(pipe.ends(), 0))

    again = pipe.ingest()

    assert again.messages == first.messages == again.duplicates
    assert (again.stored, again.dead_letters, again.lost) == (0, 0, 0)
    check_nothing_lost(pipe)


def test_offsets_that_expired_lose_and_repeat_nothing(pipe: Pipe):
    pipe.send(mixed(1_000, random.Random(3)))
    pipe.ingest()
    with admin(pipe) as client:
        client.delete_groups([pipe.feed.group])
    pipe.send(electricity(f"late{number}", 1) for number in range(50))

    counts = pipe.ingest()

    assert (counts.messages, counts.stored, counts.lost) == (50, 50, 0)
    check_nothing_lost(pipe)


def test_a_member_that_wakes_late_takes_nothing_back(pipe: Pipe):
    """Its partitions are another member's, which has come further: nothing that this one has stored is a loss."""
    pipe.send(electricity("em1", second) for second in range(100))
    everywhere, halfway = (
        {tp: OffsetAndMetadata(end // part, "", -1) for tp, end in pipe.ends().items()} for part in (1, 2)
    )
    database = connect(pipe.settings)
    members = [
        (
            open_consumer(pipe.settings, group=pipe.feed.group),
            Positions(database, group=pipe.feed.group, reader="ingest"),
        )
        for _ in range(2)
    ]
    with database.client, closing(members[0][0]), closing(members[1][0]):
        for consumer, positions in members:
            consumer.assign(list(everywhere))
            assert positions.take_up(consumer) == []
        (_, sleeping), (consumer, awake) = members
        awake.store(everywhere, {})
        consumer.commit(everywhere)
        sleeping.store(halfway, {})
        assert awake.take_up(consumer) == []
        assert lost(pipe) == []
