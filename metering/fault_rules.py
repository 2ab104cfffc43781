"""The fault rules: pure Spark column expressions, one definition for stream and batch.

A rule sees one reading at a time: the columns of `reading.SPARK_SCHEMA`, and beside them what the registry knows of
its meter (see `with_registry`). Faulty readings are kept and counted; they stay out of every consumption figure.
Building a column needs a Spark session.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metering.fault_event import Severity
from metering.meter_columns import of_reading, usage
from metering.meter_types import DEFAULT_LOWER_BOUND, FAULT_FIELDS, FAULT_SIGN, METER_TYPES, MeterTypeRow

FUTURE_TOLERANCE_SECONDS = 300
"""How far a meter's clock may be ahead of ours."""


@dataclass(frozen=True)
class FaultRule:
    """One rule.

    Args:
        id: name that goes into `faults`, into messages and into MongoDB; never reused for another meaning.
        version: raised whenever the rule's verdict on some reading changes.
        severity: how bad a reading is that breaks it.
        meaning: what it means, for people.
        condition: builds the boolean column; null counts as not faulty.
        explanation: builds the sentence about one faulty reading, with its numbers.
    """

    id: str
    version: int
    severity: Severity
    meaning: str
    condition: Callable[[], Column]
    explanation: Callable[[], Column]


def _is_fault_sign(row: MeterTypeRow) -> Column:
    return F.col(row.fault_field) == FAULT_SIGN


def _is_fault_sign_of_usage() -> Column:
    """Does the reading carry the fault sign in its usage itself? Then the usage is no amount."""
    of_usage = (row for row in METER_TYPES.values() if row.fault_field == row.usage.name)
    signs = (F.col(row.usage.name).isNotNull() & _is_fault_sign(row) for row in of_usage)
    return reduce(Column.__or__, signs, F.lit(False))


def _upper_bound() -> Column:
    per_hour = of_reading(lambda row: row.upper_bound_per_hour)
    return F.coalesce(F.col("upper_bound"), per_hour * F.col("interval_seconds") / 3600)


def _lower_bound() -> Column:
    # An unregistered meter has no bounds: it has a fault of its own.
    return F.coalesce(F.col("lower_bound"), F.when(F.col("interval_seconds").isNotNull(), F.lit(DEFAULT_LOWER_BOUND)))


def _number(column: Column) -> Column:
    """Up to three decimals, without an exponent, and `.0` where there are none: 41.2, 12.0, 0.125."""
    return F.regexp_replace(F.format_string("%.3f", column), "0{1,2}$", "")


def _duration(seconds: Column) -> Column:
    minutes = F.concat((seconds / 60).cast("bigint").cast("string"), F.lit(" min"))
    return F.when(seconds % 60 == 0, minutes).otherwise(F.concat(seconds.cast("string"), F.lit(" s")))


def _instant(timestamp: Column) -> Column:
    return F.date_format(timestamp, "yyyy-MM-dd'T'HH:mm:ss'Z'")


def _beyond_bound(which: str, bound: Callable[[], Column]) -> Column:
    unit = of_reading(lambda row: row.unit)
    return F.concat(
        *(
            of_reading(lambda row: row.usage.name),
            F.lit(" "),
            _number(usage()),
            F.lit(f" is {which} "),
            F.col("device_id"),
        ),
        *(F.lit("'s bound of "), _number(bound()), F.lit(" "), unit),
        *(F.lit(" in "), _duration(F.col("interval_seconds"))),
    )


def _seconds_ahead() -> Column:
    return F.unix_seconds("timestamp") - F.unix_seconds("received_at")


