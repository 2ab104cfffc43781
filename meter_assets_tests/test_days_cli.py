"""Real readings through the commands that a user types: replay, ingest, backfill; then what MongoDB says."""

import gzip
from datetime import date, timedelta
from pathlib import Path

import pytest

from meter_assets_tests.csv_oracle import FILES, DayTotals, expected_days
from meter_assets_tests.days_support import Installation
from meter_assets_tests.support import meters
from meter_cli.console import counted
from metering.daily_tables import DAILY_AVERAGES, DAILY_TABLES
from metering.store import keep_timezone
from runtime.database import connect
from streaming.replay.csv_presets import PRESETS


def replayed(installation: Installation, shared_data: Path, preset: str, *options: str) -> dict[str, int]:
    before = installation.database["iot-meter"].count_documents({})
    sent = installation.run("replay", str(shared_data / FILES[preset]), "--preset", preset, *options)
    stored = installation.run("ingest", "--until-caught-up")
    assert sent["rows"] == sent["sent"] + sent["missing"] + sent["refused"]
    assert stored["messages"] == sent["sent"]
    assert sent["sent"] == stored["stored"] + stored["duplicates"] + stored["conflicts"] + stored["refused"]
    assert installation.database["iot-meter"].count_documents({}) == before + stored["stored"]
    return stored


def assert_equal_to_the_file(installation: Installation, preset: str, days: dict[date, DayTotals]) -> None:
    kind = str(PRESETS[preset].meter_type)
    total = "total_usage" if kind == "water" else "total_usage_kwh"
    averages, consumption = installation.documents("daily_averages"), installation.documents("daily_consumption")
    for day, expected in days.items():
        figures = averages[f"{day}|{kind}"]
        assert (figures["readings"], figures["faulty_readings"]) == (expected.readings, expected.faulty)
        assert figures[total] == pytest.approx(expected.usage, abs=1e-6)
        for device, (readings, usage) in expected.per_device.items():
            document = consumption[f"{day}|device|{device}|{kind}"]
            assert document["readings"] == readings
            assert document[total] == pytest.approx(usage, abs=1e-6)
    assert {key.split("|")[0] for key, document in averages.items() if document["readings"]} == set(map(str, days))


def excerpt(shared_data: Path, folder: Path, *spans: tuple[date, date]) -> Path:
    """A folder with the water meters' file, with nothing but the rows of these days and two days around them."""
    with gzip.open(shared_data / FILES["daiad"], "rt") as file, gzip.open(folder / FILES["daiad"], "wt") as ours:
        ours.write(next(file))
        for row in file:
            day, month, year = map(int, row.split(";")[1][:10].split("/"))
            on = date(year, month, day)
            if any(first - timedelta(days=2) <= on <= last + timedelta(days=2) for first, last in spans):
                ours.write(row)
    return folder


def test_days_of_water_meters_equal_the_file_and_running_again_changes_nothing(installation, shared_data, tmp_path):
    """The city's own days over both clock changes; the whole year takes the same path, and minutes."""
    installation.choose(timezone="Europe/Madrid")
    spans = ((date(2016, 3, 26), date(2016, 3, 28)), (date(2016, 10, 28), date(2016, 11, 4)))
    folder = excerpt(shared_data, tmp_path, *spans)
    replayed(installation, folder, "daiad")
    assert installation.run("backfill", "2016-10-28", "2016-11-04")["days"] == 8
    installation.run("backfill", "2016-03-26", "2016-03-28")
    days = expected_days(folder / FILES["daiad"], "daiad", "Europe/Madrid")
    computed = {day: totals for day, totals in days.items() if any(first <= day <= last for first, last in spans)}
    assert len(computed) == 11
    assert_equal_to_the_file(installation, "daiad", computed)
    assert expected_hours(installation) == {
        str(day): {str(day) == "2016-03-27": 23, str(day) == "2016-10-30": 25}.get(True, 24) for day in computed
    }

    before = installation.derived()
    again = replayed(installation, folder, "daiad", "--limit", "5000")
    assert (again["stored"], again["duplicates"]) == (0, 5_000)
    installation.run("backfill", "2016-10-29", "2016-10-31")
    assert installation.derived() == before
    assert installation.run("late") == []


def expected_hours(installation: Installation) -> dict[str, float]:
    """Hours that each day's meters are expected to report of; all of them the whole day."""
    intervals = {meter["_id"]: meter["interval_seconds"] for meter in installation.database["meters"].find()}
    found: dict[str, set[float]] = {}
    for each in installation.documents("daily_consumption").values():
        if each["level"] == "device":
            hours = each["expected_readings"] * intervals[each["key"]] / 3600
            found.setdefault(each["calculation_date"], set()).add(hours)
    return {day: hours.pop() for day, hours in found.items() if len(hours) == 1}


@pytest.mark.parametrize(
    ("preset", "first", "last"), [("uci", "2006-12-16", "2006-12-19"), ("sgsc", "2013-10-04", "2013-10-09")]
)
def test_electricity_files_equal_the_daily_numbers(installation, shared_data, preset, first, last):
    replayed(installation, shared_data, preset)
    installation.run("backfill", first, last)
    days = expected_days(shared_data / FILES[preset], preset, "UTC")
    span = {day: days[day] for day in days if first <= str(day) <= last}
    assert span
    assert_equal_to_the_file(installation, preset, span)


def test_documents_have_exactly_the_columns_that_are_published(installation):
    installation.run("simulate", "--days", "1", "--households", "2", "--fault-rate", "0.2")
    installation.run("ingest", "--until-caught-up")
    day = next(iter(installation.database["iot-meter"].find().sort("_id", -1)))["timestamp"].date()
    installation.run("backfill", str(day))
    for name, table in DAILY_TABLES.items():
        documents = installation.documents(name).values()
        assert documents
        for document in documents:
            assert list(document) == [column.name for column in table.all_columns]


@pytest.mark.parametrize(
    ("days", "says"),
    [
        (["2005-12-31"], "before the first partition"),
        (["2099-01-01"], "is not over yet"),
        (["2020-01-02", "2020-01-01"], "is before the first day"),
    ],
)
def test_a_day_that_is_no_partition_is_one_line(settings, days, says):
    result = meters(settings, "backfill", *days)
    assert result.returncode == 1
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_one_day_is_no_days():
    assert [counted(number, "day") for number in (0, 1, 1234)] == ["0 days", "1 day", "1,234 days"]


def test_backfill_without_mongodb_is_one_line(settings):
    result = meters(settings, "backfill", "2020-01-01", METERS_MONGO_URI="mongodb://127.0.0.1:1/?replicaSet=meters")
    assert result.returncode == 1
    assert "MongoDB does not answer at 127.0.0.1:1" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_another_time_zone_for_stored_days_is_refused(stack, database):
    mongo = connect(database)
    keep_timezone(mongo, "Europe/Madrid")
    result = meters(database, "backfill", "2020-01-01", METERS_TIMEZONE="Asia/Ho_Chi_Minh")
    assert result.returncode == 1
    assert "local days of Europe/Madrid" in result.stderr
    assert "METERS_TIMEZONE=Asia/Ho_Chi_Minh" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(mongo[DAILY_AVERAGES].find())
    keep_timezone(mongo, "Europe/Madrid")  # says the same again: nothing to refuse
    mongo.client.close()


def test_backfill_without_spark_is_one_line_at_once(stack, database):
    result = meters(database, "backfill", "2020-01-01", METERS_SPARK_REMOTE="sc://127.0.0.1:1", timeout_seconds=60)
    assert result.returncode == 1
    assert "Spark does not answer at 127.0.0.1:1" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
