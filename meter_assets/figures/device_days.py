"""From stored readings to judged readings, and from those to one row per meter and day."""

from collections.abc import Sequence

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from metering.calendar import Day
from metering.fault_rules import FaultRule, faults, is_faulty, with_registry
from metering.meter_columns import meter_type_of, rate, usage
from metering.reading import NUMBERS
from metering.registry import UNASSIGNED

AMOUNT = "decimal(18,9)"


def local_day_of(timestamp: str, timezone: str) -> Column:
    """`date`: the city's local day of a UTC timestamp column. Holds for days of 23 and 25 hours."""
    return F.to_date(F.from_utc_timestamp(F.col(timestamp), timezone))


def stored(documents: DataFrame) -> DataFrame:
    """Readings out of their documents: meter and instant follow from the key, the type from the usage field.

    Args:
        documents: columns of reading.STORED_SPARK_SCHEMA.

    Returns:
        Columns of reading.SPARK_SCHEMA.
    """
    return documents.select(
        F.substring_index("_id", "|", -1).alias("device_id"),
        F.substring_index("_id", "|", 1).cast("timestamp").alias("timestamp"),
        meter_type_of().alias("meter_type"),
        *(*NUMBERS, "received_at"),
    )


def judged(readings: DataFrame, meters: DataFrame, rules: tuple[FaultRule, ...]) -> DataFrame:
    """Readings with `faults array<string>`, ids of the rules each one breaks, and `is_healthy`: there are none.

    Args:
        readings: columns of reading.SPARK_SCHEMA, or of the lake.
        meters: registry entries (registry.METER_SPARK_SCHEMA), which hold the bounds.
        rules: those that apply, see fault_rules.rules_in_force.
    """
    judged = with_registry(readings, meters).withColumn("faults", faults(rules))
    judged = judged.withColumn("is_healthy", ~is_faulty(rules))  # where that is all one asks, no array need be built
    return judged.drop("interval_seconds", "lower_bound", "upper_bound")


def is_healthy() -> Column:
    """`boolean`: a judged reading that breaks no rule."""
    return F.col("is_healthy")


def amount() -> Column:
    """`decimal(18,9)`: the interval's usage in the meter type's unit, for sums that are exact."""
    return usage().cast(AMOUNT)


def days_frame(spark: SparkSession, days: Sequence[Day]) -> DataFrame:
    """Rows of (day, day_start, day_end)."""
    return spark.createDataFrame(list(days), "day date, day_start timestamp, day_end timestamp")


def expected_readings(meters: DataFrame, days: DataFrame) -> DataFrame:
    """What the registry expects: one row per meter in service and day.

    A meter is in service on [installed_at, removed_at); it is expected to report once an interval from the start of
    the day, or from its installation on: ceil(seconds in service that day / interval_seconds).

    Returns:
        day, device_id, meter_type, household_id, district, expected_readings (bigint > 0).
    """
    in_service_from = F.greatest("day_start", "installed_at")
    in_service_until = F.least("day_end", F.coalesce("removed_at", "day_end"))
    seconds = in_service_until.cast("double") - in_service_from.cast("double")
    return (
        days.crossJoin(meters)
        .withColumn("expected_readings", F.ceil(seconds / F.col("interval_seconds")))
        .where("expected_readings > 0")
        .select("day", F.col("_id").alias("device_id"), "meter_type", "household_id", "district", "expected_readings")
    )


def device_days(readings: DataFrame, meters: DataFrame, days: DataFrame) -> DataFrame:
    """One row per meter and day: what it reported, beside what was expected of it.

    Args:
        readings: judged readings of those days.
        meters: registry entries (registry.METER_SPARK_SCHEMA).
        days: see days_frame.

    Returns:
        day, device_id, meter_type, household_id, district, readings (healthy ones), faulty_readings, amount and
        rates (sums, decimal, null without a healthy reading), least and most (usage of a healthy reading, null
        without one), expected_readings (0 for an unregistered meter).
    """
    healthy_usage = F.when(is_healthy(), usage())
    reported = readings.groupBy("day", "device_id", "meter_type").agg(
        F.count_if(is_healthy()).alias("readings"),
        F.count_if(~is_healthy()).alias("faulty_readings"),
        F.sum(F.when(is_healthy(), amount())).alias("amount"),
        F.sum(F.when(is_healthy(), rate().cast(AMOUNT))).alias("rates"),
        F.min(healthy_usage).alias("least"),
        F.max(healthy_usage).alias("most"),
    )
    placed = meters.select(
        F.col("_id").alias("device_id"), F.col("household_id").alias("home"), F.col("district").alias("area")
    )
    both = expected_readings(meters, days).join(reported, ["day", "device_id", "meter_type"], "full_outer")
    # A meter that reports outside its time in service still belongs to its household.
    return both.join(placed, "device_id", "left").select(
        "day",
        "device_id",
        "meter_type",
        F.coalesce("household_id", "home", F.lit(UNASSIGNED)).alias("household_id"),
        F.coalesce("district", "area", F.lit(UNASSIGNED)).alias("district"),
        F.coalesce("readings", F.lit(0)).alias("readings"),
        F.coalesce("faulty_readings", F.lit(0)).alias("faulty_readings"),
        *("amount", "rates", "least", "most"),
        F.coalesce("expected_readings", F.lit(0)).alias("expected_readings"),
    )


def measured() -> list[Column]:
    """The columns daily_tables.MEASURED, as aggregates of rows of device_days."""
    return [
        F.sum("readings").alias("readings"),
        F.sum("faulty_readings").alias("faulty_readings"),
        F.count_if(F.col("readings") > 0).alias("meters_seen"),
        F.count_if(F.col("expected_readings") > 0).alias("meters_expected"),
        F.sum("expected_readings").alias("expected_readings"),
        completeness().alias("completeness"),
    ]


def completeness() -> Column:
    """`double` in [0, 1], or null where nothing is expected: share of the expected readings that came, healthy.

    Aggregates rows of device_days. Capped per meter, so that a chatty meter cannot stand in for a silent one.
    """
    arrived = F.sum(F.least("readings", "expected_readings"))
    expected = F.sum("expected_readings")
    return F.when(expected > 0, arrived / expected)
