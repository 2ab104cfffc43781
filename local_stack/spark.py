"""Spark of the local stack: one warm Spark Connect server, shared by every step that runs on it."""

import importlib.util
import signal
import socket
from pathlib import Path

from local_stack.jars import s3a_jars, spark_jars
from local_stack.java import find_java, java_environment
from local_stack.service import NotReadyError, Service
from metering.errors import MetersError
from metering.settings import LOOPBACK, Settings
from runtime.s3 import spark_options

LOGGING = Path(__file__).with_name("spark-log4j2.properties")
PROBE_TIMEOUT_SECONDS = 5.0


class SparkService(Service):
    """A JVM of Spark's. It keeps nothing, so death by force costs nothing."""

    death_signal = signal.SIGKILL

    def environment(self) -> dict[str, str]:
        """Everything on the loopback, and nothing of a user's own Spark installation."""
        return {
            "SPARK_HOME": str(pyspark_home()),
            "SPARK_CONF_DIR": str(self.folder),
            "SPARK_LOCAL_IP": LOOPBACK,
            "SPARK_LOCAL_HOSTNAME": LOOPBACK,
            **java_environment(find_java()),
        }

    def require_listener(self) -> None:
        """See that somebody listens on the port.

        Raises:
            NotReadyError: nobody does.
        """
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=PROBE_TIMEOUT_SECONDS).close()
        except OSError as error:
            raise NotReadyError(str(error)) from None


class Spark(SparkService):
    """The Connect server: Spark in one process, or the driver of the local cluster."""

    kind = "spark"
    kind_title = "Spark"
    needs = ("spark-master",)

    @property
    def port(self) -> int:
        """The Connect server's port."""
        return self.settings.spark_port

    def prepare(self) -> None:
        """Make the folder that Spark spills into."""
        (self.folder / "tmp").mkdir(exist_ok=True)

    def configuration(self) -> dict[str, str]:
        """Spark properties of the server."""
        options = " ".join(
            [
                f"-Dlog4j2.configurationFile=file:{LOGGING}",
                "-Djava.net.preferIPv4Stack=true",
                "-XX:+UseParallelGC",  # throughput counts here, not pauses
                "-Duser.timezone=UTC",
                f"-Djava.io.tmpdir={self.folder / 'tmp'}",
            ]
        )
        return {
            "spark.connect.grpc.binding.address": LOOPBACK,
            "spark.connect.grpc.binding.port": str(self.port),
            "spark.driver.host": LOOPBACK,
            "spark.driver.bindAddress": LOOPBACK,
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": "false",
            "spark.local.dir": str(self.folder / "tmp"),
            "spark.sql.warehouse.dir": str(self.folder / "warehouse"),
            "spark.sql.catalogImplementation": "in-memory",
            "spark.sql.session.timeZone": "UTC",
            # A day's readings fit one machine: 200 tasks a shuffle, Spark's default, would be mostly overhead.
            "spark.sql.shuffle.partitions": "4",
            # A run compiles some 200 generated classes, and would push its own out of the default 100 each time.
            "spark.sql.codegen.cache.maxEntries": "1000",
            # Runs share one session, see SHARED_SESSION in meter_assets/resources.py; it may idle overnight.
            "spark.connect.session.manager.defaultSessionTimeout": "-1",
            # Plans are cached by a number that every client counts from 0: in a shared session, another run's plan.
            "spark.connect.session.planCache.maxSize": "0",
            "spark.driver.extraJavaOptions": options,
            # These two matter on a cluster only. An executor takes all that its worker has.
            "spark.executor.extraJavaOptions": options,
            "spark.executor.memory": self.settings.spark_memory,
            **spark_options(self.settings),
        }

    def command(self) -> list[str]:
        """spark-submit of pip's pyspark; its shell scripts end in `exec java`, so the JVM is our direct child."""
        submit = pyspark_home() / "bin" / "spark-submit"
        master = master_url(self.settings) if self.settings.spark_workers else "local[*]"
        jars = [*spark_jars(self.settings), *s3a_jars(self.settings)]
        return [
            str(submit),
            *("--master", master, "--driver-memory", self.settings.spark_memory),
            *("--name", "meters"),
            *("--jars", ",".join(map(str, jars))),
            *(part for key, value in self.configuration().items() for part in ("--conf", f"{key}={value}")),
            *self.arguments,
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
        ]

    def probe(self) -> str:
        """Answer `select 1` in a session of its own."""
        self.require_listener()
        return probe_spark(f"sc://{self.address}")


def probe_spark(url: str) -> str:
    """Ask a Spark Connect server for `select 1`; returns its version.

    Raises:
        NotReadyError: it does not answer.
    """
    # A plain client, not SparkSession.builder: that would become this process's active session.
    import grpc
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.client import SparkConnectClient
    from pyspark.sql.connect.proto import SQL, Plan, Relation

    client = SparkConnectClient(connection=url)
    try:
        version = client._analyze(method="spark_version").spark_version
        client.to_table(Plan(root=Relation(sql=SQL(query="select 1"))), {})
        client.release_session()
        return str(version)
    except (grpc.RpcError, PySparkException) as error:
        raise NotReadyError(str(error)) from None
    finally:
        client.close()


def master_url(settings: Settings) -> str:
    """Where drivers and workers find the local cluster's master."""
    return f"spark://{LOOPBACK}:{settings.spark_master_port}"


def pyspark_home() -> Path:
    """The Spark that came with pip's pyspark.

    Raises:
        MetersError: it is not installed.
    """
    spec = importlib.util.find_spec("pyspark")
    if not spec or not spec.origin:
        raise MetersError("pyspark is not installed", fix="Run make setup")
    return Path(spec.origin).parent
