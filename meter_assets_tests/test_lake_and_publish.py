"""Writing twice leaves the same state: days of the lake, and published documents with their history."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Thread

from pymongo.database import Database
from pyspark.sql import SparkSession

from meter_assets.days.history import as_of, changed_figures, read_history
from meter_assets.days.revisions import Edition, publish_day
from meter_assets.lake.folder import FolderLake
from meter_assets_tests.lake_support import values, write
from metering.daily_tables import DAILY_AVERAGES
from metering.day_ledger import begin_days, read_day, touch_days
from metering.store import REVISIONS

FIRST, SECOND = date(2024, 5, 18), date(2024, 5, 19)
RULES = {"meter_fault": 1}


def test_a_day_of_the_lake_is_replaced_whole(spark: SparkSession, tmp_path: Path):
    lake = FolderLake(tmp_path)
    write(lake, spark, [(1, FIRST), (2, FIRST), (3, SECOND)], FIRST, SECOND)
    assert values(lake, spark, FIRST, SECOND) == [1, 2, 3]
    write(lake, spark, [(4, FIRST)], FIRST)
    assert values(lake, spark, FIRST, SECOND) == [3, 4]


def test_a_day_without_rows_is_emptied(spark: SparkSession, tmp_path: Path):
    lake = FolderLake(tmp_path)
    write(lake, spark, [(1, FIRST)], FIRST)
    write(lake, spark, [], FIRST)
    assert values(lake, spark, FIRST) == []
    assert not list((tmp_path / ".staging").iterdir())


def document(key: str, total: float, day: date = FIRST) -> dict:
    return {"_id": f"{day}|{key}", "calculation_date": str(day), "total": total}


def edition(mongo: Database, run_id: str = "run", rules: dict[str, int] = RULES) -> Edition:
    begun = begin_days(mongo, [FIRST])[FIRST]
    return Edition(day=begun, changes=begun.changes, rules=rules, run_id=run_id)


def totals(mongo: Database) -> dict[str, float]:
    return {each["_id"]: each["total"] for each in mongo[DAILY_AVERAGES].find()}


def test_publishing_the_same_figures_again_writes_nothing(mongo):
    first = publish_day(mongo, DAILY_AVERAGES, [document("a", 1.0), document("b", 2.0)], edition(mongo))
    before = list(mongo[DAILY_AVERAGES].find())
    again = publish_day(mongo, DAILY_AVERAGES, [document("a", 1.0), document("b", 2.0)], edition(mongo))
    assert (first.documents, first.changed, first.removed) == (2, 2, 0)
    assert (again.documents, again.changed, again.removed) == (2, 0, 0)
    assert list(mongo[DAILY_AVERAGES].find()) == before
    assert not list(mongo[REVISIONS].find())


def test_publishing_replaces_what_changed_and_removes_what_is_gone(mongo):
    mongo[DAILY_AVERAGES].insert_one(document("a", 9.0, SECOND))
    publish_day(mongo, DAILY_AVERAGES, [document("a", 1.0), document("b", 2.0), document("c", 3.0)], edition(mongo))
    published = publish_day(mongo, DAILY_AVERAGES, [document("a", 1.0), document("b", 2.5)], edition(mongo))
    assert (published.documents, published.changed, published.removed) == (2, 1, 1)
    assert totals(mongo) == {"2024-05-18|a": 1.0, "2024-05-18|b": 2.5, "2024-05-19|a": 9.0}


def test_every_change_of_a_published_figure_can_be_explained(mongo):
    publish_day(mongo, DAILY_AVERAGES, [document("a", 5.0), document("b", 2.0)], edition(mongo, "first"))
    touch_days(mongo, [FIRST], datetime.now(UTC))
    publish_day(mongo, DAILY_AVERAGES, [document("a", 7.0), document("b", 2.0)], edition(mongo, "late"))
    publish_day(mongo, DAILY_AVERAGES, [document("a", 4.0)], edition(mongo, "stricter", {"meter_fault": 2}))
    publish_day(mongo, DAILY_AVERAGES, [document("a", 4.0), document("b", 2.0)], edition(mongo, "undone", RULES))

    versions = read_history(mongo, DAILY_AVERAGES, str(FIRST))
    told = [
        (each.key[-1], each.revision, each.document and each.document["total"], each.run_id, each.why)
        for each in versions
    ]
    assert told == [
        ("a", 1, 5.0, None, ()),
        ("a", 2, 7.0, "late", ("late readings",)),
        ("a", 3, 4.0, "stricter", ("rule meter_fault: version 1 -> version 2",)),
        ("b", 1, 2.0, None, ()),
        ("b", 2, None, "stricter", ("rule meter_fault: version 1 -> version 2",)),
        ("b", 3, 2.0, "undone", ("rule meter_fault: version 2 -> version 1",)),
    ]
    assert changed_figures(versions[0].document, versions[1].document) == {"total": (5.0, 7.0)}
    for version in versions:
        in_force = {each.key: each for each in as_of(versions, version.since)}
        assert in_force.get(version.key) == (version if version.document else None)
    assert as_of(versions, versions[0].since - timedelta(milliseconds=1)) == []


def test_a_change_that_nothing_explains_is_called_a_correction(mongo):
    publish_day(mongo, DAILY_AVERAGES, [document("a", 5.0)], edition(mongo))
    publish_day(mongo, DAILY_AVERAGES, [document("a", 6.0)], edition(mongo))
    assert read_history(mongo, DAILY_AVERAGES, str(FIRST))[-1].why == ("correction of the registry, or of a formula",)


def test_a_run_that_began_earlier_does_not_replace_what_a_later_one_has_published(mongo):
    earlier, later = edition(mongo, "earlier"), edition(mongo, "later")
    publish_day(mongo, DAILY_AVERAGES, [document("a", 2.0)], later)
    published = publish_day(mongo, DAILY_AVERAGES, [document("a", 1.0), document("b", 1.0)], earlier)
    assert published.is_outdated
    assert totals(mongo) == {"2024-05-18|a": 2.0}
    assert read_day(mongo, FIRST).in_force(DAILY_AVERAGES).run == later.day.run


def test_two_runs_that_publish_at_once_leave_the_figures_of_the_later_one_whole(mongo):
    keys = [f"{number:04}" for number in range(2_000)]
    editions = [edition(mongo, f"run {number}") for number in range(4)]
    published = [
        Thread(
            target=publish_day,
            args=(mongo, DAILY_AVERAGES, [document(key, float(number)) for key in keys], each),
        )
        for number, each in enumerate(editions)
    ]
    for thread in published:
        thread.start()
    for thread in published:
        thread.join()
    assert set(totals(mongo).values()) == {3.0}
