"""Jobs on the daily assets: a day or a range of days, and exactly the days that late readings have touched."""

from datetime import date

import dagster as dg

from meter_assets import up_to_date
from meter_assets.assets.daily import DAILY_SPECS
from meter_assets.day_work import Stores, again_when_away, materialize_days
from meter_assets.partitions import LOCAL_DAYS, local_day
from meter_assets.resources import LakeResource, MongoResource, SparkResource
from metering.local_days import DAILY_ASSETS, read_day

daily_readings_job = dg.define_asset_job(
    "daily_readings_job",
    selection=dg.AssetSelection.assets(*[spec.key for spec in DAILY_SPECS]),
    partitions_def=LOCAL_DAYS,
    description="Raw readings and daily numbers of one local day, or of a range of days in a single run.",
)


class Days(dg.Config):
    """Which days to compute again, and of which others to tell; ISO dates, of complete local days."""

    days: list[str]
    """To compute again."""
    told: list[str] = []
    """Of which the check up_to_date says how they stand, and which are left as they are."""


@dg.op(description="Computes exactly these days again, which need not follow one another, and puts each in force.")
def recompute_days(
    context: dg.OpExecutionContext, config: Days, pyspark: SparkResource, mongo: MongoResource, lake: LakeResource
) -> None:
    """All daily assets of the days; and what up_to_date says of others."""
    stores = Stores(pyspark, mongo, lake)
    if config.told:
        with again_when_away(context, stores), mongo.database() as database:
            for day in config.told:
                evaluation = up_to_date.evaluation(read_day(database, date.fromisoformat(day)))
                context.log_event(evaluation)  # pyright: ignore[reportArgumentType] (it takes them)
    materialize_days(context, [local_day(date.fromisoformat(day)) for day in config.days], DAILY_ASSETS, stores)


@dg.job(description="All daily assets of exactly the days in its configuration; late_readings_sensor starts it.")
def late_readings_job() -> None:
    """One step over scattered days."""
    recompute_days()
