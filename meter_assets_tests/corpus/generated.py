"""Generated messages, judged by ingest's parser and by the router's columns: both must agree on each of them.

    python -m meter_assets_tests.corpus.generated --count 1000000 --seed 7

Starts a Spark of its own, without any service. Exit code 1, and the smallest message in question, when they disagree.
"""

import argparse
import itertools
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pyspark.sql import SparkSession

from meter_assets_tests.corpus.mutation import Mutator
from meter_assets_tests.corpus.verdicts import Disagreement, compare, router_options
from metering.settings import LOOPBACK
from streaming.router.messages import SESSION_OPTIONS
from streaming.router.session import forget_connect

CHUNK = 50_000
"""Messages that Spark gets at once."""


@dataclass
class Report:
    """What became of the generated messages."""

    seed: int
    messages: int = 0
    readings: int = 0
    seconds: float = 0.0
    disagreements: list[Disagreement] = field(default_factory=list)

    @property
    def smallest(self) -> Disagreement | None:
        """The disagreement with the shortest message."""
        return min(self.disagreements, key=lambda each: len(each.message or b""), default=None)

    def __str__(self) -> str:
        line = (
            f"seed {self.seed}: {self.messages:,} messages in {self.seconds:.0f} s, "
            f"{self.readings:,} of them readings, {len(self.disagreements):,} disagreements"
        )
        return f"{line}\nthe smallest: {self.smallest}" if self.smallest else line


def run(
    count: int,
    seed: int,
    *,
    spark: SparkSession | None = None,
    on_progress: Callable[[Report], None] | None = None,
) -> Report:
    """Generate messages and compare both verdicts on each.

    Args:
        count: how many.
        seed: the same seed gives the same messages.
        spark: a session; without one, a Spark of its own is started.
        on_progress: called after each CHUNK.
    """
    if spark is None:
        with _own_spark() as own:
            return run(count, seed, spark=own, on_progress=on_progress)
    report = Report(seed)
    messages = itertools.islice(Mutator(seed).messages(), count)
    start = time.monotonic()
    with router_options(spark):
        while chunk := list(itertools.islice(messages, CHUNK)):
            readings, disagreements = compare(spark, chunk)
            report.messages += len(chunk)
            report.readings += readings
            report.disagreements += disagreements
            report.seconds = time.monotonic() - start
            if on_progress:
                on_progress(report)
    return report


@contextmanager
def _own_spark() -> Iterator[SparkSession]:
    forget_connect()
    os.environ.setdefault("SPARK_LOCAL_IP", LOOPBACK)
    options = {
        "spark.master": "local[2]",
        "spark.driver.host": LOOPBACK,
        "spark.driver.bindAddress": LOOPBACK,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        **SESSION_OPTIONS,
    }
    builder = SparkSession.builder
    for name, value in options.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        yield spark
    finally:
        spark.stop()


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m meter_assets_tests.corpus.generated")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    report = run(arguments.count, arguments.seed, on_progress=lambda so_far: print(so_far, file=sys.stderr, flush=True))
    print(report)
    return 1 if report.disagreements else 0


if __name__ == "__main__":
    sys.exit(main())
