"""What the code location defines, and what the UI is told of it."""

import dagster as dg
import pytest

from meter_assets.days import up_to_date
from meter_assets.days.assets import DAILY_SPECS, local_days
from meter_assets.definitions import defs
from meter_assets.failures import failure_line
from meter_assets.figures.all_figures import CHECKS
from meter_assets.partitions import LOCAL_DAY_PARTITIONS, days_between
from meter_assets.resources import all_resources
from metering.daily_tables import DAILY_AVERAGES

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


def test_the_daily_assets_are_partitioned_by_local_days_and_a_range_is_one_run():
    assert local_days.partitions_def == LOCAL_DAY_PARTITIONS
    assert local_days.backfill_policy == dg.BackfillPolicy.single_run()
    assert {spec.key for spec in DAILY_SPECS} == set(local_days.keys)


@pytest.mark.parametrize("spec", DAILY_SPECS, ids=lambda spec: spec.key.to_user_string())
def test_every_daily_asset_has_columns_with_meanings(spec: dg.AssetSpec):
    schema = spec.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert all(column.description for column in schema.columns)


def test_every_check_says_what_it_means_and_invariants_block():
    found = {(spec.asset_key.to_user_string(), spec.name): spec for spec in local_days.check_specs}
    assert found.pop((DAILY_AVERAGES, up_to_date.SPEC.name)).description
    assert len(found) == len(CHECKS)
    for check in CHECKS:
        spec = found[check.asset, check.name]
        assert spec.description
        assert spec.blocking == check.is_invariant


def test_a_check_executed_by_itself_says_what_to_do_instead():
    """The UI has a button for it, and no day to go with it."""
    key = dg.AssetCheckKey(dg.AssetKey("daily_averages"), "completeness")
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [local_days],
            selection=dg.AssetSelection.checks(key),
            resources=all_resources(),
            raise_on_error=False,
            instance=instance,
        )
    (failure,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    assert failure_line(failure) == "No day was chosen. Checks are made when a day is computed: materialize it"


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
    assert schedule.execution_timezone == LOCAL_DAY_PARTITIONS.timezone


def test_days_of_a_window_are_its_partitions():
    window = LOCAL_DAY_PARTITIONS.time_windows_for_partition_keys(frozenset(["2024-02-28", "2024-02-29", "2024-03-01"]))
    days = days_between(dg.TimeWindow(window[0].start, window[-1].end))
    assert [day.isoformat() for day, _, _ in days] == ["2024-02-28", "2024-02-29", "2024-03-01"]
    assert all(start < end for _, start, end in days)
    assert [end for _, _, end in days[:-1]] == [start for _, start, _ in days[1:]]