FAULT_RULES = (
    FaultRule(
        id="meter_fault",
        version=1,
        severity=Severity.CRITICAL,
        meaning=f"The meter reports its own fault: {FAULT_SIGN} in {' or '.join(FAULT_FIELDS)}.",
        condition=lambda: reduce(Column.__or__, (_is_fault_sign(row) for row in METER_TYPES.values())),
        explanation=lambda: F.concat(
            F.col("device_id"),
            F.lit(f" reports its own fault: {FAULT_SIGN} in "),
            of_reading(lambda row: row.fault_field),
        ),
    ),
    FaultRule(
        id="negative_usage",
        version=1,
        severity=Severity.CRITICAL,
        meaning="Usage below zero: nobody gives back. The -1 of meter_fault is not meant.",
        condition=lambda: (usage() < 0) & ~_is_fault_sign_of_usage(),
        explanation=lambda: F.concat(
            of_reading(lambda row: row.usage.name), F.lit(" "), _number(usage()), F.lit(" is negative")
        ),
    ),
    FaultRule(
        id="above_upper_bound",
        version=1,
        severity=Severity.CRITICAL,
        meaning="More usage in an interval than the registry's bound for the meter, or what its type can carry.",
        condition=lambda: usage() > _upper_bound(),
        explanation=lambda: _beyond_bound("above", _upper_bound),
    ),
    FaultRule(
        id="below_lower_bound",
        version=1,
        severity=Severity.WARNING,
        meaning="Less usage in an interval than the registry's bound for the meter; negative usage is not meant.",
        condition=lambda: (usage() >= 0) & (usage() < _lower_bound()),
        explanation=lambda: _beyond_bound("below", _lower_bound),
    ),
    FaultRule(
        id="future_timestamp",
        version=1,
        severity=Severity.WARNING,
        meaning=f"The meter's clock is more than {FUTURE_TOLERANCE_SECONDS // 60} minutes ahead of the broker's.",
        condition=lambda: _seconds_ahead() > FUTURE_TOLERANCE_SECONDS,
        explanation=lambda: F.concat(
            *(F.lit("timestamp "), _instant(F.col("timestamp")), F.lit(" is "), _duration(_seconds_ahead())),
            *(F.lit(" ahead of its arrival at "), _instant(F.col("received_at"))),
        ),
    ),
    FaultRule(
        id="unknown_meter",
        version=1,
        severity=Severity.WARNING,
        meaning="The meter is not in the registry.",
        condition=lambda: F.col("interval_seconds").isNull(),
        explanation=lambda: F.concat(F.col("device_id"), F.lit(" is not in the registry")),
    ),
)


def rules_in_force(*, unknown_meters: bool) -> tuple[FaultRule, ...]:
    """FAULT_RULES, without unknown_meter where an installation has turned it off (METERS_UNKNOWN_METERS=false)."""
    return tuple(rule for rule in FAULT_RULES if unknown_meters or rule.id != "unknown_meter")


def with_registry(readings: DataFrame, meters: DataFrame) -> DataFrame:
    """Readings with what the rules ask of the registry: interval_seconds, lower_bound, upper_bound; null where unknown.

    A broadcast join, so that it works in a stream without state.

    Args:
        readings: columns of reading.SPARK_SCHEMA.
        meters: columns of registry.METER_SPARK_SCHEMA.
    """
    known = meters.select(F.col("_id").alias("device_id"), "interval_seconds", "lower_bound", "upper_bound")
    return readings.join(F.broadcast(known), "device_id", "left")


def faults(rules: tuple[FaultRule, ...]) -> Column:
    """`array<string>`: ids of the rules that a reading breaks, in the order of FAULT_RULES; empty when healthy."""
    return F.array_compact(F.array(*(F.when(_broken(rule), F.lit(rule.id)) for rule in rules)))


def fault_details(rules: tuple[FaultRule, ...]) -> Column:
    """`array<struct<id string, version int, severity string, explanation string>>`: `faults` with their numbers."""
    details = (
        F.when(
            _broken(rule),
            F.struct(
                F.lit(rule.id).alias("id"),
                F.lit(rule.version).alias("version"),
                F.lit(str(rule.severity)).alias("severity"),
                rule.explanation().alias("explanation"),
            ),
        )
        for rule in rules
    )
    return F.array_compact(F.array(*details))


def is_faulty(rules: tuple[FaultRule, ...]) -> Column:
    """`boolean`, never null: the reading breaks at least one rule."""
    verdict = F.lit(False)
    for rule in rules:
        verdict = verdict | _broken(rule)
    return verdict


def _broken(rule: FaultRule) -> Column:
    return F.coalesce(rule.condition(), F.lit(False))
