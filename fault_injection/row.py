"""A row of the table, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fault_injection.case import Case


class Group(StrEnum):
    """Which services the rows of a group share. Rows of one group run one after the other on one stack."""

    INGEST = "ingest"
    """MongoDB with failpoints, and Kafka."""
    ROUTER = "router"
    """The same; apart, because its rows need a Spark each."""
    DAYS = "days"
    """MongoDB with failpoints, Kafka and the Spark Connect server."""
    DAGSTER = "dagster"
    """The same under `meters dev`."""
    CLUSTER = "cluster"
    """Three brokers and three members of a replica set."""
    WORKERS = "workers"
    """Spark as a cluster with two workers, one MongoDB and one broker."""
    OWN = "own"
    """The row starts what it needs by itself."""


@dataclass(frozen=True)
class Row:
    """One pair of process and fault.

    Args:
        id: short name, also of the row's folder and database.
        process: what breaks.
        fault: how.
        promise: what the product promises for it, in one sentence.
        run: breaks it, and waits for the recovery.
        group: the services that it needs.
        needs: what else it needs: `root`, `cc`.
        full: is it left out of a run without --full?
        in_tests: is it quick enough for `make test`?
    """

    id: str
    process: str
    fault: str
    promise: str
    run: Callable[["Case"], None]
    group: Group = Group.INGEST
    needs: tuple[str, ...] = ()
    full: bool = False
    in_tests: bool = False


def row(
    process: str,
    name: str,
    fault: str,
    promise: str,
    run: Callable[["Case"], None],
    *,
    group: Group = Group.INGEST,
    needs: tuple[str, ...] = (),
    full: bool = False,
    in_tests: bool = False,
) -> Row:
    """A row whose id is made of process and name."""
    key = f"{process.replace(' ', '-').lower()}-{name}"
    return Row(key, process, fault, promise, run, group, needs, full, in_tests)


class Skip(Exception):  # noqa: N818 - an outcome, no error
    """A row that cannot run here, with the reason."""


class Broken(AssertionError):  # noqa: N818 - says more than BrokenError
    """A promise that does not hold."""


class State(StrEnum):
    """How a row ended."""

    HELD = "held"
    BROKEN = "broken"
    SKIPPED = "skipped"


@dataclass
class Outcome:
    """What one row showed.

    Attributes:
        wrong: each sentence says one thing that is not as promised.
        produced: messages on iot-meter, those that Kafka no longer has included.
        stored: readings in MongoDB.
        duplicates: messages that repeat a stored reading.
        dead_letters: committed ones.
        lost: messages that the product itself recorded as lost.
        put_aside: messages that nobody can read, each recorded.
        missing: messages that are nowhere, and not recorded as lost either.
        doubled: readings or dead letters that are there twice.
        wrong_figures: figures of a day that differ from the independent computation.
        misrouted: faults that were not routed, or routed and are none.
        progress_seconds: from the end of the fault to the first progress.
        caught_up_seconds: from the end of the fault until nothing waits.
        lines: what the processes of the row wrote to standard error, without their progress.
    """

    row: Row
    state: State = State.HELD
    reason: str = ""
    wrong: list[str] = field(default_factory=list)
    produced: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0
    lost: int = 0
    put_aside: int = 0
    missing: int = 0
    doubled: int = 0
    wrong_figures: int = 0
    misrouted: int = 0
    faults: int | None = None
    figures: int | None = None
    progress_seconds: float | None = None
    caught_up_seconds: float | None = None
    lines: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """This outcome for scripts."""
        row = self.row
        described = {"id": row.id, "process": row.process, "fault": row.fault, "promise": row.promise}
        return described | {name: value for name, value in vars(self).items() if name != "row"}
