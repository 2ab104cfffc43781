"""What a run showed: a summary for scripts, and the table of docs/reliability.md, written by the run itself."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from fault_injection.row import Outcome, Row, State

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- meters faults: begin -->", "<!-- meters faults: end -->"
LONGEST_LINE = 160


@dataclass(frozen=True)
class Totals:
    """Sums over a run."""

    rows: int
    held: int
    broken: int
    skipped: int
    produced: int
    lost: int
    doubled: int
    wrong_figures: int
    misrouted: int
    recovery_median_seconds: float | None
    recovery_max_seconds: float | None
    wall_seconds: float

    @property
    def good(self) -> bool:
        """Did every promise hold?"""
        return not (self.broken or self.lost or self.doubled or self.wrong_figures or self.misrouted)


def total(outcomes: Sequence[Outcome], wall_seconds: float) -> Totals:
    """Add a run up."""
    states = [outcome.state for outcome in outcomes]
    recoveries = [outcome.caught_up_seconds for outcome in outcomes if outcome.caught_up_seconds is not None]
    return Totals(
        rows=len(outcomes),
        held=states.count(State.HELD),
        broken=states.count(State.BROKEN),
        skipped=states.count(State.SKIPPED),
        produced=sum(outcome.produced for outcome in outcomes),
        lost=sum(outcome.missing for outcome in outcomes),
        doubled=sum(outcome.doubled for outcome in outcomes),
        wrong_figures=sum(outcome.wrong_figures for outcome in outcomes),
        misrouted=sum(outcome.misrouted for outcome in outcomes),
        recovery_median_seconds=round(statistics.median(recoveries), 1) if recoveries else None,
        recovery_max_seconds=round(max(recoveries), 1) if recoveries else None,
        wall_seconds=round(wall_seconds, 1),
    )


def machine() -> dict[str, Any]:
    """What the run was made on."""
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        **{name: version(name) for name in ("kafka-python", "pymongo", "pyspark", "dagster")},
    }


def summary(outcomes: Sequence[Outcome], totals: Totals, *, seed: int) -> dict[str, Any]:
    """The run for scripts."""
    return {
        "seed": seed,
        "good": totals.good,
        "totals": asdict(totals),
        "machine": machine(),
        "rows": [outcome.summary() for outcome in outcomes],
    }


def sentence(totals: Totals) -> str:
    """The run in two lines."""
    recovery = ""
    if totals.recovery_median_seconds is not None:
        recovery = f"Recovery: median {totals.recovery_median_seconds:g} s, at most {totals.recovery_max_seconds:g} s. "
    return (
        f"{totals.rows} cases: {totals.held} held, {totals.broken} broken, {totals.skipped} skipped; "
        f"{totals.produced:,} messages: lost {totals.lost:,}, doubled {totals.doubled:,}, "
        f"wrong figures {totals.wrong_figures:,}, misrouted {totals.misrouted:,}.\n"
        f"{recovery}Wall time {totals.wall_seconds / 60:.1f} min."
    )


def measured(outcome: Outcome) -> str:
    """The last column of a row."""
    if outcome.state == State.SKIPPED:
        return f"skipped: {outcome.reason}"
    parts = []
    if outcome.produced:
        law = f"{outcome.produced:,} = {outcome.stored:,} + {outcome.duplicates:,} + {outcome.dead_letters:,}"
        parts.append(f"{law} + {outcome.lost:,}")
    if outcome.put_aside:
        parts.append(f"{outcome.put_aside:,} put aside")
    if outcome.faults is not None:
        parts.append(f"{outcome.faults:,} faults routed")
    if outcome.figures is not None:
        parts.append(f"{outcome.figures:,} figures compared")
    if outcome.caught_up_seconds is not None:
        parts.append(f"recovered in {outcome.caught_up_seconds:.1f} s")
    if outcome.state == State.BROKEN:
        parts.append(f"**broken**: {_cell(outcome.wrong[0])}")
    elif line := last_line(outcome):
        parts.append(f"“{_cell(line)}”")
    return "; ".join(parts)


def last_line(outcome: Outcome) -> str:
    """The last line of an error or a warning that a user saw."""
    found = [line for line in outcome.lines if "error:" in line or "warning:" in line]
    return found[-1].partition(": ")[2] if found else ""


def _cell(text: str) -> str:
    short = text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 1] + "…"
    return " ".join(short.replace("|", "\\|").split())


def table(outcomes: Sequence[Outcome], totals: Totals, *, seed: int, rows: Sequence[Row] = ()) -> str:
    """The part of the page that a run writes: rows in the table's order, the figures of this run.

    Args:
        outcomes: of the rows that ran.
        totals: their sums.
        seed: of the run.
        rows: all there are; those without an outcome are named at the end, as not run.
    """
    here = machine()
    done = {outcome.row.id for outcome in outcomes}
    left_out = [row for row in rows if row.id not in done]
    lines = [
        BEGIN,
        f"Run of {datetime.now(UTC):%Y-%m-%d}, seed {seed}: {here['cores']} cores, {here['memory_gb']} GB, "
        f"{here['system']}, Python {here['python']}, kafka-python {here['kafka-python']}, pyspark {here['pyspark']}; "
        f"load {here['load']} at its end.",
        "",
        *sentence(totals).splitlines(),
        "",
        "| case | fault | promise | measured |",
        "|---|---|---|---|",
        *(
            f"| `{each.row.id}` | {each.row.process}: {each.row.fault} | {each.row.promise} | {measured(each)} |"
            for each in outcomes
        ),
        *(f"| `{each.id}` | {each.process}: {each.fault} | {each.promise} | not run |" for each in left_out),
        END,
    ]
    return "\n".join(lines)


def write_page(text: str, page: Path = PAGE) -> None:
    """Replace the run's part of the page; what people wrote around it stays."""
    whole = page.read_text()
    before, _, rest = whole.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{text}{after}")
