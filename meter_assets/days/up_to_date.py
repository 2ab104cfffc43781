"""up_to_date: the check that finds days whose figures lack readings.

A run evaluates it for each day that it computes. Days that late readings have reached are soon computed again. For the
others, which wait for a decision, late_readings_sensor has a run evaluate it again, and once more when it is made:
so the UI shows them beside missing, failed and incomplete days. So it does with days that an interrupted run has left
half published.
"""

from datetime import UTC, datetime

import dagster as dg

from meter_assets.partitions import LOCAL_DAY_PARTITIONS
from metering.daily_tables import DAILY_AVERAGES
from metering.day_ledger import LocalDay
from metering.publishing import publishing_line

ASSET = DAILY_AVERAGES

SPEC = dg.AssetCheckSpec(
    "up_to_date",
    asset=ASSET,
    partitions_def=LOCAL_DAY_PARTITIONS,
    description="The day is published whole; every reading of it that is stored is in its figures, or a person has let "
    "the figures stand.",
)


def evaluation(day: LocalDay) -> dg.AssetCheckEvaluation:
    """What the check says of a day as it stands."""
    says = f"{day.day}: the figures have all stored readings, or stand by decision"
    now = datetime.now(UTC)
    if mark := day.mark(now):
        says = f"{day.day}: {publishing_line(mark, now)}; see meters late"
    elif day.is_late:
        says = f"{day.day}: readings have come that are not in the figures; see meters late"
    changed_at = day.changed_at
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(ASSET),
        check_name=SPEC.name,
        passed=not (day.is_late or mark),
        severity=dg.AssetCheckSeverity.WARN,
        description=says,
        metadata={"newest reading stored": dg.MetadataValue.timestamp(changed_at)} if changed_at else {},
        partition=day.day.isoformat(),
    )
