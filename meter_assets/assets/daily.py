"""The daily assets: raw readings in the lake, and the daily numbers in MongoDB; one step computes them together."""

from collections.abc import Iterator

import dagster as dg

from meter_assets import columns, up_to_date
from meter_assets.assets.sources import OWNERS, meter_registry, stored_readings
from meter_assets.checks import CHECKS
from meter_assets.day_work import Stores, materialize_days
from meter_assets.partitions import LOCAL_DAYS, days_between
from meter_assets.resources import LakeResource, MongoResource, SparkResource
from metering.store import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION, RAW_READINGS

# skippable: each finished day is reported by itself, while the step goes on; what a crash interrupts is not lost.
raw_readings = dg.AssetSpec(
    RAW_READINGS,
    deps=[stored_readings],
    skippable=True,
    group_name="raw",
    kinds={"pyspark", "mongodb", "parquet"},
    owners=OWNERS,
    metadata={"dagster/column_schema": columns.RAW_READINGS},
    description="Every stored reading of the local day, as Parquet under `<lake>/raw_readings/day=YYYY-MM-DD/`. "
    "The partition is rewritten whole, in one step.",
)


def _published(collection: str, schema: dg.TableSchema, description: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        collection,
        deps=[raw_readings, meter_registry],
        skippable=True,
        group_name="daily",
        kinds={"pyspark", "mongodb"},
        owners=OWNERS,
        metadata={"dagster/column_schema": schema, "collection": f"iot.{collection}"},
        description=description,
    )


daily_averages = _published(
    DAILY_AVERAGES,
    columns.DAILY_AVERAGES,
    "One document per local day and meter type: means, totals (kWh, L), spread, readings and completeness. "
    "Faulty readings are counted and stay out of every other figure.",
)
abnormal_device_summary = _published(
    ABNORMAL_DEVICE_SUMMARY,
    columns.ABNORMAL_DEVICE_SUMMARY,
    "One document per local day and meter with faulty readings: how many, which share of its readings, by which rules, "
    "from when to when, and the longest run of consecutive faults.",
)
daily_consumption = _published(
    DAILY_CONSUMPTION,
    columns.DAILY_CONSUMPTION,
    "Consumption (kWh, L) per local day and meter, household or district, with completeness. "
    "Households and districts are sums of their meters.",
)

DAILY_SPECS = [raw_readings, daily_averages, abnormal_device_summary, daily_consumption]


@dg.multi_asset(
    name="local_days",
    specs=DAILY_SPECS,
    check_specs=[*(check.spec for check in CHECKS), up_to_date.SPEC],
    can_subset=True,
    partitions_def=LOCAL_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    description="Reads the days out of MongoDB, computes their figures, checks them, and puts each day in force.",
)
def local_days(
    context: dg.AssetExecutionContext, pyspark: SparkResource, mongo: MongoResource, lake: LakeResource
) -> Iterator[dg.Output]:
    """The days of the run's partitions."""
    if not context.has_partition_key and not context.has_partition_key_range:
        # What the button that executes a check by itself asks for.
        raise dg.Failure(
            "No day was chosen. Checks are made when a day is computed: materialize it", allow_retries=False
        )
    assets = {key.to_user_string() for key in context.selected_asset_keys}
    days = days_between(context.partition_time_window)
    materialize_days(context, days, assets, Stores(pyspark, mongo, lake))
    yield from ()  # no outputs: each day has been reported by itself
