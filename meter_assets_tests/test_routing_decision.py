"""What the sensor decides, from every state that runs and heartbeat can be in. No services."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meter_assets.routing.decision import ACTIVE, RouterHeartbeat, Run, decide

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def run(status: str = "STARTED", age: float = 1000, run_id: str = "aaaaaaaa-1", **changes: Any) -> Run:
    """An active run that has had this status for `age` seconds."""
    started = ago(age) if status in ("STARTED", "CANCELING") else None
    return Run(run_id, status, **{"created_at": ago(age), "changed_at": ago(age), "started_at": started, **changes})


def ended(status: str, since: float, lasted: float, run_id: str = "eeeeeeee-1", **changes: Any) -> Run:
    """A run that ended `since` seconds ago after `lasted` seconds."""
    begin, end = ago(since + lasted), ago(since)
    return Run(run_id, status, created_at=begin, changed_at=end, started_at=begin, ended_at=end, **changes)


def beat(age: float = 1, run_id: str | None = "aaaaaaaa-1", alive: bool | None = True, state: str = "running"):
    return RouterHeartbeat(
        at=ago(age),
        state=state,
        host="here",
        pid=4711,
        run_id=run_id,
        alive=alive,
        started_at=ago(age + 100),
        rows_per_second=1234.4,
        lag=7,
    )


def stalled(seconds: float, **changes: Any) -> RouterHeartbeat:
    """A heartbeat as regular as any, of a router that does not get on."""
    return replace(beat(state="stalled"), moved_at=ago(seconds), problem="MongoDB does not answer", **changes)


def test_a_router_that_stands_still_is_reported_and_left_to_itself_for_a_while():
    decision = decide([run()], stalled(100), NOW)
    assert not (decision.start or decision.give_up or decision.cancel or decision.end_router)
    assert "has stood still for 100 s with 7 readings waiting: MongoDB does not answer" in decision.say
    assert "by itself" in decision.say


def test_a_router_that_stands_still_for_minutes_is_replaced_however_regular_its_heartbeats():
    decision = decide([run()], stalled(301, lag=None), NOW)
    assert [run_id for run_id, _ in decision.give_up] == ["aaaaaaaa-1"]
    assert "has stood still for 301 s with an unknown number of readings waiting" in decision.say
    assert decision.start and decision.end_router
    young = decide([run()], replace(beat(), moved_at=ago(301)), NOW)  # it has just begun to get on
    assert not young.give_up


def test_a_router_by_hand_that_stands_still_is_reported():
    decision = decide([], stalled(400, run_id=None), NOW)
    assert not decision.start
    assert "started by hand" in decision.say and "has stood still for 400 s" in decision.say


def test_a_router_at_work_is_left_alone_and_the_tick_says_how_it_goes():
    decision = decide([run()], beat(), NOW)
    assert decision.say == "Run aaaaaaaa is routing: 1,234 readings/s, lag 7 messages, heartbeat 1 s ago."
    assert not (decision.start or decision.give_up or decision.cancel or decision.end_router)


@pytest.mark.parametrize("status", ACTIVE)
@pytest.mark.parametrize("heartbeat", [None, beat(1), beat(1, alive=None), beat(1, None), beat(1, "old", False)])
def test_a_young_active_run_is_never_doubled_nor_touched(status, heartbeat):
    decision = decide([run(status, age=3), ended("FAILURE", 5, 1)], heartbeat, NOW)
    assert not (decision.start or decision.give_up or decision.cancel or decision.end_router)
    assert decision.say.endswith(".")


@pytest.mark.parametrize(
    ("active", "heartbeat", "says"),
    [
        (run(), beat(25), "is stuck: no heartbeat for 25 s"),
        (run(age=30), beat(25), "is stuck: no heartbeat for 25 s"),  # seen at work: the time to start is over
        (run(), beat(25, state="stopping"), "is stuck: no heartbeat for 25 s"),
        (run(), beat(25, alive=None), "is stuck: no heartbeat for 25 s"),
        (run(), beat(6, alive=False), "its router (pid 4711) is gone"),
        (run(age=20), beat(6, alive=False, state="starting"), "is gone"),
        (run(age=95), None, "its router has not come up within 90 s"),
        (run(age=95), beat(1, "somebody"), "its router has not come up within 90 s"),
        (run(age=95), beat(25, state="starting"), "its router has not come up within 90 s"),
        (run("STARTING", age=95), None, "Dagster has not started its process within 90 s"),
        (run("NOT_STARTED", age=95), None, "Dagster has not started its process within 90 s"),
        (run("CANCELING", changed_at=ago(61)), beat(40), "was asked to stop more than 60 s ago"),
    ],
)
def test_a_run_that_comes_to_nothing_is_given_up_and_replaced_in_the_same_tick(active, heartbeat, says):
    decision = decide([active], heartbeat, NOW)
    assert [run_id for run_id, _ in decision.give_up] == [active.run_id]
    assert says in decision.give_up[0][1]
    assert says in decision.say
    assert decision.say.endswith("Starts a new one.")
    assert decision.start
    left = heartbeat is not None and heartbeat.run_id == active.run_id and heartbeat.alive is True
    assert decision.end_router == left


@pytest.mark.parametrize(
    ("active", "heartbeat"),
    [
        (run(), beat(20)),
        (run(), beat(4, alive=False)),  # the run is about to say why
        (run(age=89), None),
        (run(age=89), beat(25, state="starting")),
        (run(age=500), beat(1, state="starting")),  # slow, but alive
        (run("QUEUED", age=5000), None),
        (run("STARTING", age=89), None),
        (run("CANCELING", changed_at=ago(59)), beat(40)),
    ],
)
def test_a_run_that_may_still_come_to_something_is_waited_for(active, heartbeat):
    decision = decide([active], heartbeat, NOW)
    assert not (decision.start or decision.give_up or decision.cancel or decision.end_router)


def test_of_several_runs_the_oldest_stays():
    runs = [run("STARTED", 10, "cccccccc"), run("QUEUED", 5, "dddddddd"), run("STARTED", 20, "bbbbbbbb")]
    decision = decide(runs, None, NOW)
    assert decision.cancel == ("cccccccc", "dddddddd")
    assert "only one router may run, and run bbbbbbbb is it" in decision.say
    assert not decision.start


def test_the_run_whose_router_works_stays_though_another_is_older():
    decision = decide([run(age=50, run_id="older"), run(age=40)], beat(), NOW)
    assert decision.cancel == ("older",)
    assert not decision.start


def test_a_stuck_run_beside_a_sound_one_is_given_up_and_not_replaced():
    decision = decide([run(), run("STARTING", 5, "bbbbbbbb")], beat(60), NOW)
    assert [run_id for run_id, _ in decision.give_up] == ["aaaaaaaa-1"]
    assert decision.end_router
    assert not decision.start
    assert not decision.cancel


def test_a_stuck_run_is_not_replaced_while_another_one_still_stops():
    decision = decide([run(), run("CANCELING", 5, "bbbbbbbb")], beat(60), NOW)
    assert decision.give_up
    assert not decision.start
    assert "is being stopped" in decision.say


def test_without_any_run_the_first_one_is_started():
    decision = decide([], None, NOW)
    assert decision.start
    assert decision.say == "Starts the first router."


def test_a_run_stopped_by_hand_is_started_again_and_the_tick_says_how_to_pause():
    decision = decide([ended("CANCELED", 1, 5)], beat(1, "eeeeeeee-1", alive=False), NOW)
    assert decision.start
    assert "was stopped by hand" in decision.say
    assert "Turning the sensor off pauses it." in decision.say


@pytest.mark.parametrize("status", ["FAILURE", "SUCCESS"])
@pytest.mark.parametrize("lasted", [1, 10_000])
def test_the_first_retry_comes_at_once_with_the_reason(status, lasted):
    decision = decide([ended(status, 0, lasted, reason="Kafka does not answer")], None, NOW)
    assert decision.start
    assert decision.say == "Run eeeeeeee ended: Kafka does not answer. Starts it again."


@pytest.mark.parametrize(("failures", "pause"), [(2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (10, 300)])
def test_pauses_grow_with_failures_in_a_row(failures, pause):
    def after(since: float):
        runs = [ended("FAILURE", since + 30 * nth, 20, f"run{nth}", reason="no Kafka") for nth in range(failures)]
        return decide(runs, None, NOW)

    waits, starts = after(pause - 1), after(pause)
    assert not waits.start
    assert waits.say == f"The router failed {failures} times in a row. Run run0 ended: no Kafka. Tries again in 1 s."
    assert starts.start
    assert f"failed {failures} times in a row" in starts.say


@pytest.mark.parametrize("between", [ended("FAILURE", 60, 61, "long"), ended("CANCELED", 60, 5, "stopped")])
def test_a_long_run_or_a_stop_by_hand_ends_a_row_of_failures(between):
    row = [ended("FAILURE", 500 + 10 * nth, 5, f"old{nth}") for nth in range(5)]
    assert decide([ended("FAILURE", 1, 20), between, *row], None, NOW).start


def test_a_checkpoint_held_by_another_router_is_no_row_of_failures():
    def after(since: float):
        runs = [ended("FAILURE", since + 10 * nth, 2, f"run{nth}", exit_code=75) for nth in range(8)]
        return decide(runs, None, NOW)

    assert not after(9).start
    assert "Another router holds the checkpoint" in after(9).say
    assert after(10).start


def test_tries_that_met_a_held_checkpoint_do_not_count_as_failures():
    held = [ended("FAILURE", 200 + 10 * nth, 2, f"held{nth}", exit_code=75) for nth in range(8)]
    decision = decide([ended("FAILURE", 1, 50), *held], None, NOW)
    assert decision.start
    assert "in a row" not in decision.say


@pytest.mark.parametrize("alive", [True, None])
@pytest.mark.parametrize("state", ["starting", "running"])
def test_a_router_started_by_hand_is_respected(alive, state):
    decision = decide([ended("FAILURE", 400, 5)], beat(1, None, alive, state), NOW)
    assert not decision.start
    assert not decision.end_router
    assert decision.say == (
        "A router that was started by hand (pid 4711 on here) routes; stop it to let Dagster take over."
    )


def test_a_router_started_by_hand_that_stops_is_waited_for():
    decision = decide([], beat(1, None, True, "stopping"), NOW)
    assert not decision.start
    assert "is stopping" in decision.say


def test_a_stuck_router_started_by_hand_is_for_its_owner_to_end():
    decision = decide([], beat(60, None, True), NOW)
    assert not (decision.start or decision.end_router)
    assert "End it: kill -9 4711" in decision.say


@pytest.mark.parametrize("heartbeat", [beat(1, None, False), beat(60, None, None)])
def test_a_router_started_by_hand_that_is_gone_is_followed_by_ours(heartbeat):
    assert decide([], heartbeat, NOW).start


def test_a_router_by_hand_that_took_over_from_a_stuck_run_stays_alone():
    decision = decide([run(age=100)], beat(1, None), NOW)
    assert decision.give_up
    assert not decision.start
    assert "started by hand" in decision.say


@pytest.mark.parametrize(("since", "state"), [(9, "running"), (9, "starting"), (29, "stopping")])
@pytest.mark.parametrize("alive", [True, None])
def test_the_router_of_an_ended_run_gets_time_to_end(since, state, alive):
    decision = decide([ended("FAILURE", since, 500)], beat(1, "eeeeeeee-1", alive, state), NOW)
    assert not (decision.start or decision.end_router)
    assert "Waits for the router of run eeeeeeee" in decision.say


@pytest.mark.parametrize(
    ("since", "age", "state"), [(11, 1, "running"), (31, 1, "stopping"), (5, 21, "running"), (5000, 4000, "running")]
)
def test_what_an_ended_run_left_behind_is_killed_before_the_next_starts(since, age, state):
    decision = decide([ended("FAILURE", since, 500)], beat(age, "eeeeeeee-1", True, state), NOW)
    assert decision.start
    assert decision.end_router
    assert decision.say.startswith("Kills the router that run eeeeeeee left behind.")


def test_what_a_forgotten_run_left_behind_is_killed_too():
    decision = decide([], beat(1, "deleted-run", True), NOW)
    assert decision.start
    assert decision.end_router


def test_a_left_router_on_another_machine_is_named_and_none_is_started_beside_it():
    decision = decide([ended("FAILURE", 60, 500)], beat(1, "eeeeeeee-1", None), NOW)
    assert not (decision.start or decision.end_router)
    assert "still runs as pid 4711 on here. Stop it there." in decision.say
    assert decide([ended("FAILURE", 60, 500)], beat(21, "eeeeeeee-1", None), NOW).start
