"""How a day's readings lie over its hours."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from meter_assets.figures.device_days import amount, is_healthy


def hourly_profile(readings: DataFrame, days: DataFrame) -> DataFrame:
    """One row per day, meter type and hour since the day's beginning, of which there are 23 to 25.

    Args:
        readings: judged readings of those days.
        days: see device_days.days_frame.

    Returns:
        _id, calculation_date, meter_type, hour (0 for the first sixty minutes), readings (healthy ones),
        faulty_readings, first_at and last_at (instants, of all readings), usage (double, in the unit of the meter
        type, null without a healthy reading).
    """
    hour = F.floor((F.unix_seconds("timestamp") - F.unix_seconds("day_start")) / 3600)
    calculation_date = F.col("day").cast("string")
    return (
        readings.join(F.broadcast(days), "day")
        .groupBy("day", "meter_type", hour.alias("hour"))
        .agg(
            F.count_if(is_healthy()).alias("readings"),
            F.count_if(~is_healthy()).alias("faulty_readings"),
            F.min("timestamp").alias("first_at"),
            F.max("timestamp").alias("last_at"),
            F.sum(F.when(is_healthy(), amount())).cast("double").alias("usage"),
        )
        .select(
            F.concat_ws("|", calculation_date, "meter_type", F.col("hour").cast("string")).alias("_id"),
            calculation_date.alias("calculation_date"),
            *("meter_type", "hour", "readings", "faulty_readings", "first_at", "last_at", "usage"),
        )
    )
