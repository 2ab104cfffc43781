"""Daily figures per meter type."""

from collections import Counter
from datetime import timedelta
from statistics import fmean
from typing import Any

import dagster as dg
from pymongo.database import Database
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from meter_assets.figures import load_curve
from meter_assets.figures.check import DayCheck, Finding, evidence_table, names, not_negative
from meter_assets.figures.day_figures import DayFigures, total
from meter_assets.figures.device_days import is_healthy, measured
from meter_assets.figures.figure import DailyFigure
from metering.daily_tables import DAILY_AVERAGES, DAILY_CONSUMPTION, DAILY_TABLES, MEASURED
from metering.meter_columns import columns_of_types, of_meter_type, usage
from metering.meter_types import USAGE_UNITS
from metering.settings import Settings

WEEKS_OF_HISTORY = 4
"""Of the same weekday, that a day's total is compared with."""


def daily_averages(readings: DataFrame, device_days: DataFrame) -> DataFrame:
    """One document per day and meter type that was seen or is registered.

    Faulty readings are counted and stay out of every other figure. Means are exact sums divided by counts; median
    and p95 are exact percentiles, interpolated linearly (R-7, as in NumPy and Excel).

    Args:
        readings: judged readings.
        device_days: see device_days.device_days.

    Returns:
        Columns of `daily_averages`; see metering/daily_tables.py for each with its unit.
    """
    value = F.when(is_healthy(), usage())
    figures = readings.groupBy("day", "meter_type").agg(
        F.percentile(value, F.array(F.lit(0.5), F.lit(0.95))).alias("percentiles"),
    )
    meters = device_days.groupBy("day", "meter_type").agg(
        F.sum("amount").alias("amount"),
        F.sum("rates").alias("rates"),
        F.min("least").alias("min"),
        F.max("most").alias("max"),
        *measured(),
    )
    amount = F.coalesce(F.col("amount"), F.lit(0)).cast("double")
    mean = F.when(F.col("readings") > 0, amount / F.col("readings"))
    mean_rate = F.when(F.col("readings") > 0, F.col("rates").cast("double") / F.col("readings"))
    calculation_date = F.col("day").cast("string")
    return meters.join(figures, ["day", "meter_type"], "left").select(
        F.concat_ws("|", calculation_date, "meter_type").alias("_id"),
        calculation_date.alias("calculation_date"),
        "meter_type",
        of_meter_type(lambda row: row.unit).alias("unit"),
        *columns_of_types(lambda row: row.mean_column, mean),
        *columns_of_types(lambda row: row.mean_rate_column, mean_rate),
        *columns_of_types(lambda row: row.total_column, amount),
        "min",
        "max",
        F.col("percentiles")[0].alias("median"),
        F.col("percentiles")[1].alias("p95"),
        *(column.name for column in MEASURED),
    )


def _describe(figures: DayFigures) -> dict[str, Any]:
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
    if picture := load_curve.load_curve(figures):
        numbers["load curve"] = dg.MetadataValue.md(picture)
    return numbers


def _accounted(figures: DayFigures, _: Database, __: Settings) -> Finding:
    documents = figures.documents[DAILY_AVERAGES]
    kept = sum(document["readings"] for document in documents)
    faulty = sum(document["faulty_readings"] for document in documents)
    came = figures.readings
    return Finding(
        came == kept + faulty,
        f"{came:,} readings in, {kept:,} kept + {faulty:,} faulty",
        {"readings in": came, "kept": kept, "faulty": faulty},
    )


def _one_row_per_type(figures: DayFigures, _: Database, __: Settings) -> Finding:
    rows = Counter(document["meter_type"] for document in figures.documents[DAILY_AVERAGES])
    repeated = {meter_type: count for meter_type, count in rows.items() if count > 1}
    missing = {hour["meter_type"] for hour in figures.profile} - set(rows)
    says = f"{len(rows)} meter types, one row each"
    if repeated or missing:
        says = f"more than one row: {names(repeated)}; no row: {names(missing)}"
    return Finding(not repeated and not missing, says, {"rows": dict(rows)})


def _complete(figures: DayFigures, _: Database, settings: Settings) -> Finding:
    shares = {
        document["meter_type"]: document["completeness"]
        for document in figures.documents[DAILY_AVERAGES]
        if document["completeness"] is not None
    }
    least = settings.min_completeness
    low = {meter_type: share for meter_type, share in shares.items() if share < least}
    says = "; ".join(f"{meter_type} {share:.1%} complete" for meter_type, share in sorted(shares.items()))
    evidence: dict[str, Any] = {f"{meter_type} completeness": round(share, 4) for meter_type, share in shares.items()}
    worst = [
        document
        for document in figures.documents.get(DAILY_CONSUMPTION, [])
        if document["level"] == "device" and document["completeness"] is not None and document["completeness"] < least
    ]
    worst.sort(key=lambda document: (document["completeness"], document["_id"]))
    if worst:
        evidence["least complete meters"] = evidence_table(worst, ("key", "meter_type", "readings", "completeness"))
    return Finding(not low, f"{says or 'nothing was expected'} (at least {least:.0%})", evidence)


def _no_drift(figures: DayFigures, database: Database, settings: Settings) -> Finding:
    """Against the mean of the same weekday of the last weeks, as far as they are published."""
    weeks = [(figures.day - timedelta(weeks=back)).isoformat() for back in range(1, WEEKS_OF_HISTORY + 1)]
    history: dict[str, list[float]] = {}
    for document in database[DAILY_AVERAGES].find({"calculation_date": {"$in": weeks}}):
        history.setdefault(document["meter_type"], []).append(total(document))
    says, evidence, holds = [], {}, True
    for document in figures.documents[DAILY_AVERAGES]:
        meter_type = document["meter_type"]
        usual = fmean(history.get(meter_type, [0.0]))
        if not usual:
            continue
        change = total(document) / usual - 1
        holds = holds and abs(change) <= settings.max_drift
        says.append(f"{meter_type} {change:+.0%}")
        unit = document["unit"]
        evidence |= {f"{meter_type} change": round(change, 4), f"{meter_type} usually, {unit}": round(usual, 3)}
    if not says:
        return Finding(True, "no earlier day of this weekday to compare with", {})
    return Finding(holds, f"{', '.join(says)} against the last weeks (at most {settings.max_drift:.0%})", evidence)


FIGURE = DailyFigure(
    table=DAILY_TABLES[DAILY_AVERAGES],
    description=f"One document per local day and meter type: means, totals ({USAGE_UNITS}), spread, readings and "
    "completeness. Faulty readings are counted and stay out of every other figure.",
    compute=lambda frames: daily_averages(frames.readings, frames.device_days),
    describe=_describe,
    prepare=load_curve.prepare,
    checks=(
        DayCheck(
            DAILY_AVERAGES, "readings_accounted", "Readings in = readings kept + faulty readings.", True, _accounted
        ),
        DayCheck(DAILY_AVERAGES, "one_row_per_type", "Every meter type seen has one row.", True, _one_row_per_type),
        DayCheck(DAILY_AVERAGES, "no_negative_total", "No total is below zero.", True, not_negative(DAILY_AVERAGES)),
        DayCheck(
            DAILY_AVERAGES,
            "completeness",
            "The share of expected readings that came is at least METERS_MIN_COMPLETENESS.",
            False,
            _complete,
        ),
        DayCheck(
            DAILY_AVERAGES,
            "drift",
            f"Totals are within METERS_MAX_DRIFT of the mean of the same weekday in the last {WEEKS_OF_HISTORY} weeks.",
            False,
            _no_drift,
        ),
    ),
)
