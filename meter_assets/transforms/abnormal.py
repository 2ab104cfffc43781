"""Daily summary of meters with faults."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from meter_assets.transforms.readings import is_healthy
from metering.registry import UNASSIGNED


def abnormal_device_summary(readings: DataFrame, meters: DataFrame) -> DataFrame:
    """One document per day and meter with at least one faulty reading.

    The longest run counts consecutive faulty readings in the order of time within the day: faulty readings share a
    run when the same number of healthy ones went before them.

    Args:
        readings: judged readings.
        meters: registry entries (registry.METER_SPARK_SCHEMA).

    Returns:
        Documents of `abnormal_device_summary`; see assets/daily.py for each column.
    """
    in_time = Window.partitionBy("day", "device_id").orderBy("timestamp")
    whole_day = Window.partitionBy("day", "device_id")
    faulty = (
        readings.select("day", "device_id", "meter_type", "timestamp", "faults", "is_healthy")
        .withColumn("healthy_before", F.count_if(is_healthy()).over(in_time))
        .withColumn("all_readings", F.count("*").over(whole_day))
        .where(~is_healthy())
        .withColumn("run", F.count("*").over(Window.partitionBy("day", "device_id", "healthy_before")))
    )
    per_rule = (
        faulty.select("day", "device_id", F.explode("faults").alias("rule"))
        .groupBy("day", "device_id", "rule")
        .agg(F.count("*").alias("count"))
        .groupBy("day", "device_id")
        .agg(F.array_sort(F.collect_list(F.struct("rule", "count"))).alias("reasons"))
    )
    per_device = faulty.groupBy("day", "device_id").agg(
        F.min("meter_type").alias("meter_type"),  # one row a meter, also when one sends both types
        F.count("*").alias("faulty_readings"),
        F.first("all_readings").alias("all_readings"),
        F.min("timestamp").alias("first_fault_at"),
        F.max("timestamp").alias("last_fault_at"),
        F.max("run").alias("longest_fault_run"),
    )
    placed = meters.select(F.col("_id").alias("device_id"), "household_id", "district")
    calculation_date = F.col("day").cast("string")
    return (
        per_device.join(per_rule, ["day", "device_id"])
        .join(placed, "device_id", "left")
        .select(
            F.concat_ws("|", calculation_date, "device_id").alias("_id"),
            calculation_date.alias("calculation_date"),
            "device_id",
            "meter_type",
            F.coalesce("household_id", F.lit(UNASSIGNED)).alias("household_id"),
            F.coalesce("district", F.lit(UNASSIGNED)).alias("district"),
            "faulty_readings",
            (F.col("faulty_readings") / F.col("all_readings")).alias("faulty_share"),
            "reasons",
            "first_fault_at",
            "last_fault_at",
            "longest_fault_run",
        )
    )
