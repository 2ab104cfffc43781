"""Figures of a day, computed a second time: exact sums in plain Python over what stands on the topic."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from pymongo.database import Database

from fault_injection.oracle import expect
from fault_injection.topics import Message


def wrong_figures(database: Database, sent: Sequence[Message], days: Iterable[date]) -> tuple[int, list[str]]:
    """Compare the published figures of days (UTC) with those of the messages.

    Returns:
        how many figures were compared, and a sentence for each that differs.
    """
    sums = expect(sent).healthy_sums()
    compared, wrong = 0, []
    for day in days:
        for what, found, wanted in _figures(database, str(day), sums):
            compared += 1
            if found != wanted:
                wrong.append(f"{day} {what}: {found} instead of {wanted}")
    return compared, wrong


def _figures(
    database: Database, day: str, sums: dict[tuple[str, str], tuple[int, int, Decimal]]
) -> Iterator[tuple[str, Any, Any]]:
    """What each figure is about, its published value, and what it should be."""
    of_day = {"calculation_date": day}
    averages = {each["meter_type"]: each for each in database["daily_averages"].find(of_day)}
    consumption = {each["_id"]: each for each in database["daily_consumption"].find(of_day)}
    abnormal = {each["device_id"]: each for each in database["abnormal_device_summary"].find(of_day)}
    totals: dict[str, list[Any]] = {}
    for (of, device), (healthy, faulty, usage) in sums.items():
        if of != day:
            continue
        kind = "electricity" if device.startswith("e") else "water"
        total = totals.setdefault(kind, [0, 0, Decimal(0)])
        for position, amount in enumerate((healthy, faulty, usage)):
            total[position] += amount
        document = consumption.get(f"{day}|device|{device}|{kind}", {})
        yield f"{device} readings", document.get("readings"), healthy
        yield f"{device} faulty readings", document.get("faulty_readings"), faulty
        yield f"{device} usage", _usage(document, kind), float(usage)
        summary = abnormal.pop(device, {})
        yield f"{device} abnormal readings", summary.get("faulty_readings", 0), faulty
    for kind, (healthy, faulty, usage) in totals.items():
        document = averages.get(kind, {})
        yield f"{kind} readings", document.get("readings"), healthy
        yield f"{kind} faulty readings", document.get("faulty_readings"), faulty
        yield f"{kind} usage", _usage(document, kind), float(usage)
        for level in ("household", "district"):
            parts = [each for each in consumption.values() if (each["level"], each["meter_type"]) == (level, kind)]
            yield f"{kind} readings of all {level}s", sum(each["readings"] for each in parts), healthy
    yield "meters with faults that sent none", sorted(abnormal), []


def _usage(document: dict[str, Any], kind: str) -> Any:
    return document.get("total_usage_kwh" if kind == "electricity" else "total_usage")
