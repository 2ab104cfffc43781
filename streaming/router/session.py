"""The router's Spark application, which can be started again in the same process after its JVM has died."""

import logging
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from metering.errors import MetersError
from metering.settings import LOOPBACK, Settings
from streaming.router.checkpoint import ROUTER_SHUFFLE_PARTITIONS, SHUFFLE_PARTITIONS
from streaming.router.failures import first_line
from streaming.router.messages import SESSION_OPTIONS

LOGGING = Path(__file__).with_name("log4j2.properties")
SPARK_LOG = "router-spark.log"
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

NO_LIFE_AFTER_OUT_OF_MEMORY = "-XX:+ExitOnOutOfMemoryError -XX:+DisplayVMOutputToStderr"
"""Of threads that have met an OutOfMemoryError some are gone and some go on: only a new JVM is sound. Java ends itself
with OUT_OF_MEMORY, and writes its line about it where it disturbs no output."""

STACK = "-Xss4m"
"""Of each thread, as far as it is used. Java matches patterns by recursion: on a busy machine, where its code was not
compiled yet, a query's thread died of a StackOverflowError, and the query stood still."""

OUT_OF_MEMORY = 3
LAST_BREATH_SECONDS = 2
"""How long a JVM that no longer answers may take to end."""

STOP_SECONDS = 20
"""How long a query may take to stop before its JVM is killed."""

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
        f"{NO_LIFE_AFTER_OUT_OF_MEMORY} {STACK} "
        f'-Dlog4j2.configurationFile=file:{LOGGING} "-Dmeters.router.log={spark_log(settings)}" -Duser.timezone=UTC',
        "spark.executor.heartbeatInterval": f"{METRICS_SECONDS}s",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.ui.retainedExecutions": "20",
        "spark.sql.streaming.stopTimeout": f"{STOP_SECONDS}s",
        SHUFFLE_PARTITIONS: ROUTER_SHUFFLE_PARTITIONS,
        **SESSION_OPTIONS,
    }
    _silence_py4j()
    builder = SparkSession.builder
    for name, value in options.items():
        builder = builder.config(name, value)
    try:
        spark = builder.getOrCreate()
    except (PySparkException, RuntimeError) as error:
        raise MetersError(f"Spark does not start: {first_line(error)}", fix="Try: meters doctor") from error
    # Of accumulators, which nobody here uses, PySpark's server writes a trace when the JVM ends.
    accumulators: Any = spark.sparkContext._accumulatorServer
    accumulators.handle_error = lambda request, address: None
    try:
        yield spark
    finally:
        quiet(spark)
        with suppress(Exception):  # the JVM may be gone already
            spark.stop()


def spark_log(settings: Settings) -> Path:
    """Where Spark's own log is: Java's traces, which the router says in one line each."""
    for folder in (settings.home / "logs", Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder / SPARK_LOG
    return Path(os.devnull)


def stop_query(query: Any) -> None:
    """Stop a query.

    Raises:
        PySparkException: it does not stop within STOP_SECONDS.
    """
    query.stop()


def discard_jvm(*, at_once: bool = False) -> int | None:
    """End this process's JVM, dead or not, and have PySpark start another one with the next session.

    Args:
        at_once: do not wait for it to end by itself.

    Returns:
        the exit code that it had by itself; None where it had to be killed.
    """
    gateway: Any = SparkContext._gateway
    code = None
    if gateway is not None:
        process = gateway.proc
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(0 if at_once else LAST_BREATH_SECONDS)
        process.kill()
        process.wait()
        with suppress(Exception):
            gateway.shutdown()
    # There is no public way: PySpark means a JVM to last as long as its process.
    SparkContext._gateway = SparkContext._jvm = SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
    return code


def _silence_py4j() -> None:
    """What dies is reported by us in one line; py4j would write a trace for every call that it then cannot make."""
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_not_of_py4j)  # some of it goes to the root logger, which has a handler from then on
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it would log every attempt at a broker that is down


def _not_of_py4j(record: logging.LogRecord) -> bool:
    return "py4j" not in record.pathname


def quiet(spark: SparkSession, level: str = "OFF") -> None:
    """Have Spark log nothing while it stops: it calls every stop an error, and what is wrong is reported by us."""
    with suppress(Exception):
        spark.sparkContext.setLogLevel(level)
