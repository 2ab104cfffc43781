"""The code location's Definitions; workspace.yaml points here."""

import dagster as dg

from meter_assets.automation.alert_sensor import alert_sensor
from meter_assets.automation.failed_run_sensor import failed_run_sensor
from meter_assets.automation.freshness import freshness_checks, freshness_sensor
from meter_assets.automation.jobs import daily_readings_job, late_readings_job
from meter_assets.automation.late_readings_sensor import late_readings_sensor
from meter_assets.automation.schedules import yesterday_schedule
from meter_assets.days.assets import local_days
from meter_assets.resources import all_resources
from meter_assets.routing.job import fault_routing_job
from meter_assets.routing.sensor import fault_routing_sensor
from meter_assets.sources import SOURCES

defs = dg.Definitions(
    assets=dg.with_source_code_references([*SOURCES, local_days]),
    asset_checks=freshness_checks,
    jobs=[daily_readings_job, late_readings_job, fault_routing_job],
    schedules=[yesterday_schedule],
    sensors=[fault_routing_sensor, late_readings_sensor, freshness_sensor, alert_sensor, failed_run_sensor],
    resources=all_resources(),
    # One process a run: the steps share one Spark session instead of each opening its own.
    # Configured: what a run's own configuration may set is a short list, and test_run_config.py has it.
    executor=dg.in_process_executor.configured(lambda _: {}, config_schema={}, name="in_process"),
)
