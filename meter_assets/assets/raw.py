"""raw_readings: the day's readings out of MongoDB into the lake."""

import dagster as dg

from meter_assets import columns
from meter_assets.assets.sources import OWNERS, stored_readings
from meter_assets.days import add_day_metadata
from meter_assets.lake import RAW_READINGS, RAW_READINGS_SCHEMA
from meter_assets.partitions import LOCAL_DAYS, days_between
from meter_assets.resources import LakeResource, MongoResource, SparkResource
from meter_assets.transforms.readings import local_day
from metering.settings import load_settings


@dg.asset(
    partitions_def=LOCAL_DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=[stored_readings],
    group_name="raw",
    kinds={"pyspark", "mongodb", "parquet"},
    owners=OWNERS,
    metadata={"dagster/column_schema": columns.RAW_READINGS},
    description="Every stored reading of the local day, as Parquet under `<lake>/raw_readings/day=YYYY-MM-DD/`. "
    "The partition is rewritten whole.",
)
def raw_readings(
    context: dg.AssetExecutionContext, pyspark: SparkResource, mongo: MongoResource, lake: LakeResource
) -> None:
    """MongoDB to Parquet, one folder a day."""
    window = context.partition_time_window
    days = [day for day, _, _ in days_between(window)]
    with mongo.database():  # says in one line if MongoDB is away, before Spark does in a hundred
        stored = mongo.read_readings(pyspark.spark_session, start=window.start, end=window.end)
    frame = stored.withColumn("day", local_day("timestamp", load_settings().timezone))
    lake.get().write(frame.select(*[column.name for column in columns.RAW_READINGS.columns]), RAW_READINGS, days)

    written = lake.get().read(pyspark.spark_session, RAW_READINGS, RAW_READINGS_SCHEMA, days)
    per_day = {row["day"]: row["count"] for row in written.groupBy("day").count().collect()}
    for day in days:
        folder = dg.MetadataValue.path(str(lake.get().partition(RAW_READINGS, day)))
        add_day_metadata(context, day, {"dagster/partition_row_count": per_day.get(day, 0), "folder": folder})
