"""Ingest that was silent for too long: what its group or the broker took from it is neither lost nor doubled."""

import random
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient, MemberToRemove  # pyright: ignore[reportAttributeAccessIssue]
from kafka.errors import CommitFailedError
from kafka.structs import OffsetAndMetadata, TopicPartition

from meter_assets_tests.ingest_support import Pipe, check_nothing_lost, electricity, mixed
from meter_assets_tests.support import wait_for
from metering.errors import MetersError
from metering.settings import Settings
from streaming.dead_letter_topic import DeadLetter, DeadLetterTransactions, ensure_dead_letters_topic
from streaming.kafka.clients import SESSION_SECONDS, ensure_topics, open_consumer

WAIT_SECONDS = 60


@pytest.fixture
def pipe(database: Settings) -> Pipe:
    return Pipe.fresh(database)


def test_offsets_of_a_refused_transaction_are_never_committed(database: Settings):
    """kafka-python 3.0.12 commits them with the next transaction; each client version is to be tried by this test."""
    topic, letters = (f"fenced-{uuid.uuid4().hex[:8]}{end}" for end in ("", "-dlq"))
    ensure_topics(database, topic)
    ensure_dead_letters_topic(database, letters)
    consumer: Any = open_consumer(database, group=topic)
    transactions = DeadLetterTransactions(database, topic=letters)
    letter = DeadLetter(key=None, value=b"letter", headers=[])
    with closing(consumer), closing(transactions):
        consumer.subscribe([topic])
        wait_for(lambda: consumer.poll(timeout_ms=200) or consumer.assignment(), WAIT_SECONDS)
        now = consumer.group_metadata()
        stale = now._replace(generation_id=now.generation_id + 99)

        with pytest.raises(CommitFailedError):
            transactions.commit([letter], {TopicPartition(topic, 0): OffsetAndMetadata(10, "", -1)}, stale)
        transactions.commit([letter], {TopicPartition(topic, 1): OffsetAndMetadata(5, "", -1)}, now)

        assert [consumer.committed(TopicPartition(topic, number)) for number in (0, 1)] == [None, 5]


@pytest.mark.parametrize("seconds", [SESSION_SECONDS + 4, 2 * SESSION_SECONDS + 4], ids=["session", "transaction"])
def test_a_paused_process_loses_and_repeats_nothing(pipe: Pipe, seconds: int):
    """The whole process is stopped, and with it its heartbeats: for longer than its session, or its transaction."""
    pipe.send(mixed(15_000, random.Random(8)))
    with pipe.member(until_caught_up=False) as member:
        wait_for(pipe.stored_count, WAIT_SECONDS)
        member.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)  # the length of the pause is what is tried
        member.process.send_signal(signal.SIGCONT)
        total = len(pipe.sent())
        wait_for(lambda: pipe.committed() == total, WAIT_SECONDS, "all is committed")
        member.terminate()
        member.finish()
    check_nothing_lost(pipe)


def put_out(pipe: Pipe, member_id: str) -> None:
    """Have the group forget a member, as it does with one that was silent for too long."""
    with closing(KafkaAdminClient(bootstrap_servers=pipe.settings.kafka)) as admin:
        admin.remove_group_members(pipe.feed.group, [MemberToRemove(member_id=member_id)])


@pytest.mark.parametrize("moment", ["before the commit", "within the transaction"])
def test_a_member_that_wakes_after_its_partitions_went_to_another_one(
    pipe: Pipe, moment: str, monkeypatch: pytest.MonkeyPatch
):
    """The other member does the same messages meanwhile; the first one wakes and finds its generation gone."""
    pipe.send(mixed(3_000, random.Random(9)))
    late = pipe.new_ingest()
    seen: list[int] = []

    def once(work: Callable[..., Any]) -> Callable[..., Any]:
        def sleeping(*arguments: Any, **options: Any) -> Any:
            if not seen:
                seen.append(1)
                put_out(pipe, late._consumer.group_metadata().member_id)
                other = pipe.ingest()
                assert other.messages == len(pipe.sent())
            return work(*arguments, **options)

        return sleeping

    if moment == "before the commit":
        late._commit = once(late._commit)
    else:
        late._dead_letters._commit = once(late._dead_letters._commit)

    counts = late.run(until_caught_up=True)

    assert seen
    assert counts.messages == 0
    check_nothing_lost(pipe)


def test_the_connection_for_dead_letters_begins_while_later_batches_are_stored(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("streaming.ingest.member.BATCH_MESSAGES", 10)
    pipe.send([("em1", b"garbage"), *(("em1", electricity("em1", second)[1]) for second in range(40))])
    ingest = pipe.new_ingest()
    transactions = ingest._dead_letters
    commit, begun = transactions.commit, []

    def watched(*arguments: Any) -> None:
        begun.append(transactions._opening is not None)
        commit(*arguments)

    monkeypatch.setattr(transactions, "commit", watched)
    counts = ingest.run(until_caught_up=True)

    assert begun == [True]
    assert (counts.stored, counts.refused, len(pipe.letters())) == (40, 1, 1)


def test_a_connection_that_fails_in_the_background_is_reported_by_the_commit(database: Settings):
    away = database.model_copy(update={"kafka_bootstrap": "127.0.0.1:1"})
    transactions = DeadLetterTransactions(away)
    transactions.prepare()
    with pytest.raises(MetersError, match="127.0.0.1:1"):
        transactions.commit([DeadLetter(key=None, value=b"letter", headers=[])], {}, None)
    transactions.prepare()
    transactions.close()  # raises nothing
