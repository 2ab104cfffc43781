"""Schedules: yesterday's numbers, soon after midnight in the city."""

import dagster as dg

from meter_assets.automation.jobs import daily_readings_job

yesterday_schedule = dg.build_schedule_from_partitioned_job(
    daily_readings_job,
    name="yesterday_schedule",
    description="Materializes the local day that has just ended, at 00:30 city time: late readings get half an hour.",
    hour_of_day=0,
    minute_of_hour=30,
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
