"""Ingest while things break: killed processes, several members, signals, a MongoDB that goes away."""

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import CoordinatorNotAvailableError
from pymongo import MongoClient

from local_stack import LocalStack
from meter_assets_tests.ingest_support import Pipe, check_nothing_lost, electricity, mixed
from meter_assets_tests.support import wait_for
from metering.errors import MetersError
from metering.settings import Settings
from metering.store import ensure_collections
from runtime.database import connect
from streaming.ingest.batch import Counts
from streaming.ingest.member import LOOK_SECONDS, POLL_SECONDS, Ingest

WAIT_SECONDS = 60


@pytest.fixture
def pipe(database: Settings) -> Pipe:
    return Pipe.fresh(database)


def test_killed_at_random_moments_it_loses_and_repeats_nothing(pipe: Pipe):
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # pytest shows it when the test fails
    chance = random.Random(seed)
    readings = 48_000
    pipe.send(mixed(readings, chance))

    killed_at = []
    for threshold in sorted(chance.randrange(1, readings // 2) for _ in range(3)):
        with pipe.member(until_caught_up=True) as member:
            wait_for(lambda: pipe.stored_count() >= threshold or member.ended(), WAIT_SECONDS)  # noqa: B023
            time.sleep(chance.random() * 0.2)  # not a wait for anything: the moment is to be any, also within a commit
            member.process.kill()
        killed_at.append(pipe.stored_count())
        pipe.forget_dead_members()
    assert killed_at[0] < readings  # at least the first one did not come to its end

    with pipe.member(until_caught_up=True) as member:
        last = member.finish()

    assert last.messages == last.stored + last.duplicates + last.dead_letters
    check_nothing_lost(pipe)


@pytest.mark.parametrize("moment", ["send_offsets_to_transaction", "commit_transaction"])
def test_killed_with_dead_letters_written_and_not_committed(pipe: Pipe, moment: str):
    """The narrowest moment: everything is stored, the dead letters are on their topic, the offsets are not."""
    pipe.send(mixed(500, random.Random(7)))
    with pipe.member(until_caught_up=True, die_instead_of=moment) as member:
        wait_for(member.ended, WAIT_SECONDS)
        assert member.process.returncode == -signal.SIGKILL
    assert pipe.stored_count() > 0
    assert pipe.letters() == []
    pipe.forget_dead_members()

    pipe.ingest()

    check_nothing_lost(pipe)


def test_members_share_the_work(pipe: Pipe):
    with pipe.member(until_caught_up=False) as one, pipe.member(until_caught_up=False) as other:
        wait_for(lambda: len(assigned(pipe)) == 2, WAIT_SECONDS, "both members have partitions")
        pipe.send(mixed(10_000, random.Random(1)))
        total = len(pipe.sent())
        wait_for(lambda: pipe.committed() == total, WAIT_SECONDS, "all is committed")
        one.terminate()
        other.terminate()
        counts = [one.finish(), other.finish()]

    assert all(count.messages > 0 for count in counts)
    check_members(pipe, *counts)


def test_members_end_when_all_of_them_together_have_caught_up(pipe: Pipe):
    """Started with a backlog, they join and leave while the work goes on; who gets how much of it is chance."""
    pipe.send(mixed(20_000, random.Random(1)))
    with pipe.member(until_caught_up=True) as one, pipe.member(until_caught_up=True) as other:
        check_members(pipe, one.finish(), other.finish())


def check_members(pipe: Pipe, one: Counts, other: Counts) -> None:
    """Assert what holds when partitions may have changed hands before their commit.

    Then the second member finds stored what the first one has stored and not counted, and counts a duplicate.
    """
    assert one.messages + other.messages == pipe.committed() == len(pipe.sent())
    assert one.stored + other.stored <= pipe.stored_count()
    assert one.reasons + other.reasons == pipe.reasons()
    check_nothing_lost(pipe)


def test_members_may_start_at_the_same_moment_on_an_empty_database(database: Settings):
    def prepare(_: int) -> None:
        connection = connect(database)
        with connection.client:
            barrier.wait()
            ensure_collections(connection)

    barrier = threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(prepare, range(4)))


@pytest.mark.parametrize("moment", ["send_offsets_to_transaction", "commit_transaction"])
def test_when_one_member_dies_the_other_does_its_work(pipe: Pipe, moment: str):
    """Nobody helps: the broker itself has to notice the death, and to end the transaction that was left open."""
    with (
        pipe.member(until_caught_up=False, die_instead_of=moment) as dying,
        pipe.member(until_caught_up=False) as living,
    ):
        wait_for(lambda: len(assigned(pipe)) == 2, WAIT_SECONDS, "both members have partitions")
        pipe.send(mixed(20_000, random.Random(2)))
        wait_for(dying.ended, WAIT_SECONDS)
        pipe.send(electricity(f"late{number}", number) for number in range(1000))
        total = len(pipe.sent())
        wait_for(lambda: pipe.committed() == total, WAIT_SECONDS, "all is committed")
        living.terminate()
        counts = living.finish()

    assert 0 < counts.messages <= total
    check_nothing_lost(pipe)


def test_nothing_is_stored_while_the_group_shares_out_its_partitions_anew(pipe: Pipe):
    """The client gives messages all the same; the listener is told here as the client tells it."""
    ingest = pipe.new_ingest()
    poll, polls = ingest._poll, []

    def counted() -> Any:
        polls.append(None)
        return poll()

    ingest._poll = counted
    with at_work(pipe, ingest) as running:
        ingest._rebalance.on_partitions_revoked(set())
        before = len(polls)
        pipe.send(electricity("em1", second) for second in range(1, 51))
        wait_for(lambda: len(polls) > before + 20, WAIT_SECONDS, "it has polled again and again")
        assert (pipe.stored_count(), pipe.committed()) == (1, 1)
        ingest._rebalance.on_partitions_assigned(set())
        wait_for(lambda: pipe.committed() == 51, WAIT_SECONDS, "what was left is read again")
    assert running.result().stored == pipe.stored_count() == 51


def test_a_rejoin_that_lasts_longer_than_a_poll_is_not_forgotten(pipe: Pipe, monkeypatch: pytest.MonkeyPatch):
    """Only new metadata asks for this one: neither a member that comes or goes nor an error does."""
    share_out = RangePartitionAssignor.assign

    def slowly(*arguments: Any) -> Any:
        time.sleep(3 * POLL_SECONDS)
        return share_out(*arguments)

    (topic,), admin = pipe.feed.topics, KafkaAdminClient(bootstrap_servers=pipe.settings.kafka)
    ingest = pipe.new_ingest()
    with closing(admin), at_work(pipe, ingest) as running:
        monkeypatch.setattr(RangePartitionAssignor, "assign", staticmethod(slowly))
        admin.create_partitions({topic: 2 * pipe.settings.kafka_partitions})
        pipe.send(electricity(f"em{number}", 1) for number in range(50))
        ingest._consumer.topics()  # has it look for new partitions now, instead of in some minutes
        wait_for(lambda: pipe.committed() == 51, WAIT_SECONDS, "it reads all partitions")
    assert running.result().stored == pipe.stored_count() == 51


@contextmanager
def at_work(
    pipe: Pipe, ingest: Ingest, on_progress: Callable[[Counts, int], None] | None = None
) -> Iterator[Future[Counts]]:
    """Ingest in a thread, with one reading stored and committed; stopped at the end of the block."""
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(ingest.run, on_progress=on_progress)
        try:
            wait_for(lambda: assigned(pipe), WAIT_SECONDS, "it has partitions")
            pipe.send([electricity("em1", 0)])
            wait_for(lambda: pipe.committed() == 1, WAIT_SECONDS, "it works")
            yield running
        finally:
            ingest.stop()


def assigned(pipe: Pipe) -> list[Any]:
    """The group's members that have partitions."""
    admin: Any = KafkaAdminClient(bootstrap_servers=pipe.settings.kafka)
    try:
        members = admin.describe_groups([pipe.feed.group])[pipe.feed.group]["members"]
        return [member for member in members if member["member_assignment"]]
    except CoordinatorNotAvailableError:  # a fresh broker begins to keep groups when the first one comes
        return []
    finally:
        admin.close()


def test_sigterm_drains(pipe: Pipe):
    pipe.send(electricity(f"em{number % 50}", number // 50) for number in range(40_000))

    with pipe.member(until_caught_up=False) as member:
        wait_for(pipe.stored_count, WAIT_SECONDS)
        member.terminate()
        counts = member.finish(timeout_seconds=20)

    assert 0 < counts.messages
    assert counts.messages == counts.stored == pipe.committed() == pipe.stored_count()
    if counts.messages < 40_000:
        assert pipe.ingest().stored == 40_000 - counts.messages


@pytest.fixture
def mongo_back(stack: LocalStack) -> Iterator[None]:
    """Whatever the test did, the next one finds MongoDB."""
    yield
    stack.start_service("mongo")


def test_mongodb_away_in_the_middle(pipe: Pipe, stack: LocalStack, mongo_back: None):
    pipe.send(mixed(30_000, random.Random(3)))

    with pipe.member(until_caught_up=True) as member:
        wait_for(pipe.stored_count, WAIT_SECONDS)
        stack.kill("mongo")
        stack.start_service("mongo")
        counts = member.finish()

    pipe.check_conservation(counts)
    check_nothing_lost(pipe)


def test_sigterm_while_mongodb_is_away_ends_it_with_nothing_committed(pipe: Pipe, stack: LocalStack, mongo_back: None):
    with pipe.member(until_caught_up=False) as member:
        wait_for(lambda: assigned(pipe), WAIT_SECONDS)
        stack.kill("mongo")
        pipe.send(mixed(30_000, random.Random(4)))
        member.terminate()
        _, errors = member.process.communicate(timeout=WAIT_SECONDS)

    assert pipe.committed() == 0
    if member.process.returncode:
        assert "ServiceAwayError: MongoDB does not answer" in errors.splitlines()[-1]
    stack.start_service("mongo")
    pipe.check_conservation(pipe.ingest())


def test_a_run_with_an_end_gives_up_on_a_mongodb_that_does_not_answer(
    pipe: Pipe, stack: LocalStack, mongo_back: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("streaming.ingest.member.GIVE_UP_SECONDS", 4)
    monkeypatch.setattr("runtime.database.ANSWER_WITHIN_SECONDS", 4)
    pipe.send(mixed(12_000, random.Random(5)))
    ingest = pipe.new_ingest()
    store = ingest._store

    def without_mongodb(*arguments: Any, **options: Any) -> Any:
        stack.kill("mongo")
        return store(*arguments, **options)

    ingest._store = without_mongodb
    with pytest.raises(MetersError, match="^MongoDB does not answer at [^\n]*$"):
        ingest.run(until_caught_up=True)
    assert pipe.committed() == 0
    assert pipe.letters() == []

    stack.start_service("mongo")
    # What the database stored without our knowing is a duplicate now; nothing was stored before it went.
    pipe.check_conservation(pipe.ingest())
    check_nothing_lost(pipe)


@pytest.fixture
def kafka_back(stack: LocalStack) -> Iterator[None]:
    """Whatever the test did, the next one finds Kafka."""
    yield
    stack.start_service("kafka")


def test_an_idle_member_says_that_kafka_does_not_answer_and_goes_on(pipe: Pipe, stack: LocalStack, kafka_back: None):
    notices: list[str] = []
    signs: list[float] = []
    ingest = pipe.new_ingest(notices.append)
    with at_work(pipe, ingest, lambda *_: signs.append(time.monotonic())) as running:
        stack.kill("kafka")
        wait_for(lambda: notices, WAIT_SECONDS, "it says so")
        before = len(signs)
        assert f"Kafka does not answer at {pipe.settings.kafka}" in notices[0]
        wait_for(lambda: time.monotonic() - signs[-1] > 3 * LOOK_SECONDS, WAIT_SECONDS, "it gives no sign of life")
        assert len(signs) == before
        stack.start_service("kafka")
        pipe.send(electricity("em1", second) for second in range(1, 51))
        wait_for(lambda: pipe.committed() == 51, WAIT_SECONDS, "it goes on")
    assert running.result().stored == pipe.stored_count() == 51
    assert "answers again" in notices[-1]


@contextmanager
def failing_inserts(settings: Settings, **how: object) -> Iterator[None]:
    """MongoDB fails the inserts of a while, in the given way."""
    with MongoClient(settings.mongo) as client:
        client.admin.command(
            {"configureFailPoint": "failCommand", "mode": {"times": 3}, "data": {"failCommands": ["insert"], **how}}
        )
        try:
            yield
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.mark.parametrize(
    "how",
    [
        {"closeConnection": True},
        # Written, but not acknowledged: what is found at the next attempt was stored by this very batch.
        {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    ],
    ids=["connection closed", "not acknowledged"],
)
def test_an_interrupted_insert_is_not_miscounted(pipe: Pipe, how: dict[str, object]):
    pipe.send(mixed(3_000, random.Random(6)))

    with failing_inserts(pipe.settings, **how):
        counts = pipe.ingest()

    assert counts.stored == 3_000
    pipe.check_conservation(counts)
    check_nothing_lost(pipe)
