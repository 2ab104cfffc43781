"""Late readings: which days a tick computes again; and the whole way, with Dagster's daemon and nobody's help."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from local_stack.dagster import Dagster
from meter_assets.automation.late_readings_sensor import Memory, PastRun, Plan, plan_run
from meter_assets_tests.days_support import DERIVED, Installation, electricity
from meter_assets_tests.support import ask, meters, wait_for
from metering.day_ledger import InForce, LocalDay
from metering.settings import Settings

pytestmark = pytest.mark.timeout(600)  # the first one's time is the stack's and a backfill's, too

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=2)
FIRST, SECOND = date(2024, 5, 1), date(2024, 5, 20)


def late(day: date, changed_at: datetime = LONG_AGO) -> LocalDay:
    return LocalDay(day, changes=2, changed_at=changed_at, run=1, assets={"raw_readings": InForce(run=1, changes=1)})


def run(*days: date, succeeded: bool = False, ago: float | None = 0) -> PastRun:
    return PastRun(frozenset(days), succeeded, None if ago is None else NOW - timedelta(seconds=ago))


def plan(*due: LocalDay, past: tuple[PastRun, ...] = (), since: datetime = NOW) -> Plan:
    return plan_run(due, past, since=since, now=NOW, settings=Settings(late_quiet_seconds=30))


def test_the_sensor_remembers_what_it_has_told_and_begins_anew_after_an_earlier_version():
    memory = Memory(NOW, frozenset({date(2024, 5, 2)}))
    assert Memory.of(memory.cursor, NOW + timedelta(days=1)) == memory
    assert Memory.of(None, NOW) == Memory.of("2024-05-02T00:00:00+00:00", NOW) == Memory(NOW, frozenset())


def test_scattered_days_are_one_run():
    assert plan(late(FIRST), late(SECOND)).days == [FIRST, SECOND]


def test_without_late_days_there_is_nothing_to_do():
    assert plan() == Plan([], "no day is late")


def test_readings_that_still_arrive_are_waited_for_but_not_for_ever():
    arriving = late(SECOND, NOW - timedelta(seconds=10))
    assert plan(late(FIRST), arriving).days == []
    assert plan(late(FIRST), arriving, since=NOW - timedelta(seconds=600)).days == [FIRST, SECOND]


def test_a_run_at_work_is_waited_for():
    assert plan(late(FIRST), past=(run(SECOND, ago=None),)).days == []


@pytest.mark.parametrize(("failures", "pause"), [(1, 30), (2, 60), (3, 120), (20, 3600)])
def test_a_day_that_failed_is_tried_again_after_a_growing_pause(failures: int, pause: int):
    for ago, days in ((pause - 1, []), (pause, [FIRST])):
        past = tuple(run(FIRST, ago=ago + older * 10_000) for older in range(failures))
        assert plan(late(FIRST), past=past).days == days


def test_a_success_ends_the_count_of_failures():
    past = (run(FIRST, ago=30), run(FIRST, succeeded=True, ago=100), run(FIRST, ago=200), run(FIRST, ago=300))
    assert plan(late(FIRST), past=past).days == [FIRST]


def test_a_day_that_fails_does_not_hold_up_the_others():
    assert plan(late(FIRST), late(SECOND), past=(run(FIRST, ago=1),)).days == [SECOND]


@pytest.fixture
def city(installation: Installation) -> Installation:
    """Three meters that report every six hours, six days long."""
    installation.choose(late_quiet_seconds=1, unknown_meters=False, router_sensor=False)
    readings = [
        electricity(f"em{meter}", f"2024-05-{day:02}T{hour:02}:00:00Z", day / 10)
        for day in range(1, 7)
        for hour in (0, 6, 12)
        for meter in (1, 2, 3)
    ]
    installation.send(*readings)
    installation.run("backfill", "2024-05-01", "2024-05-06")
    return installation


@pytest.fixture
def dagster(city: Installation) -> Iterator[Settings]:
    server = Dagster(city.settings)
    server.launch()
    try:
        server.wait_ready()
        yield city.settings
    finally:
        server.stop()


def runs(settings: Settings, since: float) -> list[dict[str, Any]]:
    query = """query($after: Float) { runsOrError(filter: {pipelineName: "late_readings_job", createdAfter: $after}) {
        ... on Runs { results { runId status runConfigYaml assetMaterializations { partition } } } } }"""
    return ask(settings, query, after=since)["runsOrError"]["results"]


def test_late_readings_are_computed_by_themselves_on_exactly_their_days(city: Installation, dagster: Settings):
    started = datetime.now(UTC).timestamp()
    before = city.derived()
    city.send(*(electricity(f"em{meter}", f"2024-05-0{day}T18:00:00Z", 2) for day in (2, 5) for meter in (1, 2)))

    def finished() -> list[dict[str, Any]]:
        found = runs(dagster, started)
        return found if found and all(run["status"] in ("SUCCESS", "FAILURE") for run in found) else []

    (late_run,) = wait_for(finished, 240, "the sensor has the late days computed")
    assert late_run["status"] == "SUCCESS"
    assert {event["partition"] for event in late_run["assetMaterializations"]} == {"2024-05-02", "2024-05-05"}
    assert len(late_run["assetMaterializations"]) == 2 * 4

    after = city.derived()
    touched = {key for name in DERIVED for key in after[name] if after[name][key] != before[name].get(key)}
    assert {key.split("|")[0] for key in touched} == {"2024-05-02", "2024-05-05"}
    total = after["daily_averages"]["2024-05-05|electricity"]["total_usage_kwh"]
    assert total == pytest.approx(9 * 0.5 + 2 * 2)

    history = city.run("history", "daily_averages", "2024-05-05")
    assert [(version["revision"], version["why"]) for version in history] == [(1, []), (2, ["late readings"])]
    assert [version["document"]["readings"] for version in history] == [9, 11]
    moment = history[1]["since"]
    (published_then,) = city.run("history", "daily_averages", "2024-05-05", "--as-of", history[0]["since"])
    assert published_then["document"]["readings"] == 9
    (published_now,) = city.run("history", "daily_averages", "2024-05-05", "--as-of", moment)
    assert published_now["document"]["readings"] == 11

    assert city.run("late") == []
    city.run("backfill", "2024-05-01", "2024-05-06")  # from scratch: nothing changes
    assert city.derived() == after
    assert len(runs(dagster, started)) == 1


def up_to_date(settings: Settings, day: str) -> list[str]:
    """What the check has said of a day, the newest first."""
    query = """query($day: String) { assetCheckExecutions(assetKey: {path: ["daily_averages"]}, checkName: "up_to_date",
        limit: 100, partition: $day) { status } }"""
    return [each["status"] for each in ask(settings, query, day=day)["assetCheckExecutions"]]


def test_the_check_tells_which_days_are_late(city: Installation, dagster: Settings):
    untouched, soon, old = "2024-05-03", "2024-05-02", "2024-05-04"
    # Dagster remembers the days of earlier tests, too.
    before = {day: up_to_date(dagster, day) for day in (untouched, soon, old)}
    assert {statuses[0] for statuses in before.values()} == {"SUCCEEDED"}

    def says(day: str) -> list[str]:
        statuses = up_to_date(dagster, day)
        return statuses[: len(statuses) - len(before[day])]

    city.database["local_days"].update_one(
        {"_id": old}, {"$set": {"assets.daily_averages.first_at": datetime(2000, 1, 1, tzinfo=UTC)}}
    )
    city.send(*(electricity("em1", f"{day}T18:00:00Z", 2) for day in (soon, old)))
    wait_for(lambda: says(soon) == ["SUCCEEDED"], 240, "the late day is computed")
    wait_for(lambda: says(old) == ["FAILED"], 120, "the other one waits for a person")

    meters(city.settings, "late", "dismiss", old)
    wait_for(lambda: says(old) == ["SUCCEEDED", "FAILED"], 120, "the decision is told")
    city.send(electricity("em2", f"{old}T18:00:00Z", 2))
    wait_for(lambda: says(old) == ["FAILED", "SUCCEEDED", "FAILED"], 120, "it waits again")
    assert (says(soon), says(untouched)) == (["SUCCEEDED"], [])


def test_days_beyond_the_horizon_wait_for_a_person(city: Installation):
    old = {f"assets.{name}.first_at": datetime(2000, 1, 1, tzinfo=UTC) for name in ("raw_readings", *DERIVED)}
    city.database["local_days"].update_many({"_id": {"$in": ["2024-05-02", "2024-05-03"]}}, {"$set": old})
    city.send(*(electricity("em1", f"2024-05-0{day}T18:00:00Z", 2) for day in (2, 3, 4)))
    waits = {day["day"]: day["waits_for_decision"] for day in city.run("late")}
    assert waits == {"2024-05-02": True, "2024-05-03": True, "2024-05-04": False}

    dismissed = meters(city.settings, "late", "dismiss", "2024-05-02")
    assert dismissed.returncode == 0, dismissed.stderr
    city.run("backfill", "2024-05-03")
    assert [day["day"] for day in city.run("late")] == ["2024-05-04"]
    readings = {key: document["readings"] for key, document in city.documents("daily_averages").items()}
    assert (readings["2024-05-02|electricity"], readings["2024-05-03|electricity"]) == (9, 10)

    nothing = meters(city.settings, "late", "dismiss", "2024-05-02")
    assert nothing.returncode == 1
    assert "2024-05-02 is not late" in nothing.stderr


def test_what_history_cannot_answer_is_one_line(installation: Installation):
    for arguments, says in (
        (("raw_readings", "2024-05-02"), "'raw_readings' publishes no figures"),
        (("daily_averages", "2024-05-02", "--as-of", "yesterday"), "'yesterday' is no time"),
    ):
        result = meters(installation.settings, "history", *arguments)
        assert result.returncode == 1
        assert says in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    empty = meters(installation.settings, "history", "daily_averages", "2024-05-02")
    assert (empty.returncode, empty.stdout) == (0, "")
    assert "meters backfill 2024-05-02" in empty.stderr
