"""What the UI is told of a day: numbers that it plots, and tables."""

from typing import Any

import dagster as dg

from meter_assets.day_figures import DayFigures, Document, total
from meter_assets.load_curve import load_curve
from metering.store import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION, RAW_READINGS

WORST = 10
"""Meters in a table."""


def describe(asset: str, figures: DayFigures) -> dict[str, Any]:
    """Metadata of that asset's materialization of the day; the number of hours tells days of a clock change apart."""
    return {**_DESCRIPTIONS[asset](figures), "hours": figures.hours}


def _readings(figures: DayFigures) -> dict[str, Any]:
    return {
        "dagster/partition_row_count": figures.readings,
        "faulty readings": sum(hour["faulty_readings"] for hour in figures.profile),
    }


def _averages(figures: DayFigures) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for document in figures.documents[DAILY_AVERAGES]:
        meter_type = document["meter_type"]
        numbers |= {
            f"{meter_type} total, {document['unit']}": total(document),
            f"{meter_type} readings": document["readings"],
            f"{meter_type} expected readings": document["expected_readings"],
            f"{meter_type} faulty readings": document["faulty_readings"],
        }
        if document["completeness"] is not None:
            numbers[f"{meter_type} completeness"] = round(document["completeness"], 4)
    if picture := load_curve(figures):
        numbers["load curve"] = dg.MetadataValue.md(picture)
    return numbers


def _abnormal(figures: DayFigures) -> dict[str, Any]:
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


def _consumption(figures: DayFigures) -> dict[str, Any]:
    meters = [document for document in figures.documents[DAILY_CONSUMPTION] if document["level"] == "device"]
    return {
        "meters": len(meters),
        "electricity, kWh": sum(document["total_usage_kwh"] or 0 for document in meters),
        "water, L": sum(document["total_usage"] or 0 for document in meters),
    }


def _table(rows: list[list[Any]], columns: list[dg.TableColumn]) -> dg.TableMetadataValue:
    names = [column.name for column in columns]
    records = [dg.TableRecord(dict(zip(names, row, strict=True))) for row in rows]
    return dg.TableMetadataValue(records=records, schema=dg.TableSchema(columns))


_DESCRIPTIONS = {
    RAW_READINGS: _readings,
    DAILY_AVERAGES: _averages,
    ABNORMAL_DEVICE_SUMMARY: _abnormal,
    DAILY_CONSUMPTION: _consumption,
}
