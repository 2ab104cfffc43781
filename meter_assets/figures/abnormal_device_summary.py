"""Daily summary of meters with faults."""

from typing import Any

import dagster as dg
from pymongo.database import Database
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from meter_assets.figures.check import DayCheck, Finding, evidence_table
from meter_assets.figures.day_figures import DayFigures, Document
from meter_assets.figures.device_days import is_healthy
from meter_assets.figures.figure import DailyFigure
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY, DAILY_TABLES
from metering.reading import reading_id_range
from metering.registry import UNASSIGNED
from metering.settings import Settings
from metering.store import FAULTS

WORST = 10
"""Meters in a table."""


def abnormal_device_summary(readings: DataFrame, meters: DataFrame) -> DataFrame:
    """One document per day and meter with at least one faulty reading.

    The longest run counts consecutive faulty readings in the order of time within the day: faulty readings share a
    run when the same number of healthy ones went before them.

    Args:
        readings: judged readings.
        meters: registry entries (registry.METER_SPARK_SCHEMA).

    Returns:
        Columns of `abnormal_device_summary`; see metering/daily_tables.py for each.
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


def _describe(figures: DayFigures) -> dict[str, Any]:
    documents = figures.documents[ABNORMAL_DEVICE_SUMMARY]
    worst = sorted(documents, key=lambda document: (-document["faulty_readings"], document["_id"]))[:WORST]
    return {
        "abnormal meters": len(documents),
        "faulty readings": sum(document["faulty_readings"] for document in documents),
        "longest fault run": max((document["longest_fault_run"] for document in documents), default=0),
        "worst meters": _table([_worst_meter(document) for document in worst], _WORST_COLUMNS),
    }


_WORST_COLUMNS = [
    dg.TableColumn("meter"),
    dg.TableColumn("type"),
    dg.TableColumn("district"),
    dg.TableColumn("faulty readings", "int"),
    dg.TableColumn("share", "float", "Faulty readings / all readings of the meter that day."),
    dg.TableColumn("rules", "string", "Rules broken, with the number of readings."),
]


def _worst_meter(document: Document) -> list[Any]:
    rules = ", ".join(f"{reason['rule']} ({reason['count']})" for reason in document["reasons"])
    return [
        *(document[name] for name in ("device_id", "meter_type", "district", "faulty_readings")),
        round(document["faulty_share"], 3),
        rules,
    ]


def _table(rows: list[list[Any]], columns: list[dg.TableColumn]) -> dg.TableMetadataValue:
    names = [column.name for column in columns]
    records = [dg.TableRecord(dict(zip(names, row, strict=True))) for row in rows]
    return dg.TableMetadataValue(records=records, schema=dg.TableSchema(columns))


def _stream_agrees(figures: DayFigures, database: Database, _: Settings) -> Finding:
    batch = {each["device_id"]: each["faulty_readings"] for each in figures.documents[ABNORMAL_DEVICE_SUMMARY]}
    low, high = reading_id_range(figures.start, figures.end)
    of_day = [{"$match": {"_id": {"$gte": low, "$lt": high}}}, {"$group": {"_id": "$device_id", "n": {"$sum": 1}}}]
    stream = {each["_id"]: each["n"] for each in database[FAULTS].aggregate(of_day)}
    differing = [
        {"device_id": device, "found by the day": batch.get(device, 0), "routed": stream.get(device, 0)}
        for device in sorted({*batch, *stream})
        if batch.get(device, 0) != stream.get(device, 0)
    ]
    says = f"{sum(batch.values()):,} faults found, {sum(stream.values()):,} routed"
    if differing:
        says += f"; {len(differing):,} meters differ"
    return Finding(not differing, says, {"differences": evidence_table(differing)})


FIGURE = DailyFigure(
    table=DAILY_TABLES[ABNORMAL_DEVICE_SUMMARY],
    description="One document per local day and meter with faulty readings: how many, which share of its readings, by "
    "which rules, from when to when, and the longest run of consecutive faults.",
    compute=lambda frames: abnormal_device_summary(frames.readings, frames.meters),
    describe=_describe,
    checks=(
        DayCheck(
            ABNORMAL_DEVICE_SUMMARY,
            "stream_agrees",
            "The faults that the router has routed for the day are those that the day finds.",
            False,
            _stream_agrees,
        ),
    ),
)
