"""A table of numbers in a lake, whichever lake it is."""

from datetime import date

from pyspark.sql import SparkSession

from meter_assets.lake.base import Lake

SCHEMA = "value int, day date"


def values(lake: Lake, spark: SparkSession, *days: date) -> list[int]:
    """What is in those days of the lake."""
    return sorted(row["value"] for row in lake.read(spark, "table", SCHEMA, days).collect())


def write(lake: Lake, spark: SparkSession, rows: list[tuple[int, date]], *days: date) -> None:
    """Stage rows, and let them be those days."""
    with lake.staged(spark.createDataFrame(rows, SCHEMA), "table") as staged:
        assert sorted(row["value"] for row in staged.read(spark, SCHEMA, days).collect()) == [row[0] for row in rows]
        for day in days:
            lake.replace("table", day, staged)
