"""The formulas of the daily numbers, on small frames whose answers can be worked out by hand."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pyspark.sql import DataFrame, SparkSession

from meter_assets.figures import device_days as transforms
from meter_assets.figures.abnormal_device_summary import abnormal_device_summary
from meter_assets.figures.daily_averages import daily_averages
from meter_assets.figures.daily_consumption import daily_consumption
from meter_assets.lake.base import RAW_READINGS_SCHEMA
from metering.calendar import Day
from metering.fault_rules import FAULT_RULES
from metering.registry import METER_SPARK_SCHEMA

DAY = date(2024, 5, 18)
START = datetime(2024, 5, 18, tzinfo=UTC)
DAYS = [Day(DAY, START, START + timedelta(days=1))]
LONG_AGO = datetime(2010, 1, 1, tzinfo=UTC)


def electricity(device: str, minute: int, kwh: float):
    at = START + timedelta(minutes=minute)
    return (device, at, "electricity", float(kwh), None, None, None, at, DAY)


def water(device: str, minute: int, litres: float, flow: float):
    at = START + timedelta(minutes=minute)
    return (device, at, "water", None, float(litres), float(flow), None, at, DAY)


def meter(
    device: str, kind: str, *, interval: int = 900, household: str = "h1", district: str = "North", since=LONG_AGO
):
    return (device, kind, interval, since, None, household, district, None, None)


@pytest.fixture
def judge(spark: SparkSession):
    """Judges rows by a registry that knows all of their meters, with bounds of a whole day: see test_faults.py."""

    def of(rows: list) -> DataFrame:
        known = [meter(device, "electricity", interval=86_400) for device in sorted({row[0] for row in rows} | {"em1"})]
        registry = spark.createDataFrame(known, METER_SPARK_SCHEMA)
        return transforms.judged(spark.createDataFrame(rows, RAW_READINGS_SCHEMA), registry, FAULT_RULES)

    return of


@pytest.fixture
def register(spark: SparkSession):
    def of(*meters) -> DataFrame:
        return spark.createDataFrame(list(meters), METER_SPARK_SCHEMA)

    return of


def device_days(spark: SparkSession, readings: DataFrame, meters: DataFrame, days=DAYS) -> DataFrame:
    bounds = transforms.days_frame(spark, days)
    return transforms.device_days(readings, meters, bounds)


def rows(frame: DataFrame) -> dict:
    return {row["_id"]: row.asDict(recursive=True) for row in frame.collect()}


def test_averages_leave_faulty_readings_out_of_every_figure(spark, judge, register):
    values = [1.0, 2.0, 4.0, 8.0]
    readings = judge(
        [electricity("em1", 15 * n, kwh) for n, kwh in enumerate(values)]
        + [electricity("em1", 90, -1), electricity("em2", 0, -1), water("wm1", 0, 10, 2), water("wm1", 15, 30, 4)]
    )
    meters = register(*(meter(name, "electricity") for name in ("em1", "em2", "em3")), meter("wm1", "water"))
    figures = rows(daily_averages(readings, device_days(spark, readings, meters)))
    assert figures["2024-05-18|electricity"] == {
        "_id": "2024-05-18|electricity",
        "calculation_date": "2024-05-18",
        "meter_type": "electricity",
        "unit": "kWh",
        "avg_usage": None,
        "avg_usage_kwh": 3.75,
        "avg_flow_rate": None,
        "total_usage": None,
        "total_usage_kwh": 15.0,
        "min": 1.0,
        "max": 8.0,
        "median": 3.0,
        "p95": pytest.approx(7.4),
        "readings": 4,
        "faulty_readings": 2,
        "meters_seen": 1,
        "meters_expected": 3,
        "expected_readings": 3 * 96,
        "completeness": 4 / (3 * 96),
    }
    water_figures = figures["2024-05-18|water"]
    assert (water_figures["avg_usage"], water_figures["total_usage"]) == (20.0, 40.0)
    assert (water_figures["avg_flow_rate"], water_figures["avg_usage_kwh"]) == (3.0, None)


def test_a_day_without_readings_is_reported_for_registered_types(spark, judge, register):
    readings = judge([])
    figures = rows(daily_averages(readings, device_days(spark, readings, register(meter("wm1", "water")))))
    assert list(figures) == ["2024-05-18|water"]
    only = figures["2024-05-18|water"]
    assert (only["readings"], only["total_usage"], only["avg_usage"], only["completeness"]) == (0, 0.0, None, 0.0)


def test_a_day_of_only_faults_has_counts_and_no_means(spark, judge, register):
    readings = judge([electricity("em1", 15 * n, -1) for n in range(4)])
    figures = rows(daily_averages(readings, device_days(spark, readings, register(meter("em1", "electricity")))))
    only = figures["2024-05-18|electricity"]
    assert (only["readings"], only["faulty_readings"], only["meters_seen"]) == (0, 4, 0)
    assert (only["avg_usage_kwh"], only["median"], only["total_usage_kwh"]) == (None, None, 0.0)


def test_sums_do_not_depend_on_the_order_of_readings(spark, judge, register):
    readings = [electricity("em1", n, 0.1 * (n % 7) + 1e-7) for n in range(200)]
    meters = register(meter("em1", "electricity"))
    forwards, backwards = (
        rows(daily_averages(frame, device_days(spark, frame, meters)))
        for frame in (judge(readings), judge(readings[::-1]).repartition(7))
    )
    assert forwards == backwards


def test_a_chatty_meter_does_not_stand_in_for_a_silent_one(spark, judge, register):
    readings = judge([electricity("em1", n, 1) for n in range(1000)])
    meters = register(meter("em1", "electricity"), meter("em2", "electricity"))
    figures = rows(daily_averages(readings, device_days(spark, readings, meters)))
    assert figures["2024-05-18|electricity"]["completeness"] == 0.5


@pytest.mark.parametrize(("day", "quarter_hours"), [((2016, 3, 27), 92), ((2016, 6, 1), 96), ((2016, 10, 30), 100)])
def test_expected_readings_follow_the_length_of_the_local_day(spark, register, day, quarter_hours):
    zone = ZoneInfo("Europe/Madrid")
    start = datetime(*day, tzinfo=zone)
    end = datetime.combine(start.date() + timedelta(days=1), start.timetz())
    days = transforms.days_frame(spark, [Day(start.date(), start.astimezone(UTC), end.astimezone(UTC))])
    expected = transforms.expected_readings(register(meter("em1", "electricity")), days).collect()
    assert [row["expected_readings"] for row in expected] == [quarter_hours]


def test_a_meter_is_expected_from_its_installation_on(spark, register):
    days = transforms.days_frame(spark, DAYS)
    at_noon = meter("em1", "electricity", interval=3600, since=START + timedelta(hours=12, minutes=1))
    tomorrow = meter("em2", "electricity", since=START + timedelta(days=1))
    expected = transforms.expected_readings(register(at_noon, tomorrow), days).collect()
    assert [(row["device_id"], row["expected_readings"]) for row in expected] == [("em1", 12)]


def test_local_days_hold_at_both_clock_changes(spark):
    instants = {
        datetime(2016, 3, 26, 22, 59, tzinfo=UTC): date(2016, 3, 26),
        datetime(2016, 3, 26, 23, 0, tzinfo=UTC): date(2016, 3, 27),
        datetime(2016, 3, 27, 21, 59, tzinfo=UTC): date(2016, 3, 27),
        datetime(2016, 3, 27, 22, 0, tzinfo=UTC): date(2016, 3, 28),
        datetime(2016, 10, 30, 22, 59, tzinfo=UTC): date(2016, 10, 30),
        datetime(2016, 10, 30, 23, 0, tzinfo=UTC): date(2016, 10, 31),
    }
    frame = spark.createDataFrame([(instant,) for instant in instants], "timestamp timestamp")
    days = frame.select(transforms.local_day_of("timestamp", "Europe/Madrid").alias("day")).collect()
    assert [row["day"] for row in days] == list(instants.values())


def test_households_and_districts_are_the_sums_of_their_meters(spark, judge, register):
    readings = judge(
        [electricity("em1", 0, 1.5), electricity("em2", 0, 2.25), electricity("stray", 0, 4), water("wm1", 0, 10, 1)]
    )
    meters = register(
        meter("em1", "electricity", household="h1"),
        meter("em2", "electricity", household="h2"),
        meter("wm1", "water", household="h1"),
    )
    documents = rows(daily_consumption(device_days(spark, readings, meters)))
    totals = {
        key: document["total_usage_kwh"] if document["meter_type"] == "electricity" else document["total_usage"]
        for key, document in documents.items()
    }
    assert totals == {
        "2024-05-18|device|em1|electricity": 1.5,
        "2024-05-18|device|em2|electricity": 2.25,
        "2024-05-18|device|stray|electricity": 4.0,
        "2024-05-18|device|wm1|water": 10.0,
        "2024-05-18|household|h1|electricity": 1.5,
        "2024-05-18|household|h1|water": 10.0,
        "2024-05-18|household|h2|electricity": 2.25,
        "2024-05-18|household|unassigned|electricity": 4.0,
        "2024-05-18|district|North|electricity": 3.75,
        "2024-05-18|district|North|water": 10.0,
        "2024-05-18|district|unassigned|electricity": 4.0,
    }


def test_the_longest_run_counts_consecutive_faults_only(judge, register):
    pattern = [-1, -1, 1, -1, -1, -1, 1, -1]
    readings = judge([electricity("em1", 15 * n, kwh) for n, kwh in enumerate(pattern)] + [electricity("em2", 0, 1)])
    summary = rows(abnormal_device_summary(readings, register(meter("em1", "electricity"))))
    assert list(summary) == ["2024-05-18|em1"]
    only = summary["2024-05-18|em1"]
    assert (only["faulty_readings"], only["faulty_share"], only["longest_fault_run"]) == (6, 6 / 8, 3)
    assert only["reasons"] == [{"rule": "meter_fault", "count": 6}]
    assert only["last_fault_at"] - only["first_fault_at"] == timedelta(minutes=15 * 7)
    assert only["household_id"] == "h1"
