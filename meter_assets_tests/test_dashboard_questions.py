"""What the dashboard's questions say, on the real mongod, about documents as the platform writes them."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from bson import json_util
from pymongo.database import Database

from alerting.episodes import update_episodes
from dashboards.native_query import native_query
from dashboards.questions import (
    COMPLETENESS,
    CONSUMPTION,
    DAYS,
    FAULTS_NOW,
    LATEST,
    QUESTIONS,
    UNTIL,
    WORST,
    Question,
)
from meter_assets.days.revisions import Edition, publish_day
from meter_assets_tests.alert_support import NOW, fault, minutes, store
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_TABLES
from metering.day_ledger import begin_days
from metering.meter_types import METER_TYPES, MeterType
from metering.registry import Meter, register_meters
from metering.settings import Settings
from metering.store import LATEST_READINGS
from streaming.router.windows import keep_latest

Row = dict[str, Any]

ELECTRICITY, WATER = (CONSUMPTION[name] for name in ("electricity", "water"))
FIRST = date(2024, 3, 29)


def as_metabase_runs(text: str, **values: Any) -> list[dict[str, Any]]:
    """The pipeline that Metabase makes of a native query: `[[…]]` without its value goes, `{{…}}` becomes the value."""

    def place(found: re.Match[str]) -> str:
        value = values[found[1]]
        return f'{{"$date": "{value.isoformat()}T00:00:00Z"}}' if isinstance(value, date) else str(value)

    def clause(found: re.Match[str]) -> str:
        names = re.findall(r"\{\{(\w+)\}\}", found[1])
        return found[1] if all(values.get(name) is not None for name in names) else ""

    text = re.sub(r"\[\[(.*?)\]\]", clause, text, flags=re.DOTALL)
    return json_util.loads(re.sub(r"\{\{(\w+)\}\}", place, text))


def answer(database: Database, question: Question, **values: Any) -> list[Row]:
    """The question's rows, as Metabase gets them: every row has all columns, in the order in which they are shown."""
    defaults = {each.name: each.default for each in question.filters}
    pipeline = as_metabase_runs(question.query, **{**defaults, **values})
    rows = list(database[question.collection].aggregate(pipeline))
    columns = [name for name in question.pipeline[-1]["$project"] if name != "_id"]
    assert all(list(row) == columns for row in rows), rows
    return rows


def as_published(document: Row, table: str) -> Row:
    """The document, if it has the fields of its collection; publishing adds two."""
    assert set(document) == {column.name for column in DAILY_TABLES[table].columns}
    return document


def averages(day: date, meter_type: MeterType, total: float, completeness: float | None) -> Row:
    is_water = meter_type is MeterType.WATER
    document = {
        "_id": f"{day}|{meter_type}",
        "calculation_date": str(day),
        "meter_type": str(meter_type),
        "unit": METER_TYPES[meter_type].unit,
        "avg_usage": total / 10 if is_water else None,
        "avg_usage_kwh": None if is_water else total / 10,
        "avg_flow_rate": 1.0 if is_water else None,
        "total_usage": total if is_water else None,
        "total_usage_kwh": None if is_water else total,
        **{"min": 0.0, "max": total, "median": 1.0, "p95": 2.0},
        **{"readings": 10, "faulty_readings": 0, "meters_seen": 1, "meters_expected": 1, "expected_readings": 10},
        "completeness": completeness,
    }
    return as_published(document, DAILY_AVERAGES)


def abnormal(day: date, device: str, faulty: int, of: int) -> Row:
    at = datetime(day.year, day.month, day.day, 5, tzinfo=UTC)
    document = {
        "_id": f"{day}|{device}",
        "calculation_date": str(day),
        "device_id": device,
        "meter_type": "electricity",
        "household_id": "h1",
        "district": "Harbour",
        "faulty_readings": faulty,
        "faulty_share": faulty / of,
        "reasons": [{"rule": "above_bound", "count": faulty}],
        "first_fault_at": at,
        "last_fault_at": at + minutes(faulty),
        "longest_fault_run": faulty,
    }
    return as_published(document, ABNORMAL_DEVICE_SUMMARY)


def publish(database: Database, asset: str, day: date, documents: Iterable[Row]) -> None:
    begun = begin_days(database, [day])[day]
    publish_day(database, asset, documents, Edition(day=begun, changes=0, rules={}, run_id="run"))


def days(count: int) -> list[date]:
    return [FIRST + timedelta(days=number) for number in range(count)]


@pytest.fixture
def five_days(mongo: Database) -> Database:
    """Five days of figures, across a clock change, and one that ingest has touched but nobody has computed."""
    for number, day in enumerate(days(5), start=1):
        electricity = averages(day, MeterType.ELECTRICITY, 100.0 * number, number / 10)
        water = averages(day, MeterType.WATER, 7.5 * number, None if number == 2 else 1.0)
        publish(mongo, DAILY_AVERAGES, day, [electricity, water])
    begin_days(mongo, [days(6)[-1]])
    return mongo


def test_every_meter_type_has_its_consumption_per_day(five_days: Database) -> None:
    assert answer(five_days, ELECTRICITY) == [
        {"Day": str(day), "Electricity (kWh)": 100.0 * number} for number, day in enumerate(days(5), start=1)
    ]
    assert [row["Water (L)"] for row in answer(five_days, WATER)] == [7.5, 15.0, 22.5, 30.0, 37.5]


def test_the_filters_choose_the_last_days_up_to_a_day(five_days: Database) -> None:
    def chosen(**values: Any) -> list[str]:
        return [row["Day"] for row in answer(five_days, ELECTRICITY, **values)]

    assert chosen(days=2) == ["2024-04-01", "2024-04-02"], "days that have figures: the sixth has none"
    assert chosen(days=2, until=date(2024, 3, 31)) == ["2024-03-30", "2024-03-31"]
    assert chosen(until=date(2023, 1, 1)) == []


