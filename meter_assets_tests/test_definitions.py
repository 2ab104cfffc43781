"""What the code location defines, and what the UI is told of it."""

import dagster as dg
import pytest

from meter_assets.definitions import defs
from meter_assets.jobs import DAILY_ASSETS
from meter_assets.partitions import LOCAL_DAYS, days_between

KEYS = {
    "iot_meter_topic",
    "iot_abnormal_topic",
    "stored_readings",
    "meter_registry",
    "raw_readings",
    "daily_averages",
    "abnormal_device_summary",
    "daily_consumption",
}


def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def test_asset_keys_are_what_stored_history_hangs_on():
    assert set(specs()) == KEYS


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_asset_says_what_it_is_and_whose(key: str):
    spec = specs()[key]
    assert spec.description
    assert spec.owners
    assert spec.group_name in {"sources", "raw", "daily"}
    assert spec.kinds


@pytest.mark.parametrize("asset", DAILY_ASSETS, ids=lambda asset: asset.key.to_user_string())
def test_every_daily_asset_is_partitioned_and_has_columns_with_meanings(asset: dg.AssetsDefinition):
    assert asset.partitions_def == LOCAL_DAYS
    assert asset.backfill_policy == dg.BackfillPolicy.single_run()
    schema = asset.metadata_by_key[asset.key]["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert all(column.description for column in schema.columns)


def test_lineage_goes_from_the_topic_to_the_daily_numbers():
    upstream = {key: {dep.asset_key.to_user_string() for dep in spec.deps} for key, spec in specs().items()}
    assert upstream["stored_readings"] == {"iot_meter_topic"}
    assert upstream["iot_abnormal_topic"] == {"iot_meter_topic"}
    assert upstream["raw_readings"] == {"stored_readings"}
    for daily in ("daily_averages", "abnormal_device_summary", "daily_consumption"):
        assert upstream[daily] == {"raw_readings", "meter_registry"}


def test_the_schedule_materializes_yesterday_and_is_on():
    schedule = defs.resolve_schedule_def("yesterday_schedule")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == "30 0 * * *"
    assert schedule.execution_timezone == LOCAL_DAYS.timezone


def test_days_of_a_window_are_its_partitions():
    window = LOCAL_DAYS.time_windows_for_partition_keys(frozenset(["2024-02-28", "2024-02-29", "2024-03-01"]))
    days = days_between(dg.TimeWindow(window[0].start, window[-1].end))
    assert [day.isoformat() for day, _, _ in days] == ["2024-02-28", "2024-02-29", "2024-03-01"]
    assert all(start < end for _, start, end in days)
    assert [end for _, _, end in days[:-1]] == [start for _, start, _ in days[1:]]
