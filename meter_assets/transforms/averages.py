"""Daily figures per meter type."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from meter_assets.transforms.readings import completeness, is_healthy
from metering.reading import MeterType


def daily_averages(readings: DataFrame, device_days: DataFrame) -> DataFrame:
    """One document per day and meter type that was seen or is registered.

    Faulty readings are counted and stay out of every other figure. Means are exact sums divided by counts; median
    and p95 are exact percentiles, interpolated linearly (R-7, as in NumPy and Excel).

    Args:
        readings: judged readings.
        device_days: see readings.device_days.

    Returns:
        Documents of `daily_averages`; see assets/daily.py for each column with its unit.
    """
    value = F.when(is_healthy(), F.coalesce("usage_kwh", "usage"))
    figures = readings.groupBy("day", "meter_type").agg(
        F.percentile(value, F.array(F.lit(0.5), F.lit(0.95))).alias("percentiles"),
    )
    meters = device_days.groupBy("day", "meter_type").agg(
        F.sum("amount").alias("amount"),
        F.sum("flow_rates").alias("flow_rates"),
        F.min("least").alias("min"),
        F.max("most").alias("max"),
        F.sum("readings").alias("readings"),
        F.sum("faulty_readings").alias("faulty_readings"),
        F.count_if(F.col("readings") > 0).alias("meters_seen"),
        F.count_if(F.col("expected_readings") > 0).alias("meters_expected"),
        F.sum("expected_readings").alias("expected_readings"),
        completeness().alias("completeness"),
    )
    total = F.coalesce(F.col("amount"), F.lit(0)).cast("double")
    mean = F.when(F.col("readings") > 0, total / F.col("readings"))
    is_water = F.col("meter_type") == str(MeterType.WATER)
    calculation_date = F.col("day").cast("string")
    return meters.join(figures, ["day", "meter_type"], "left").select(
        F.concat_ws("|", calculation_date, "meter_type").alias("_id"),
        calculation_date.alias("calculation_date"),
        "meter_type",
        F.when(is_water, F.lit(MeterType.WATER.unit)).otherwise(F.lit(MeterType.ELECTRICITY.unit)).alias("unit"),
        F.when(is_water, mean).alias("avg_usage"),
        F.when(~is_water, mean).alias("avg_usage_kwh"),
        F.when(is_water & (F.col("readings") > 0), F.col("flow_rates").cast("double") / F.col("readings")).alias(
            "avg_flow_rate"
        ),
        F.when(is_water, total).alias("total_usage"),
        F.when(~is_water, total).alias("total_usage_kwh"),
        "min",
        "max",
        F.col("percentiles")[0].alias("median"),
        F.col("percentiles")[1].alias("p95"),
        "readings",
        "faulty_readings",
        "meters_seen",
        "meters_expected",
        "expected_readings",
        "completeness",
    )
