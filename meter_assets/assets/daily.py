"""The daily numbers: figures per meter type, meters with faults, and consumption; each published to MongoDB."""

from typing import Any

import dagster as dg

from meter_assets import columns
from meter_assets.assets.raw import raw_readings
from meter_assets.assets.sources import OWNERS, meter_registry
from meter_assets.days import DayRange, Document
from meter_assets.partitions import LOCAL_DAYS
from meter_assets.resources import LakeResource, MongoResource, SparkResource
from meter_assets.transforms.abnormal import abnormal_device_summary as abnormal_devices
from meter_assets.transforms.averages import daily_averages as averages
from meter_assets.transforms.consumption import daily_consumption as consumption
from metering.store import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION


def _daily(schema: dg.TableSchema, collection: str) -> dict[str, Any]:
    """What the daily assets have in common."""
    return {
        "partitions_def": LOCAL_DAYS,
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "deps": [raw_readings, meter_registry],
        "group_name": "daily",
        "kinds": {"pyspark", "mongodb"},
        "owners": OWNERS,
        "metadata": {"dagster/column_schema": schema, "collection": f"iot.{collection}"},
    }


@dg.asset(
    **_daily(columns.DAILY_AVERAGES, DAILY_AVERAGES),
    description="Figures per meter type and local day: means, totals (kWh, L), spread, readings and completeness. "
    "Faulty readings are counted and stay out of every other figure.",
)
def daily_averages(
    context: dg.AssetExecutionContext, pyspark: SparkResource, mongo: MongoResource, lake: LakeResource
) -> None:
    """One document per day and meter type."""
    days = DayRange(context, pyspark, mongo, lake)
    days.publish(averages(days.readings, days.device_days), DAILY_AVERAGES, _numbers_per_type)


@dg.asset(
    **_daily(columns.ABNORMAL_DEVICE_SUMMARY, ABNORMAL_DEVICE_SUMMARY),
    description="Meters with faulty readings: how many, which share of theirs, by which rules, from when to when, "
    "and the longest run of consecutive faults.",
)
def abnormal_device_summary(
    context: dg.AssetExecutionContext, pyspark: SparkResource, mongo: MongoResource, lake: LakeResource
) -> None:
    """One document per day and meter with faults."""
    days = DayRange(context, pyspark, mongo, lake)
    days.publish(abnormal_devices(days.readings, days.meters), ABNORMAL_DEVICE_SUMMARY, _numbers_of_faults)


@dg.asset(
    **_daily(columns.DAILY_CONSUMPTION, DAILY_CONSUMPTION),
    description="Consumption (kWh, L) per meter, household and district, with completeness. "
    "Households and districts are sums of their meters.",
)
def daily_consumption(
    context: dg.AssetExecutionContext, pyspark: SparkResource, mongo: MongoResource, lake: LakeResource
) -> None:
    """One document per day, level, key and meter type."""
    days = DayRange(context, pyspark, mongo, lake)
    days.publish(consumption(days.device_days), DAILY_CONSUMPTION, _numbers_of_consumption)


def _numbers_per_type(documents: list[Document]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for document in documents:
        meter_type = document["meter_type"]
        total = document["total_usage"] if meter_type == "water" else document["total_usage_kwh"]
        numbers |= {
            f"{meter_type} total, {document['unit']}": total,
            f"{meter_type} readings": document["readings"],
            f"{meter_type} faulty readings": document["faulty_readings"],
        }
        if document["completeness"] is not None:
            numbers[f"{meter_type} completeness"] = document["completeness"]
    return numbers


def _numbers_of_faults(documents: list[Document]) -> dict[str, Any]:
    return {
        "abnormal meters": len(documents),
        "faulty readings": sum(document["faulty_readings"] for document in documents),
        "longest fault run": max((document["longest_fault_run"] for document in documents), default=0),
    }


def _numbers_of_consumption(documents: list[Document]) -> dict[str, Any]:
    meters = [document for document in documents if document["level"] == "device"]
    return {
        "meters": len(meters),
        "electricity, kWh": sum(document["total_usage_kwh"] or 0 for document in meters),
        "water, L": sum(document["total_usage"] or 0 for document in meters),
    }
