"""A day is published whole: until all figures are of one run it says `publishing`, and what was cut off is finished."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from pymongo.database import Database

from local_stack.dagster import dagster_environment
from meter_assets.automation.late_readings_sensor import late_readings_sensor, plan_run
from meter_assets.days import up_to_date
from meter_assets_tests.days_support import Installation, assert_whole, failpoint, store_readings
from meter_assets_tests.runner_support import Runner, config_of
from meter_assets_tests.support import meters, wait_for
from metering.daily_tables import DAILY_AVERAGES, DAILY_CONSUMPTION
from metering.day_ledger import begin_days, read_day, touch_days, unsettled_days
from metering.process_identity import own_process
from metering.publishing import LEASE, Publishing, begin_publishing, end_publishing
from metering.settings import Settings, load_settings
from metering.store import ensure_collections

DAY, AFTER = date(2024, 5, 1), date(2030, 1, 1)
ALL, SOME = ("averages", "consumption"), ("averages",)
pytestmark = pytest.mark.timeout(600)  # the first one's time is the stack's, too


def a_dead_process() -> str:
    """A process of this host that has ended, as it called itself."""
    script = "from metering.process_identity import own_process; print(own_process())"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def begin(mongo: Database, assets: tuple[str, ...] = ALL, process: str | None = None, ago: float = 0) -> Publishing:
    run = begin_days(mongo, [DAY])[DAY].run
    since = datetime.now(UTC) - timedelta(seconds=ago)
    mark = Publishing(run, f"run-{run}", process or own_process(), since, assets)
    begin_publishing(mongo, DAY, mark)
    return mark


def end(mongo: Database, mark: Publishing) -> None:
    end_publishing(mongo, DAY, run=mark.run, assets=mark.assets)


def left(mongo: Database) -> list[int]:
    """Numbers of the runs whose marks the day has."""
    return [mark.run for mark in read_day(mongo, DAY).publishing]


def test_a_day_says_publishing_between_the_first_step_and_the_last(mongo):
    mark = begin(mongo)
    (day,) = unsettled_days(mongo, before=AFTER)
    assert (left(mongo), day.is_late, day.is_interrupted(datetime.now(UTC))) == ([1], False, False)
    assert up_to_date.evaluation(day).passed is False
    end(mongo, mark)
    assert (left(mongo), unsettled_days(mongo, before=AFTER)) == ([], [])
    assert up_to_date.evaluation(read_day(mongo, DAY)).passed is True


def test_a_run_that_replaced_all_of_an_interrupted_ones_figures_has_finished_its_day(mongo):
    begin(mongo, process=a_dead_process())
    some = begin(mongo, SOME)
    end(mongo, some)
    assert left(mongo) == [1]  # consumption may still be of either run
    end(mongo, begin(mongo))
    assert left(mongo) == []


def test_an_earlier_run_does_not_end_the_mark_of_a_later_one(mongo):
    earlier, later = begin(mongo), begin(mongo)
    end(mongo, earlier)
    assert left(mongo) == [later.run]


def test_a_mark_is_interrupted_when_its_process_has_ended_or_another_hosts_is_silent_for_long():
    def is_interrupted(process: str, ago: timedelta) -> bool:
        now = datetime.now(UTC)
        return Publishing(1, "run", process, now - ago, ALL).is_interrupted(now)

    host, pid, started = own_process().rsplit(" ", 2)
    days, moment = timedelta(days=9), timedelta(seconds=1)
    assert not is_interrupted(own_process(), days)
    assert is_interrupted(a_dead_process(), moment)
    assert is_interrupted(f"{host} {pid} {int(started) - 1}", moment)  # its id has been given to another process
    assert not is_interrupted("elsewhere 1 1", LEASE - moment)
    assert is_interrupted("elsewhere 1 1", LEASE + moment)


def test_a_process_that_nobody_has_waited_for_has_ended(mongo):
    script = "from metering.process_identity import own_process; print(own_process(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    mark = Publishing(1, "run", child.stdout.readline().strip(), datetime.now(UTC), ALL)
    assert not mark.is_interrupted(datetime.now(UTC))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie until `wait`
    assert mark.is_interrupted(datetime.now(UTC))
    child.wait()


def test_an_interrupted_day_is_computed_at_once_and_does_not_wait_for_quiet(mongo):
    begin(mongo, process=a_dead_process())
    touch_days(mongo, [DAY], datetime.now(UTC))
    now, patient = datetime.now(UTC), Settings(late_quiet_seconds=600)
    due = [read_day(mongo, DAY)]
    plan = plan_run(due, [], since=now, now=now, settings=patient, interrupted={DAY})
    assert (plan.days, "were half published" in plan.says) == ([DAY], True)
    assert plan_run(due, [], since=now, now=now, settings=patient).days == []


@pytest.fixture
def city(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """Readings of a day; the installation's settings hold in this process, too."""
    ensure_collections(installation.database)
    installation.choose(unknown_meters=False, late_quiet_seconds=0)
    store_readings(installation, DAY, hour=0)
    store_readings(installation, DAY, hour=0.5, usage_kwh=-1)
    for name, value in installation.settings.environment().items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    yield installation
    monkeypatch.undo()
    load_settings.cache_clear()


