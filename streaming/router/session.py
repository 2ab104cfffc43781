"""The router's Spark application."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from metering.errors import MetersError
from metering.settings import LOOPBACK, Settings
from streaming.router.failures import first_line
from streaming.router.messages import SESSION_OPTIONS

LOGGING = Path(__file__).with_name("log4j2.properties")
METRICS_SECONDS = 2
"""How often running tasks report what they have read."""

SELDOM_COMPILED_THOROUGHLY = (
    "-XX:Tier4InvocationThreshold=40000 -XX:Tier4MinInvocationThreshold=4800 -XX:Tier4CompileThreshold=120000 "
    "-XX:Tier4BackEdgeThreshold=320000"
)
"""Eight times Java's own thresholds for its second, thorough compiler. What runs for each reading passes them all the
same. What Spark runs for each batch or start does not, and compiling it took more time from the readings than it ever
gave back."""

YOUNG = "-Xmn256m"
"""Where new objects live: of one size, instead of growing while the router has nothing to do."""

CONNECT_VARIABLES = ("SPARK_CONNECT_MODE_ENABLED", "SPARK_REMOTE", "SPARK_LOCAL_REMOTE", "SPARK_API_MODE")

SPARE_SLOTS = 1
"""Task slots beside those that the fault query holds, one a partition, for as long as it runs. The aggregates have one
core at a time, so that on a small machine there is another one for the faults."""


def forget_connect() -> None:
    """Let this process start a Spark of its own, also when Connect was in use where it comes from.

    The Connect client marks its process's environment, children inherit the mark, and PySpark then starts nothing else.
    """
    for name in CONNECT_VARIABLES:
        os.environ.pop(name, None)


@contextmanager
def router_session(settings: Settings, *, jars: str, partitions: int) -> Iterator[SparkSession]:
    """A Spark application of the router's own, ended with the block.

    Args:
        settings: its master, memory and the like.
        jars: connectors, comma-separated.
        partitions: of the topic.

    Raises:
        MetersError: Spark does not start.
    """
    forget_connect()
    os.environ.setdefault("SPARK_LOCAL_IP", LOOPBACK)
    options = {
        "spark.master": settings.router_master or f"local[{partitions + SPARE_SLOTS}]",
        "spark.app.name": "meters router",
        "spark.jars": jars,
        "spark.driver.host": LOOPBACK,
        "spark.driver.bindAddress": LOOPBACK,
        "spark.driver.memory": settings.spark_memory,
        # Beside so few live objects this collector's pauses are short, and it leaves the processor to the readings.
        "spark.driver.extraJavaOptions": f"-XX:+UseParallelGC {YOUNG} {SELDOM_COMPILED_THOROUGHLY} "
        f"-Dlog4j2.configurationFile=file:{LOGGING} -Duser.timezone=UTC",
        "spark.executor.heartbeatInterval": f"{METRICS_SECONDS}s",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.ui.retainedExecutions": "20",
        "spark.sql.shuffle.partitions": "1",
        **SESSION_OPTIONS,
    }
    builder = SparkSession.builder
    for name, value in options.items():
        builder = builder.config(name, value)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, RuntimeError) as error:
        raise MetersError(f"Spark does not start: {first_line(error)}", fix="Try: meters doctor") from error
    try:
        yield spark
    finally:
        _quiet(spark)
        with suppress(Exception):  # the JVM may be gone already
            spark.stop()


def end(spark: SparkSession, queries: list[Any]) -> None:
    """Stop the queries; what a fault batch has not committed is repeated by the next router."""
    _quiet(spark)
    with suppress(Exception):  # a signal to the whole process group has ended Spark before us
        for query in reversed(queries):
            query.stop()


def _quiet(spark: SparkSession) -> None:
    """Spark calls every stop an error; what is wrong is said by us."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    with suppress(Exception):
        spark.sparkContext.setLogLevel("OFF")
