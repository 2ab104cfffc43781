"""Spark's standalone cluster on this machine: a master and workers, whose executors the Connect server uses.

The same programs that make a cluster of several machines. METERS_SPARK_WORKERS asks for them; without it the Connect
server does its work itself.
"""

import json
import os
import shutil
import urllib.request
from importlib.metadata import version
from typing import Any

from local_stack.service import NotReadyError
from local_stack.spark import LOGGING, PROBE_TIMEOUT_SECONDS, SparkService, master_url, pyspark_home
from metering.settings import LOOPBACK

DAEMON_MEMORY = "256m"
"""Heap of a master or worker: they start and watch executors, and see no data."""


class _Daemon(SparkService):
    """What master and worker have in common."""

    def prepare(self) -> None:
        """Nothing to prepare."""

    @property
    def _page_port(self) -> int:
        """The port of its web page."""
        return self.port + 1

    def _daemon(self, main: str, *options: str) -> list[str]:
        # spark-class ends in `exec java`, so the JVM is our direct child. Without --host it takes the machine's name.
        return [
            *(str(pyspark_home() / "bin" / "spark-class"), main),
            *("--host", LOOPBACK, "--port", str(self.port), "--webui-port", str(self._page_port)),
            *options,
            *self.arguments,
        ]

    def environment(self) -> dict[str, str]:
        """As for all of Spark, with a small heap, and no second way to submit work."""
        java_options = [
            f"-Dlog4j2.configurationFile=file:{LOGGING}",
            "-Djava.net.preferIPv4Stack=true",
            "-Dspark.master.rest.enabled=false",
        ]
        return {
            **super().environment(),
            "SPARK_DAEMON_MEMORY": DAEMON_MEMORY,
            "SPARK_DAEMON_JAVA_OPTS": " ".join(java_options),
        }

    def cluster(self) -> dict[str, Any]:
        """What the master's page tells: `workers`, each with `host`, `port`, `state`; `activeapps`.

        Raises:
            NotReadyError: it does not answer.
        """
        url = f"http://{LOOPBACK}:{self.settings.spark_master_port + 1}/json/"
        try:
            with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_SECONDS) as answer:  # noqa: S310 - the address is ours
                return json.load(answer)
        except (OSError, ValueError) as error:
            raise NotReadyError(f"the master's page at {url}: {error}") from None


class SparkMaster(_Daemon):
    """The standalone master."""

    kind = "spark-master"
    kind_title = "Spark master"

    @property
    def port(self) -> int:
        """Where drivers and workers register."""
        return self.settings.spark_master_port

    def command(self) -> list[str]:
        """The master's JVM."""
        return self._daemon("org.apache.spark.deploy.master.Master")

    def probe(self) -> str:
        """Take connections, and say of itself that it is alive."""
        self.require_listener()
        if (status := self.cluster()["status"]) != "ALIVE":
            raise NotReadyError(f"it calls itself {status}")
        return version("pyspark")


class SparkWorker(_Daemon):
    """A worker, which starts one executor for the Connect server with its share of this machine's processors."""

    kind = "spark-worker"
    kind_title = "Spark worker"
    needs = ("spark-master",)

    @property
    def port(self) -> int:
        """Where the master reaches it."""
        return self.settings.spark_master_port + 2 * self.number

    def prepare(self) -> None:
        """Remove what executors of before have left."""
        shutil.rmtree(self.folder / "work", ignore_errors=True)

    def command(self) -> list[str]:
        """The worker's JVM."""
        cores = max(1, (os.cpu_count() or 1) // self.settings.spark_workers)
        return self._daemon(
            "org.apache.spark.deploy.worker.Worker",
            *("--cores", str(cores), "--memory", self.settings.spark_memory),
            *("--work-dir", str(self.folder / "work")),
            master_url(self.settings),
        )

    def probe(self) -> str:
        """Be one of the workers that the master counts on."""
        self.require_listener()
        alive = {worker["port"] for worker in self.cluster()["workers"] if worker["state"] == "ALIVE"}
        if self.port not in alive:
            raise NotReadyError("the master does not count on it yet")
        return version("pyspark")