def kill_while_publishing(city: Installation, collection: str) -> str:
    """Publish the day, and SIGKILL the next run's process where it writes a document of that collection; its id."""
    with Runner(city) as worker:
        assert worker.compute(str(DAY))["success"]
        assert_whole(city, str(DAY))
        store_readings(city, DAY, hour=18)
        store_readings(city, DAY, hour=18.5, usage_kwh=-1)
        write = {"failCommands": ["update"], "namespace": f"{city.database.name}.{collection}"}
        with failpoint(city, "alwaysOn", blockConnection=True, blockTimeMS=5_000, **write) as entered:
            worker.begin(config_of([str(DAY)]))
            entered(1)
            worker.process.kill()
            worker.process.wait()
    (mark,) = read_day(city.database, DAY).publishing
    return mark.run_id


@contextmanager
def dagster(city: Installation) -> Iterator[dg.DagsterInstance]:
    """The installation's own instance."""
    dagster_environment(city.settings)
    with dg.DagsterInstance.from_config(str(city.settings.dagster_home)) as instance:
        yield instance


def test_a_day_that_a_killed_run_left_half_published_says_so_and_is_finished_by_the_sensor(city: Installation):
    killed = kill_while_publishing(city, DAILY_CONSUMPTION)
    with pytest.raises(AssertionError):
        assert_whole(city, str(DAY))

    (late,) = city.run("late")
    assert (late["day"], late["reason"], late["publishing_run"]) == (str(DAY), "interrupted", killed)
    history = meters(city.settings, "history", DAILY_AVERAGES, str(DAY))
    assert f"{DAY}: publishing since" in history.stderr
    assert f"run {killed} was interrupted" in history.stderr
    dismissed = meters(city.settings, "late", "dismiss", str(DAY))
    assert (dismissed.returncode, "half published" in dismissed.stderr) == (1, True)

    with dagster(city) as instance:
        cursor: str | None = None
        told: list[str] = []

        def computes_days() -> Any:
            """One tick; the run configuration that it asks for, if that computes a day."""
            nonlocal cursor
            result: Any = late_readings_sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
            cursor = result.cursor
            for request in result.run_requests or []:
                config = request.run_config["ops"]["recompute_days"]["config"]
                told.extend(config["told"])
                if config["days"]:
                    return request.run_config
            return None

        def status() -> dg.DagsterRunStatus | None:
            run = instance.get_run_by_id(killed)
            return run.status if run else None

        assert status() == dg.DagsterRunStatus.STARTED, "no code server has looked after it"
        run_config = wait_for(computes_days, 120, "the day is computed, after the pause that follows a failed run")
        assert told == [str(DAY), str(DAY)], "the check says `publishing` during the pause, and until the day is whole"
        assert status() == dg.DagsterRunStatus.FAILURE
    with Runner(city) as runner:
        runner.begin(run_config)
        result = runner.answer()
    assert result["success"], result["failure"]
    assert [passed for passed, _ in result["up_to_date"]] == [False, True]
    assert "was interrupted" in result["up_to_date"][0][1]
    assert_whole(city, str(DAY))
    assert city.run("late") == []
    assert "publishing" not in meters(city.settings, "history", DAILY_AVERAGES, str(DAY)).stderr
