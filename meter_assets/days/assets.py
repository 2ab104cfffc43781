"""The daily assets: raw readings in the lake, and the daily numbers in MongoDB; one step computes them together."""

from collections.abc import Iterator

import dagster as dg

from meter_assets.days import up_to_date
from meter_assets.days.run import materialize_days
from meter_assets.days.stores import Stores
from meter_assets.figures.all_figures import CHECKS, FIGURES
from meter_assets.figures.figure import DailyFigure, column_schema
from meter_assets.partitions import LOCAL_DAY_PARTITIONS, days_between
from meter_assets.resources import LakeResource, MongoResource, SparkResource
from meter_assets.sources import OWNERS, meter_registry, stored_readings
from metering.daily_tables import RAW_READINGS, RAW_READINGS_COLUMNS

# skippable: each finished day is reported by itself, while the step goes on; what a crash interrupts is not lost.
raw_readings = dg.AssetSpec(
    RAW_READINGS,
    deps=[stored_readings],
    skippable=True,
    group_name="raw",
    kinds={"pyspark", "mongodb", "parquet"},
    owners=OWNERS,
    metadata={"dagster/column_schema": column_schema(RAW_READINGS_COLUMNS)},
    description="Every stored reading of the local day, as Parquet under `<lake>/raw_readings/day=YYYY-MM-DD/`. "
    "The partition is rewritten whole, in one step.",
)


def _published(figure: DailyFigure) -> dg.AssetSpec:
    table = figure.table
    return dg.AssetSpec(
        table.name,
        deps=[raw_readings, meter_registry],
        skippable=True,
        group_name="daily",
        kinds={"pyspark", "mongodb"},
        owners=OWNERS,
        metadata={"dagster/column_schema": column_schema(table.all_columns), "collection": f"iot.{table.name}"},
        description=figure.description,
    )


DAILY_SPECS = [raw_readings, *(_published(figure) for figure in FIGURES.values())]


@dg.multi_asset(
    name="local_days",
    specs=DAILY_SPECS,
    check_specs=[*(check.spec for check in CHECKS), up_to_date.SPEC],
    can_subset=True,
    partitions_def=LOCAL_DAY_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    description="Reads the days out of MongoDB, computes their figures, checks them, and publishes each day.",
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
