"""The lake for others: who else reads it, and what its upkeep leaves as it was."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pytest

from local_stack.dagster import dagster_environment
from meter_assets.lake.folder import FolderLake
from meter_assets_tests.days_support import Installation, electricity
from meter_assets_tests.support import meters

DAYS = ["2024-05-01", "2024-05-02"]
HOURS = (0, 7, 13, 19)


@pytest.fixture
def city(installation: Installation) -> Installation:
    """Four readings a day, a quarter of the day apart, so that each of Spark's slices makes a file."""
    installation.choose(unknown_meters=False)
    installation.send(
        *(electricity("em1", f"{day}T{hour:02}:00:00.250Z", hour / 10) for day in DAYS for hour in HOURS),
        {"device_id": "wm1", "timestamp": "2024-05-02T07:00:00Z", "usage": 8, "flow_rate": 0.5, "register": 1e6},
    )
    installation.run("backfill", DAYS[0], DAYS[-1])
    return installation


def table(city: Installation) -> Path:
    return Path(city.settings.lake_path) / "raw_readings"


def rows(city: Installation) -> list[tuple[Any, ...]]:
    """Everything in the lake, as DuckDB reads it: day, instant, meter, type, amounts."""
    query = f"""select day, epoch_ms("timestamp"), device_id, meter_type, usage_kwh, usage, flow_rate, "register"
        from read_parquet('{table(city)}/*/*.parquet', hive_partitioning = true) order by all"""  # noqa: S608
    return duckdb.connect().execute(query).fetchall()


def files(city: Installation) -> dict[str, int]:
    return {each["day"]: each["files"] for each in city.run("lake")}


def test_duckdb_polars_and_pandas_read_it_as_one_data_set(city: Installation):
    found = rows(city)
    assert [(str(row[0]), row[2], row[4]) for row in found if row[3] == "electricity"] == [
        (day, "em1", hour / 10) for day in DAYS for hour in HOURS
    ]
    assert found[0][1] % 1000 == 250
    polars = pl.read_parquet(f"{table(city)}/*/*.parquet", hive_partitioning=True)
    pandas = pd.read_parquet(table(city))
    for frame in (polars, pandas):
        assert len(frame) == len(found)
        assert float(frame["usage_kwh"].sum()) == pytest.approx(sum(row[4] or 0 for row in found))
        assert {str(day) for day in frame["day"]} == set(DAYS)
    instants = sorted(row[1] for row in found)
    assert polars["timestamp"].dt.epoch("ms").sort().to_list() == instants
    assert sorted(at.value // 1_000_000 for at in pandas["timestamp"]) == instants


def test_compaction_leaves_one_file_a_day_and_the_same_rows(city: Installation):
    before, derived = rows(city), city.derived()
    assert all(count > 1 for count in files(city).values())
    assert [each["day"] for each in city.run("lake", "compact", "--dry-run")] == DAYS
    assert [(each["files"], each["rows"]) for each in city.run("lake", "compact")] == [(1, 4), (1, 5)]
    assert files(city) == dict.fromkeys(DAYS, 1)
    assert rows(city) == before
    assert city.run("lake", "compact") == []
    assert materialize(city, "daily_averages").returncode == 0
    assert city.derived() == derived


def test_a_day_that_was_dropped_is_not_taken_for_one_without_readings(city: Installation):
    derived = city.derived()
    assert [each["day"] for each in city.run("lake", "prune", "--before", DAYS[1], "--dry-run")] == DAYS[:1]
    assert list(files(city)) == DAYS
    assert [each["day"] for each in city.run("lake", "prune", "--before", DAYS[1])] == DAYS[:1]
    assert list(files(city)) == DAYS[1:]
    refused = materialize(city, "daily_averages")
    assert refused.returncode == 1
    assert f"not in the lake, the first {DAYS[0]}" in refused.stdout
    assert city.derived() == derived
    city.run("backfill", DAYS[0])
    assert list(files(city)) == DAYS
    assert city.derived() == derived
    assert city.run("late") == []


def test_what_cannot_be_read_or_asked_for_is_one_line(city: Installation):
    next(table(city).glob(f"day={DAYS[0]}/*.parquet")).write_bytes(b"no parquet")
    for command in (["lake"], ["lake", "compact"]):
        refused = meters(city.settings, *command)
        assert refused.returncode == 1
        assert f"backfill {DAYS[0]}" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert meters(city.settings, "lake", "prune").returncode == 2


def test_an_empty_lake_says_what_to_do(tmp_path: Path):
    assert FolderLake(tmp_path).days("raw_readings") == []


def materialize(city: Installation, asset: str) -> subprocess.CompletedProcess[str]:
    """Both days of one asset, as the UI launches it; what went wrong goes to standard output."""
    script = f"""
import sys
import dagster as dg
from meter_assets.definitions import defs
with dg.DagsterInstance.get() as instance:
    result = defs.resolve_job_def("daily_readings_job").execute_in_process(
        instance=instance, raise_on_error=False, asset_selection=[dg.AssetKey("{asset}")],
        tags={{"dagster/asset_partition_range_start": "{DAYS[0]}", "dagster/asset_partition_range_end": "{DAYS[1]}"}})
    for event in result.all_events:
        if event.is_step_failure:
            print(event.step_failure_data.user_failure_data.description)
    sys.exit(not result.success)
"""
    environment = {**os.environ, **city.environment, **dagster_environment(city.settings)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240)
