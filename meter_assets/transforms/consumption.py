"""Daily consumption per meter, household and district."""

from functools import reduce

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from meter_assets.transforms.readings import completeness
from metering.reading import MeterType

LEVELS = {"device": "device_id", "household": "household_id", "district": "district"}
"""Level of a document, and the column that is its key there."""


def daily_consumption(device_days: DataFrame) -> DataFrame:
    """One document per day, level, key and meter type.

    The three levels are sums of the same rows: households and districts equal the sum of their meters, with meters
    that the registry cannot place under `unassigned`.

    Args:
        device_days: see readings.device_days.

    Returns:
        Documents of `daily_consumption`; see assets/daily.py for each column with its unit.
    """
    levels = [_level(device_days, level, column) for level, column in LEVELS.items()]
    return reduce(DataFrame.unionByName, levels)


def _level(device_days: DataFrame, level: str, column: str) -> DataFrame:
    calculation_date = F.col("day").cast("string")
    total = F.coalesce(F.col("amount"), F.lit(0)).cast("double")
    is_water = F.col("meter_type") == str(MeterType.WATER)
    return (
        device_days.groupBy("day", F.col(column).alias("key"), "meter_type")
        .agg(
            F.sum("amount").alias("amount"),
            F.sum("readings").alias("readings"),
            F.sum("faulty_readings").alias("faulty_readings"),
            F.count_if(F.col("readings") > 0).alias("meters_seen"),
            F.count_if(F.col("expected_readings") > 0).alias("meters_expected"),
            F.sum("expected_readings").alias("expected_readings"),
            completeness().alias("completeness"),
        )
        .select(
            F.concat_ws("|", calculation_date, F.lit(level), "key", "meter_type").alias("_id"),
            calculation_date.alias("calculation_date"),
            F.lit(level).alias("level"),
            "key",
            "meter_type",
            F.when(is_water, total).alias("total_usage"),
            F.when(~is_water, total).alias("total_usage_kwh"),
            "readings",
            "faulty_readings",
            "meters_seen",
            "meters_expected",
            "expected_readings",
            "completeness",
        )
    )
