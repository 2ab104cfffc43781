"""The fault rules: pure Spark column expressions, one definition for stream and batch.

A rule sees one reading at a time, as the columns of `reading.SPARK_SCHEMA`, and says whether it is faulty. Faulty
readings are kept and counted; they stay out of every consumption figure. Building a column needs a Spark session.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pyspark.sql import Column
from pyspark.sql import functions as F

from metering.reading import FAULT_SIGN


@dataclass(frozen=True)
class FaultRule:
    """One rule.

    Args:
        id: name that goes into `faults`, into messages and into MongoDB; never reused for another meaning.
        version: raised whenever the rule's verdict on some reading changes.
        explanation: what it means, for people.
        condition: builds the boolean column; null counts as not faulty.
    """

    id: str
    version: int
    explanation: str
    condition: Callable[[], Column]


FAULT_RULES = (
    FaultRule(
        id="meter_fault",
        version=1,
        explanation="The meter reports its own fault: -1 in usage_kwh or flow_rate.",
        condition=lambda: (F.col("usage_kwh") == FAULT_SIGN) | (F.col("flow_rate") == FAULT_SIGN),
    ),
)


def faults() -> Column:
    """`array<string>`: ids of the rules that a reading breaks, in the order of FAULT_RULES; empty when healthy."""
    verdicts = [F.when(F.coalesce(rule.condition(), F.lit(False)), F.lit(rule.id)) for rule in FAULT_RULES]
    return F.array_compact(F.array(*verdicts))
