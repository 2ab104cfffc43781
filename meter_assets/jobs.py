"""Jobs: the daily assets as one run, for the schedule, for backfills and for the command line."""

import dagster as dg

from meter_assets.assets.daily import abnormal_device_summary, daily_averages, daily_consumption
from meter_assets.assets.raw import raw_readings
from meter_assets.partitions import LOCAL_DAYS

DAILY_ASSETS = [raw_readings, daily_averages, abnormal_device_summary, daily_consumption]

daily_readings_job = dg.define_asset_job(
    "daily_readings_job",
    selection=dg.AssetSelection.assets(*DAILY_ASSETS),
    partitions_def=LOCAL_DAYS,
    description="Raw readings and daily numbers of one local day, or of a range of days in a single run.",
)
