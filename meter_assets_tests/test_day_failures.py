"""What goes wrong while a day is computed: old figures stand or new ones are complete, and the UI says which."""

import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from local_stack.dagster import dagster_environment
from meter_assets.days.dead_runs import PROCESS_TAG, UNFINISHED
from meter_assets_tests.days_support import Installation, failpoint, readings, rows_in_the_lake

DAYS = ("2024-05-01", "2024-05-02", "2024-05-03")
METERS = Path(sys.executable).with_name("meters")


@pytest.fixture
def city(installation: Installation) -> Installation:
    installation.choose(unknown_meters=False)
    installation.send(*readings(*DAYS))
    return installation


def counted(city: Installation) -> dict[str, int]:
    """Readings that daily_averages has of each day."""
    return {key.split("|")[0]: each["readings"] for key, each in city.documents("daily_averages").items()}


def unfinished_runs(city: Installation) -> list[str]:
    """Runs of the installation's own days that hold a place in Dagster's queue."""
    dagster_environment(city.settings)
    with dg.DagsterInstance.from_config(str(city.settings.dagster_home)) as instance:
        runs = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
        return [run.run_id for run in runs if PROCESS_TAG in run.tags]


def test_a_run_that_is_killed_in_the_middle_of_its_write_leaves_the_old_figures(city: Installation):
    city.run("backfill", DAYS[0])
    before = city.derived()
    city.send(*readings(DAYS[0], hours=(18,)))
    write = {"failCommands": ["update"], "namespace": f"{city.database.name}.daily_averages"}
    with failpoint(city, "alwaysOn", blockConnection=True, blockTimeMS=5_000, **write) as entered:
        run = subprocess.Popen([METERS, "backfill", DAYS[0]], env=city.environment, stderr=subprocess.DEVNULL)
        entered(1)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert city.derived() == before
    assert rows_in_the_lake(city, DAYS[0]) == 12  # each asset's day is whole, and this one was finished
    assert [(day["day"], day["reason"]) for day in city.run("late")] == [(DAYS[0], "interrupted")]
    assert unfinished_runs(city), "Dagster believes that the killed run is at work"
    city.run("backfill", DAYS[0])
    assert unfinished_runs(city) == []
    assert counted(city) == {DAYS[0]: 12}
    assert city.run("late") == []


def test_two_runs_of_the_same_day_at_once_leave_one_whole_day(city: Installation):
    both = [
        subprocess.Popen([METERS, "backfill", *DAYS[::2]], env=city.environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in both:
        _, errors = run.communicate(timeout=240)
        assert run.returncode == 0, errors
    assert counted(city) == dict.fromkeys(DAYS, 9)
    assert [rows_in_the_lake(city, day) for day in DAYS] == [9, 9, 9]
    assert city.database["revisions"].count_documents({}) == 0


def test_mongodb_gone_in_the_middle_is_tried_again_for_the_days_that_are_left(city: Installation):
    gone = {"failCommands": ["find"], "closeConnection": True, "namespace": f"{city.database.name}.daily_averages"}
    with failpoint(city, {"skip": 2}, **gone) as entered:  # a day asks twice: its check, and its publishing
        run = subprocess.Popen(
            [METERS, "backfill", DAYS[0], DAYS[-1]], env=city.environment, stderr=subprocess.PIPE, text=True
        )
        entered(2)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert counted(city) == dict.fromkeys(DAYS, 9)
    begun = {day: document["runs"] for day, document in city.documents("local_days").items()}
    assert begun == {DAYS[0]: 1, DAYS[1]: 2, DAYS[2]: 2}


def test_an_empty_day_is_published_as_empty_and_warned_of(city: Installation):
    city.run("simulate", "--days", "1", "--households", "1")  # meters are registered, and expected from then on
    city.database["meters"].update_many({}, {"$set": {"installed_at": datetime(2024, 1, 1, tzinfo=UTC)}})
    warnings = city.run("backfill", "2024-06-01")["warnings"]
    assert any(warning.startswith("completeness, 2024-06-01: electricity 0.0% complete") for warning in warnings)
    averages = city.documents("daily_averages")["2024-06-01|electricity"]
    assert (averages["readings"], averages["total_usage_kwh"], averages["completeness"]) == (0, 0.0, 0.0)


def test_a_day_with_only_faults_has_totals_of_zero_and_names_its_meters(city: Installation):
    city.send(*readings("2024-05-10", usage_kwh=-1))
    city.run("backfill", "2024-05-10")
    averages = city.documents("daily_averages")["2024-05-10|electricity"]
    assert (averages["readings"], averages["faulty_readings"], averages["total_usage_kwh"]) == (0, 9, 0.0)
    assert (averages["avg_usage_kwh"], averages["median"]) == (None, None)
    summary = city.documents("abnormal_device_summary")
    assert {key: each["faulty_readings"] for key, each in summary.items()} == {
        f"2024-05-10|em{meter}": 3 for meter in (1, 2, 3)
    }


def test_a_day_whose_invariants_do_not_hold_stays_as_it_was_and_its_check_says_why(city: Installation):
    """A file of another day in a day's folder, as a careless hand puts it there."""
    city.run("backfill", DAYS[0], DAYS[-1])
    before = city.derived()
    folders = [Path(city.settings.lake_path) / "raw_readings" / f"day={day}" for day in DAYS]
    for file in folders[0].glob("*.parquet"):
        shutil.copy(file, folders[1] / f"stray-{file.name}")
    script = """
import dagster as dg
from meter_assets.definitions import defs
with dg.DagsterInstance.get() as instance:
    result = defs.resolve_job_def("daily_readings_job").execute_in_process(
        instance=instance, raise_on_error=False,
        asset_selection=[dg.AssetKey("daily_averages")],
        tags={"dagster/asset_partition_range_start": "%s", "dagster/asset_partition_range_end": "%s"})
    print(result.success)
    for entry in instance.all_logs(result.run_id):
        event = entry.dagster_event
        if event and event.event_type_value == "ASSET_CHECK_EVALUATION":
            each = event.asset_check_evaluation_data
            print(each.check_name, each.partition, each.passed, each.description)
        elif event and event.is_step_materialization:
            print("materialized", event.partition)
        elif event and event.is_step_failure:
            print(event.step_failure_data.user_failure_data.description)
"""
    done = subprocess.run(
        [sys.executable, "-c", script % (DAYS[0], DAYS[-1])],
        env={**city.environment, **dagster_environment(city.settings)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "False"
    assert [line for line in lines if line.startswith("materialized")] == [
        f"materialized {DAYS[0]}",
        f"materialized {DAYS[2]}",
    ]
    assert any(line.startswith(f"no_reading_of_another_day {DAYS[1]} False {DAYS[1]}: readings from") for line in lines)
    assert any("1 of 3 days stay as they were" in line and DAYS[1] in line for line in lines)
    assert city.derived() == before
