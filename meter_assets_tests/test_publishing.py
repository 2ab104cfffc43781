"""A day is published whole: until all figures are of one run it says `publishing`, and what was cut off is finished."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pymongo.database import Database

from local_stack.dagster import dagster_environment
from meter_assets import up_to_date
from meter_assets.sensors.late_readings import late_readings_sensor
from meter_assets_tests.days_support import Installation, assert_whole, electricity, failpoint, readings
from meter_assets_tests.runner_support import Runner
from meter_assets_tests.support import meters
from metering.local_days import begin_days, read_day, unsettled_days
from metering.processes import own_process
from metering.publishing import LEASE, Publishing, begin_publishing, end_publishing
from metering.settings import load_settings

DAY, AFTER = date(2024, 5, 1), date(2030, 1, 1)
ALL, SOME = ("averages", "consumption"), ("averages",)
pytestmark = pytest.mark.timeout(600)  # the first one's time is the stack's, too

METERS = Path(sys.executable).with_name("meters")


def a_dead_process() -> str:
    """A process of this host that has ended, as it called itself."""
    script = "from metering.processes import own_process; print(own_process())"
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
    script = "from metering.processes import own_process; print(own_process(), flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout
    mark = Publishing(1, "run", child.stdout.readline().strip(), datetime.now(UTC), ALL)
    assert not mark.is_interrupted(datetime.now(UTC))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie until `wait`
    assert mark.is_interrupted(datetime.now(UTC))
    child.wait()


@pytest.fixture
def city(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """A day that is published, and late readings that are not; the settings also hold in this process."""
    installation.choose(unknown_meters=False, late_quiet_seconds=0)
    installation.send(*readings(str(DAY)), electricity("em2", f"{DAY}T13:00:00Z", -1))
    installation.run("backfill", str(DAY))
    installation.send(*readings(str(DAY), hours=(18,)), electricity("em3", f"{DAY}T19:00:00Z", -1))
    for name, value in installation.settings.environment().items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    yield installation
    monkeypatch.undo()
    load_settings.cache_clear()


def kill_while_publishing(city: Installation, collection: str) -> None:
    """SIGKILL `meters backfill` where it writes the day's documents of that collection."""
    write = {"failCommands": ["update", "insert"], "namespace": f"{city.database.name}.{collection}"}
    with failpoint(city, "alwaysOn", blockConnection=True, blockTimeMS=5_000, **write) as entered:
        run = subprocess.Popen([METERS, "backfill", str(DAY)], env=city.environment, stderr=subprocess.DEVNULL)
        entered(1)
        run.send_signal(signal.SIGKILL)
        run.wait()


def tick(city: Installation, cursor: str | None = None) -> dg.SensorResult:
    """One look of late_readings_sensor, as the daemon takes it."""
    with dg.DagsterInstance.from_config(str(city.settings.dagster_home)) as instance:
        result: Any = late_readings_sensor(dg.build_sensor_context(instance=instance, cursor=cursor))
        return result


@pytest.mark.parametrize("collection", ["daily_averages", "daily_consumption"])
def test_a_day_that_a_killed_run_left_half_published_says_so_and_is_finished_by_the_sensor(
    city: Installation, collection: str
):
    kill_while_publishing(city, collection)
    with pytest.raises(AssertionError):
        assert_whole(city, str(DAY))

    (late,) = city.run("late")
    assert (late["day"], late["reason"]) == (str(DAY), "interrupted")
    assert late["publishing_run"]
    told = meters(city.settings, "history", "daily_averages", str(DAY))
    assert f"{DAY}: publishing since" in told.stderr
    assert "was interrupted" in told.stderr
    dismissed = meters(city.settings, "late", "dismiss", str(DAY))
    assert (dismissed.returncode, "half published" in dismissed.stderr) == (1, True)

    dagster_environment(city.settings)
    (request,) = tick(city).run_requests or []
    with Runner(city) as runner:
        runner.begin(request.run_config)
        result = runner.answer()
    assert result["success"], result["failure"]
    assert [passed for passed, _ in result["up_to_date"]] == [False, True]
    assert "was interrupted" in result["up_to_date"][0][1]
    assert_whole(city, str(DAY))
    assert city.run("late") == []
    assert "publishing" not in meters(city.settings, "history", "daily_averages", str(DAY)).stderr


def test_a_killed_runs_day_is_finished_although_no_reading_has_come_and_by_hand_too(city: Installation):
    """Its figures are of different fault rules, say, while all readings are in them: not late, and not whole."""
    kill_while_publishing(city, "daily_consumption")
    for asset in ("raw_readings", "daily_averages", "abnormal_device_summary", "daily_consumption"):
        city.database["local_days"].update_one({"_id": str(DAY)}, {"$set": {f"assets.{asset}.changes": 99}})
    (late,) = city.run("late")
    assert late["reason"] == "interrupted"
    dagster_environment(city.settings)
    assert tick(city).run_requests
    city.run("backfill", str(DAY))
    assert_whole(city, str(DAY))
    assert city.run("late") == []
    assert not tick(city).run_requests
