"""Daily consumption per meter, household and district."""

from collections import Counter, defaultdict
from functools import reduce
from typing import Any

from pymongo.database import Database
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from meter_assets.figures.check import DayCheck, Finding, evidence_table, not_negative
from meter_assets.figures.day_figures import DayFigures, total
from meter_assets.figures.device_days import measured
from meter_assets.figures.figure import DailyFigure
from metering.daily_tables import DAILY_CONSUMPTION, DAILY_TABLES, MEASURED
from metering.meter_columns import columns_of_types
from metering.meter_types import METER_TYPES, USAGE_UNITS
from metering.settings import Settings

LEVELS = {"device": "device_id", "household": "household_id", "district": "district"}
"""Level of a document, and the column that is its key there."""

TOLERANCE = 1e-9
"""Of sums of doubles against the sum itself, as a share of it."""


def daily_consumption(device_days: DataFrame) -> DataFrame:
    """One document per day, level, key and meter type.

    The three levels are sums of the same rows: households and districts equal the sum of their meters, with meters
    that the registry cannot place under `unassigned`.

    Args:
        device_days: see device_days.device_days.

    Returns:
        Columns of `daily_consumption`; see metering/daily_tables.py for each with its unit.
    """
    levels = [_level(device_days, level, column) for level, column in LEVELS.items()]
    return reduce(DataFrame.unionByName, levels)


def _level(device_days: DataFrame, level: str, column: str) -> DataFrame:
    calculation_date = F.col("day").cast("string")
    amount = F.coalesce(F.col("amount"), F.lit(0)).cast("double")
    return (
        device_days.groupBy("day", F.col(column).alias("key"), "meter_type")
        .agg(
            F.sum("amount").alias("amount"),
            *measured(),
        )
        .select(
            F.concat_ws("|", calculation_date, F.lit(level), "key", "meter_type").alias("_id"),
            calculation_date.alias("calculation_date"),
            F.lit(level).alias("level"),
            "key",
            "meter_type",
            *columns_of_types(lambda row: row.total_column, amount),
            *(column.name for column in MEASURED),
        )
    )


def _describe(figures: DayFigures) -> dict[str, Any]:
    meters = [document for document in figures.documents[DAILY_CONSUMPTION] if document["level"] == "device"]
    return {
        "meters": len(meters),
        **{
            f"{row.meter_type}, {row.unit}": sum(document[row.total_column] or 0 for document in meters)
            for row in METER_TYPES.values()
        },
    }


def _levels_add_up(figures: DayFigures, _: Database, __: Settings) -> Finding:
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    counts: Counter[tuple[str, str]] = Counter()
    for document in figures.documents[DAILY_CONSUMPTION]:
        place = (document["level"], document["meter_type"])
        sums[place] += total(document)
        counts[place] += document["readings"] + document["faulty_readings"]
    wrong = []
    for level, meter_type in sums:
        usage, devices = sums[level, meter_type], sums["device", meter_type]
        readings, of_devices = counts[level, meter_type], counts["device", meter_type]
        if abs(usage - devices) > TOLERANCE * max(1.0, abs(devices)) or readings != of_devices:
            wrong.append({"level": level, "meter_type": meter_type, "usage": usage, "of its meters": devices})
    says = "households and districts equal the sum of their meters"
    if wrong:
        says = f"{wrong[0]['level']}, {wrong[0]['meter_type']}: {wrong[0]['usage']} is not {wrong[0]['of its meters']}"
    return Finding(not wrong, says, {"differences": evidence_table(wrong)})


FIGURE = DailyFigure(
    table=DAILY_TABLES[DAILY_CONSUMPTION],
    description=f"Consumption ({USAGE_UNITS}) per local day and meter, household or district, with completeness. "
    "Households and districts are sums of their meters.",
    compute=lambda frames: daily_consumption(frames.device_days),
    describe=_describe,
    checks=(
        DayCheck(
            DAILY_CONSUMPTION,
            "levels_add_up",
            "Households and districts equal the sum of their meters.",
            True,
            _levels_add_up,
        ),
        DayCheck(
            DAILY_CONSUMPTION,
            "no_negative_consumption",
            "No meter, household or district consumes less than nothing.",
            True,
            not_negative(DAILY_CONSUMPTION),
        ),
    ),
)
