"""What a check of a day is: what must hold before its figures are published, and what a person should look at.

Each figure's checks stand with the figure. An *invariant* that does not hold keeps the day as it was: nothing of it is
replaced or published. A *warning* only warns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import dagster as dg
from pymongo.database import Database

from meter_assets.figures.day_figures import DayFigures, Document, total
from meter_assets.partitions import LOCAL_DAY_PARTITIONS
from metering.settings import Settings

SHOWN = 10
"""Rows of evidence in a check's metadata."""


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
            partitions_def=LOCAL_DAY_PARTITIONS,
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


def not_negative(asset: str) -> Callable[[DayFigures, Database, Settings], Finding]:
    """A look at whether no document of the asset has a total below zero."""

    def look(figures: DayFigures, _: Database, __: Settings) -> Finding:
        negative = [document for document in figures.documents[asset] if total(document) < 0]
        says = f"{negative[0]['_id']} is {total(negative[0]):,.3f}" if negative else "no consumption below zero"
        return Finding(not negative, says, {"negative": evidence_table(negative)})

    return look


def evidence_table(rows: list[Document], columns: tuple[str, ...] = ()) -> dg.TableMetadataValue:
    """The first rows as a table of text, for the UI."""
    names = columns or tuple(rows[0] if rows else ("nothing",))
    shown = [dg.TableRecord({name: _cell(row[name]) for name in names}) for row in rows[:SHOWN]]
    schema = dg.TableSchema([dg.TableColumn(name) for name in names])
    return dg.TableMetadataValue(records=shown, schema=schema)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def names(given: Iterable[str]) -> str:
    """Sorted, with commas."""
    return ", ".join(sorted(given)) or "none"
