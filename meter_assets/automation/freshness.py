"""Is yesterday there? A check that fails once the daily numbers of the newest day are overdue."""

import warnings

import dagster as dg

from meter_assets.partitions import LOCAL_DAY_PARTITIONS
from metering.daily_tables import DAILY_AVERAGES

DEADLINE = "0 2 * * *"
"""City time. The schedule materializes yesterday at 00:30; an hour and a half is enough for a late service."""

with warnings.catch_warnings():
    # Dagster would rather see a FreshnessPolicy, which any materialization satisfies: that of an old day, too.
    warnings.simplefilter("ignore", dg.SupersessionWarning)
    freshness_checks = dg.build_time_partition_freshness_checks(
        assets=[dg.AssetKey(DAILY_AVERAGES)],
        deadline_cron=DEADLINE,
        timezone=LOCAL_DAY_PARTITIONS.timezone,
        severity=dg.AssetCheckSeverity.WARN,
    )
    freshness_sensor = dg.build_sensor_for_freshness_checks(
        freshness_checks=freshness_checks,
        name="freshness_sensor",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
