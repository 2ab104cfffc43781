"""Jobs on the daily assets: a day or a range of days, and exactly the days that late readings have touched."""

from datetime import date

import dagster as dg

from meter_assets.days import up_to_date
from meter_assets.days.assets import DAILY_SPECS
from meter_assets.days.run import materialize_days
from meter_assets.days.stores import Stores, again_when_away
from meter_assets.partitions import LOCAL_DAY_PARTITIONS
from meter_assets.resources import LakeResource, MongoResource, SparkResource
from metering.calendar import local_day
from metering.daily_tables import DAILY_ASSETS
from metering.day_ledger import read_day
from metering.settings import load_settings

daily_readings_job = dg.define_asset_job(
    "daily_readings_job",
    selection=dg.AssetSelection.assets(*[spec.key for spec in DAILY_SPECS]),
    partitions_def=LOCAL_DAY_PARTITIONS,
    description="Raw readings and daily numbers of one local day, or of a range of days in a single run.",
)


# Not a dg.Config class: there a text may also be {"env": "NAME"}, and the run's log would show that variable.
DAYS = {
    "days": dg.Field([str], description="To compute again; ISO dates of complete local days."),
    "told": dg.Field(
        [str],
        default_value=[],
        description="Of which the check up_to_date says how they stand, and which are left as they are.",
    ),
}


@dg.op(
    config_schema=DAYS,
    description="Computes exactly these days again, which need not follow one another, and publishes each.",
)
def recompute_days(
    context: dg.OpExecutionContext, pyspark: SparkResource, mongo: MongoResource, lake: LakeResource
) -> None:
    """All daily assets of the days; and what up_to_date says of others."""
    days, told = (_dates(context.op_config[name]) for name in ("days", "told"))
    stores = Stores(pyspark, mongo, lake)
    if told:
        with again_when_away(context, stores), mongo.database() as database:
            for day in told:
                evaluation = up_to_date.evaluation(read_day(database, day))
                context.log_event(evaluation)  # pyright: ignore[reportArgumentType] (it takes them)
    materialize_days(context, [local_day(day, load_settings().zone) for day in days], DAILY_ASSETS, stores)


def _dates(names: list[str]) -> list[date]:
    try:
        return [date.fromisoformat(name) for name in names]
    except ValueError as error:
        raise dg.Failure(f"A day of the run's configuration is no ISO date: {error}", allow_retries=False) from None


@dg.job(description="All daily assets of exactly the days in its configuration; late_readings_sensor starts it.")
def late_readings_job() -> None:
    """One step over scattered days."""
    recompute_days()
