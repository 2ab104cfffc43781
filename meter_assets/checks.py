"""The checks of a day: what must hold before its figures are put in force, and what a person should look at.

An *invariant* that does not hold keeps the day as it was: nothing of it is replaced or published. A *warning* only
warns.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean
from typing import Any

import dagster as dg
from pymongo.database import Database

from meter_assets.day_figures import DayFigures, Document, total
from meter_assets.partitions import LOCAL_DAYS
from metering.reading import reading_id_range
from metering.settings import Settings
from metering.store import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION, FAULTS, RAW_READINGS

SHOWN = 10
"""Rows of evidence in a check's metadata."""

TOLERANCE = 1e-9
"""Of sums of doubles against the sum itself, as a share of it."""

WEEKS_OF_HISTORY = 4


@dataclass(frozen=True)
class Finding:
    """What a check found: does it hold, in one sentence with numbers; and the evidence for the UI."""

    holds: bool
    says: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class DayCheck:
    """One check of one asset's day."""

    asset: str
    name: str
    meaning: str
    is_invariant: bool
    look: Callable[[DayFigures, Database, Settings], Finding]

    @property
    def spec(self) -> dg.AssetCheckSpec:
        """As Dagster knows it."""
        return dg.AssetCheckSpec(
            self.name,
            asset=self.asset,
            description=self.meaning,
            blocking=self.is_invariant,
            partitions_def=LOCAL_DAYS,
        )


@dataclass(frozen=True)
class Verdict:
    """What one check says of one day."""

    check: DayCheck
    finding: Finding

    @property
    def forbids(self) -> bool:
        """Does the day have to stay as it was?"""
        return self.check.is_invariant and not self.finding.holds

    def evaluation(self, figures: DayFigures) -> dg.AssetCheckEvaluation:
        """As Dagster keeps it, for the day's partition."""
        return dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(self.check.asset),
            check_name=self.check.name,
            passed=self.finding.holds,
            severity=dg.AssetCheckSeverity.ERROR if self.check.is_invariant else dg.AssetCheckSeverity.WARN,
            description=f"{figures.day}: {self.finding.says}",
            metadata=self.finding.evidence,
            partition=figures.day.isoformat(),
            blocking=self.check.is_invariant,
        )


def audit(figures: DayFigures, assets: Iterable[str], database: Database, settings: Settings) -> list[Verdict]:
    """What every check of those assets says of the day; the readings are checked whatever is computed from them."""
    chosen = {*assets, RAW_READINGS}
    return [Verdict(check, check.look(figures, database, settings)) for check in CHECKS if check.asset in chosen]


def _own_day(figures: DayFigures, _: Database, __: Settings) -> Finding:
    strangers = [hour for hour in figures.profile if hour["first_at"] < figures.start or hour["last_at"] >= figures.end]
    says = "every reading is of this day"
    if strangers:
        first, last = min(hour["first_at"] for hour in strangers), max(hour["last_at"] for hour in strangers)
        says = f"readings from {first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ} lie outside the day"
    return Finding(not strangers, says, {"hours of another day": _table(strangers), "hours of the day": figures.hours})


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
        says = f"more than one row: {_names(repeated)}; no row: {_names(missing)}"
    return Finding(not repeated and not missing, says, {"rows": dict(rows)})


def _not_negative(asset: str) -> Callable[[DayFigures, Database, Settings], Finding]:
    def look(figures: DayFigures, _: Database, __: Settings) -> Finding:
        negative = [document for document in figures.documents[asset] if total(document) < 0]
        says = f"{negative[0]['_id']} is {total(negative[0]):,.3f}" if negative else "no consumption below zero"
        return Finding(not negative, says, {"negative": _table(negative)})

    return look


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
    return Finding(not wrong, says, {"differences": _table(wrong)})


def _complete(figures: DayFigures, _: Database, settings: Settings) -> Finding:
    shares = {
        document["meter_type"]: document["completeness"]
        for document in figures.documents[DAILY_AVERAGES]
        if document["completeness"] is not None
    }
    least = settings.least_completeness
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
        evidence["least complete meters"] = _table(worst, ("key", "meter_type", "readings", "completeness"))
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
        holds = holds and abs(change) <= settings.most_drift
        says.append(f"{meter_type} {change:+.0%}")
        unit = document["unit"]
        evidence |= {f"{meter_type} change": round(change, 4), f"{meter_type} usually, {unit}": round(usual, 3)}
    if not says:
        return Finding(True, "no earlier day of this weekday to compare with", {})
    return Finding(holds, f"{', '.join(says)} against the last weeks (at most {settings.most_drift:.0%})", evidence)


def _stream_agrees(figures: DayFigures, database: Database, _: Settings) -> Finding:
    batch = {each["device_id"]: each["faulty_readings"] for each in figures.documents[ABNORMAL_DEVICE_SUMMARY]}
    low, high = reading_id_range(figures.start, figures.end)
    of_day = [{"$match": {"_id": {"$gte": low, "$lt": high}}}, {"$group": {"_id": "$device_id", "n": {"$sum": 1}}}]
    stream = {each["_id"]: each["n"] for each in database[FAULTS].aggregate(of_day)}
    differing = [
        {"device_id": device, "found by the day": batch.get(device, 0), "routed": stream.get(device, 0)}
        for device in sorted({*batch, *stream})
        if batch.get(device, 0) != stream.get(device, 0)
    ]
    says = f"{sum(batch.values()):,} faults found, {sum(stream.values()):,} routed"
    if differing:
        says += f"; {len(differing):,} meters differ"
    return Finding(not differing, says, {"differences": _table(differing)})


CHECKS = (
    DayCheck(RAW_READINGS, "no_reading_of_another_day", "Every reading lies within the local day.", True, _own_day),
    DayCheck(DAILY_AVERAGES, "readings_accounted", "Readings in = readings kept + faulty readings.", True, _accounted),
    DayCheck(DAILY_AVERAGES, "one_row_per_type", "Every meter type seen has one row.", True, _one_row_per_type),
    DayCheck(DAILY_AVERAGES, "no_negative_total", "No total is below zero.", True, _not_negative(DAILY_AVERAGES)),
    DayCheck(
        DAILY_AVERAGES,
        "completeness",
        "The share of expected readings that came is at least METERS_LEAST_COMPLETENESS.",
        False,
        _complete,
    ),
    DayCheck(
        DAILY_AVERAGES,
        "drift",
        f"Totals are within METERS_MOST_DRIFT of the mean of the same weekday in the last {WEEKS_OF_HISTORY} weeks.",
        False,
        _no_drift,
    ),
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
        _not_negative(DAILY_CONSUMPTION),
    ),
    DayCheck(
        ABNORMAL_DEVICE_SUMMARY,
        "stream_agrees",
        "The faults that the router has routed for the day are those that the day finds.",
        False,
        _stream_agrees,
    ),
)
"""All checks of a day."""


def _table(rows: list[Document], columns: tuple[str, ...] = ()) -> dg.TableMetadataValue:
    """The first rows as a table of text, for the UI."""
    names = columns or tuple(rows[0] if rows else ("nothing",))
    shown = [dg.TableRecord({name: _cell(row[name]) for name in names}) for row in rows[:SHOWN]]
    schema = dg.TableSchema([dg.TableColumn(name) for name in names])
    return dg.TableMetadataValue(records=shown, schema=schema)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
