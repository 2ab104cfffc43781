"""What every benchmark has in common: its result, and how two things are measured side by side."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import psutil

from local_stack import LocalStack
from metering.settings import Settings

A = TypeVar("A")
B = TypeVar("B")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """What one benchmark found.

    Args:
        name: of the figure.
        what: what was measured, and its figure.
        baseline: what it is measured against, and its figure.
        ratio: the figure that the goal is about; the median over the rounds.
        goal: what the ratio should be.
        at_least: is the goal a lower bound? Otherwise it is an upper one.
        details: everything that was measured.
    """

    name: str
    what: str
    baseline: str
    ratio: float
    goal: float
    at_least: bool
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Does the ratio reach the goal?"""
        return self.ratio >= self.goal if self.at_least else self.ratio <= self.goal

    @property
    def verdict(self) -> str:
        """The ratio beside its goal, in words."""
        bound = "at least" if self.at_least else "at most"
        return f"{self.ratio:.2f}, goal {bound} {self.goal:g}: {'met' if self.met else 'missed'}"

    def summary(self) -> dict[str, Any]:
        """This result for scripts."""
        return {**asdict(self), "met": self.met}


@dataclass(frozen=True)
class Bench:
    """What a benchmark works with.

    Args:
        stack: the running services.
        settings: their addresses, in force for this process and its children.
        scale: factor on every size; 1 or 0.1.
        report: gets a line of progress.
    """

    stack: LocalStack
    settings: Settings
    scale: float
    report: Report

    def size(self, full: int) -> int:
        """A size, scaled."""
        return max(1, round(full * self.scale))

    def database(self, name: str) -> Settings:
        """Settings with a MongoDB database of this name."""
        return self.settings.model_copy(update={"mongo_database": name})


def interleaved(rounds: int, measure: Callable[[], A], baseline: Callable[[], B]) -> list[tuple[A, B]]:
    """Measure and baseline in turn, A B A B …, so that a slow moment of the machine hits both."""
    return [(measure(), baseline()) for _ in range(rounds)]


def timed(work: Callable[[], Any]) -> float:
    """Seconds that some work takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


def median(values: Sequence[float]) -> float:
    """Their median."""
    return statistics.median(values)


def machine(stack: LocalStack) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(terse=True),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("dagster", "kafka-python", "pymongo", "pydantic")},
            **{name: service.version for name, service in stack.state.services.items()},
        },
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