def test_completeness_is_told_in_percent_where_something_was_expected(five_days: Database) -> None:
    rows = answer(five_days, COMPLETENESS, days=4)
    assert [(row["Day"], row["Meters"]) for row in rows[:2]] == [
        ("2024-03-30", "electricity"),
        ("2024-03-31", "electricity"),
    ]
    electricity = [row["Completeness (%)"] for row in rows if row["Meters"] == "electricity"]
    assert electricity == pytest.approx([20, 30, 40, 50])
    assert [row["Day"] for row in rows if row["Meters"] == "water"] == ["2024-03-31", "2024-04-01", "2024-04-02"]


def test_the_worst_meters_have_the_most_faulty_readings_of_the_days(mongo: Database) -> None:
    faulty = [{"em1": 4, "em2": 20}, {"em1": 90}, {"em1": 6, "em2": 1}]
    for day, of_day in zip(days(3), faulty, strict=True):
        publish(mongo, ABNORMAL_DEVICE_SUMMARY, day, [abnormal(day, name, n, 96) for name, n in of_day.items()])
    first, second = answer(mongo, WORST)
    share = first.pop("Faulty on those days (%)")
    assert share == pytest.approx(100 * 100 / 288)
    assert first == {
        "Meter": "em1",
        "Type": "electricity",
        "District": "Harbour",
        "Faulty readings": 100,
        "Days with faults": 3,
        "Longest run of faults": 90,
        "Last fault": datetime(2024, 3, 31, 5, 6, tzinfo=UTC),
    }
    assert (second["Meter"], second["Faulty readings"], second["Days with faults"]) == ("em2", 21, 2)
    assert [row["Meter"] for row in answer(mongo, WORST, days=1, until=FIRST)] == ["em2", "em1"]


def test_faults_now_are_open_episodes_the_critical_first(mongo: Database, database: Settings) -> None:
    installed = datetime(2024, 1, 1, tzinfo=UTC)
    place = {"household_id": "h1", "district": "Hillside", "installed_at": installed, "interval_seconds": 900}
    register_meters(mongo, [Meter(device_id="em1", meter_type=MeterType.ELECTRICITY, **place)])
    store(
        mongo,
        fault("em1", NOW - minutes(20), rule="above_bound"),
        fault("em1", NOW - minutes(5), rule="fault_sign", explanation="the meter says so"),
        fault("em2", NOW - minutes(30), severity="critical", explanation="gone"),
        fault("em3", NOW - minutes(300)),
    )
    update_episodes(mongo, database, None, NOW)
    first, second = answer(mongo, FAULTS_NOW)
    assert (first["Meter"], first["Severity"], first["District"]) == ("em2", "critical", "unassigned")
    assert second == {
        "Meter": "em1",
        "Type": "electricity",
        "District": "Hillside",
        "Severity": "warning",
        "Since": NOW - minutes(20),
        "Last fault": NOW - minutes(5),
        "Faulty readings": 2,
        "Rules": "above_bound, fault_sign",
        "Explanation": "the meter says so",
    }


def test_latest_readings_are_the_newest_first_with_every_column(mongo: Database) -> None:
    electricity = {"meter_type": "electricity", "usage_kwh": 1.5, "usage": None, "flow_rate": None, "faults": []}
    water = {"meter_type": "water", "usage_kwh": None, "usage": -3.0, "flow_rate": 2.0, "faults": ["a", "b"]}
    readings = [
        {"device_id": "em1", "timestamp": NOW, "received_at": NOW, **electricity},
        {"device_id": "wm1", "timestamp": NOW - minutes(1), "received_at": NOW, **water},
    ]
    keep_latest(mongo[LATEST_READINGS], readings)
    newest, older = answer(mongo, LATEST)
    assert newest == {
        "Meter": "em1",
        "Type": "electricity",
        "District": "unassigned",
        "Time": NOW,
        "Electricity (kWh)": 1.5,
        "Water (L)": None,
        "Flow rate (L/min)": None,
        "Faults": "",
    }
    assert (older["Water (L)"], older["Flow rate (L/min)"], older["Faults"]) == (-3.0, 2.0, "a, b")


def test_daily_questions_are_served_by_indexes(five_days: Database) -> None:
    """Their cost follows the days chosen, not the history."""
    pipeline = as_metabase_runs(ELECTRICITY.query, days=2, until=None)
    explained = five_days.command(
        "explain",
        {"aggregate": ELECTRICITY.collection, "pipeline": pipeline, "cursor": {}},
        verbosity="executionStats",
    )
    (lookup,) = [stage for stage in explained["stages"] if "$lookup" in stage]
    assert lookup["indexesUsed"] == ["calculation_date_1"]
    assert lookup["collectionScans"] == 0
    assert lookup["totalDocsExamined"] <= 4 < five_days[DAILY_AVERAGES].count_documents({})


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.key)
def test_charts_name_columns_that_their_query_has(question: Question) -> None:
    columns = question.pipeline[-1]["$project"]
    for setting in ("graph.dimensions", "graph.metrics"):
        assert set(question.settings.get(setting, [])) <= set(columns)
    assert (question.display == "table") == (question.settings == {})


def test_no_brackets_of_a_pipeline_are_taken_for_metabases(mongo: Database) -> None:
    pipeline = [{"$match": {"x": {"$in": [["a"], [["b"]]]}}}, {"$limit": "{{days}}"}]
    text = native_query(pipeline, [DAYS, UNTIL])
    assert "[[" not in text
    assert as_metabase_runs(text, days=1) == [pipeline[0], {"$limit": 1}]
