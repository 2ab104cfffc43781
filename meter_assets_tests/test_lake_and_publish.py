"""Writing twice leaves the same state: days of the lake, and published documents."""

from datetime import date
from pathlib import Path

import pytest
from pymongo import MongoClient
from pyspark.sql import SparkSession

from meter_assets.lake import Lake
from meter_assets.publish import publish_day
from metering.errors import MetersError
from metering.settings import Settings

SCHEMA = "value int, day date"
FIRST, SECOND = date(2024, 5, 18), date(2024, 5, 19)


def values(lake: Lake, spark: SparkSession, *days: date) -> list[int]:
    return sorted(row["value"] for row in lake.read(spark, "table", SCHEMA, days).collect())


def test_a_day_of_the_lake_is_replaced_whole(spark: SparkSession, tmp_path: Path):
    lake = Lake(str(tmp_path))
    days = [FIRST, SECOND]
    lake.write(spark.createDataFrame([(1, FIRST), (2, FIRST), (3, SECOND)], SCHEMA), "table", days)
    assert values(lake, spark, *days) == [1, 2, 3]
    lake.write(spark.createDataFrame([(4, FIRST)], SCHEMA), "table", [FIRST])
    assert values(lake, spark, *days) == [3, 4]


def test_a_day_without_rows_is_emptied(spark: SparkSession, tmp_path: Path):
    lake = Lake(str(tmp_path))
    lake.write(spark.createDataFrame([(1, FIRST)], SCHEMA), "table", [FIRST])
    lake.write(spark.createDataFrame([], SCHEMA), "table", [FIRST])
    assert values(lake, spark, FIRST) == []
    assert not list((tmp_path / ".staging").iterdir())


def test_a_lake_that_is_no_folder_is_refused():
    with pytest.raises(MetersError, match="not a folder"):
        Lake("s3a://bucket/lake")


@pytest.fixture
def collection(database: Settings):
    with MongoClient(database.mongo) as client:
        yield client[database.mongo_database]["figures"]


def document(key: str, total: float) -> dict:
    return {"_id": f"2024-05-18|{key}", "calculation_date": "2024-05-18", "total": total}


def test_publishing_the_same_figures_again_writes_nothing(collection):
    first = publish_day(collection, FIRST, [document("a", 1.0), document("b", 2.0)])
    before = list(collection.find())
    again = publish_day(collection, FIRST, [document("a", 1.0), document("b", 2.0)])
    assert (first.documents, first.changed, first.removed) == (2, 2, 0)
    assert (again.documents, again.changed, again.removed) == (2, 0, 0)
    assert list(collection.find()) == before


def test_publishing_replaces_what_changed_and_removes_what_is_gone(collection):
    publish_day(collection, FIRST, [document("a", 1.0), document("b", 2.0), document("c", 3.0)])
    collection.insert_one({"_id": "2024-05-19|a", "calculation_date": "2024-05-19", "total": 9.0})
    published = publish_day(collection, FIRST, [document("a", 1.0), document("b", 2.5)])
    assert (published.documents, published.changed, published.removed) == (2, 1, 1)
    totals = {each["_id"]: each["total"] for each in collection.find()}
    assert totals == {"2024-05-18|a": 1.0, "2024-05-18|b": 2.5, "2024-05-19|a": 9.0}
