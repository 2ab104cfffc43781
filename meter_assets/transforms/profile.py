"""How a day's readings lie over its hours."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def hourly_profile(hours: DataFrame) -> DataFrame:
    """One row per day, meter type and hour since the day's beginning.

    Args:
        hours: see readings.device_hours.

    Returns:
        _id, calculation_date, meter_type, hour, readings (healthy ones), faulty_readings, first_at and last_at
        (instants), usage (double, kWh or L, null without a healthy reading).
    """
    calculation_date = F.col("day").cast("string")
    return (
        hours.groupBy("day", "meter_type", "hour")
        .agg(
            F.sum("readings").alias("readings"),
            F.sum("faulty_readings").alias("faulty_readings"),
            F.min("first_at").alias("first_at"),
            F.max("last_at").alias("last_at"),
            F.sum("amount").cast("double").alias("usage"),
        )
        .select(
            F.concat_ws("|", calculation_date, "meter_type", F.col("hour").cast("string")).alias("_id"),
            calculation_date.alias("calculation_date"),
            *("meter_type", "hour", "readings", "faulty_readings", "first_at", "last_at", "usage"),
        )
    )
