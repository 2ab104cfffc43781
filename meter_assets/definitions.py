"""The code location's Definitions; workspace.yaml points here."""

import dagster as dg

from meter_assets.assets.sources import SOURCES
from meter_assets.jobs import DAILY_ASSETS, daily_readings_job
from meter_assets.resources import all_resources
from meter_assets.schedules import yesterday_schedule
from metering.settings import load_settings

defs = dg.Definitions(
    assets=[*SOURCES, *DAILY_ASSETS],
    jobs=[daily_readings_job],
    schedules=[yesterday_schedule],
    resources=all_resources(load_settings()),
    # One process a run: the steps share one Spark session instead of each opening its own.
    executor=dg.in_process_executor,
)
