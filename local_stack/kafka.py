"""Kafka of the local stack: KRaft nodes, each broker and controller in one JVM."""

import base64
import os
import socket
import string
import subprocess
import uuid
from pathlib import Path

from local_stack.jars import broker_jars
from local_stack.java import find_java
from local_stack.service import NotReadyError, Service, last_meaningful_line
from metering.errors import MetersError
from metering.settings import LOOPBACK

TEMPLATE = Path(__file__).with_name("broker.properties")
LOGGING = Path(__file__).with_name("broker-log4j2.properties")
FORMAT_TIMEOUT_SECONDS = 120
PROBE_TIMEOUT_SECONDS = 5.0
SINGLE_HEAP, CLUSTER_HEAP = "512m", "384m"


class Kafka(Service):
    """A broker, its configuration and its storage's format."""

    kind = "kafka"
    kind_title = "Kafka"

    @property
    def port(self) -> int:
        """The broker's port."""
        return self.settings.kafka_ports[self.number - 1]

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def prepare(self) -> None:
        """Write server.properties for today's ports; format the storage once."""
        data = self.folder / "data"
        voters = enumerate(self.settings.kafka_controller_ports, start=1)
        text = string.Template(TEMPLATE.read_text()).substitute(
            HOST=LOOPBACK,
            NUMBER=self.number,
            PORT=self.port,
            CONTROLLER_PORT=self.settings.kafka_controller_ports[self.number - 1],
            VOTERS=",".join(f"{number}@{LOOPBACK}:{port}" for number, port in voters),
            REPLICAS=self.settings.replication or 1,
            IN_SYNC=self.settings.min_in_sync,
            PARTITIONS=self.settings.kafka_partitions,
            DATA=data,
        )
        self._properties.write_text(text)
        self._jars = broker_jars(self.settings)
        if not (data / "meta.properties").exists():
            self._format()

    def _java(self, main: str, *arguments: str) -> list[str]:
        return [
            str(find_java()),
            f"-Xmx{SINGLE_HEAP if self.settings.kafka_brokers == 1 else CLUSTER_HEAP}",
            "-Djava.net.preferIPv4Stack=true",
            f"-Dlog4j2.configurationFile={LOGGING}",
            *("-cp", os.pathsep.join(map(str, self._jars))),
            main,
            *arguments,
        ]

    def _format(self) -> None:
        # All nodes of a home must come to the same id without talking to each other.
        home = uuid.uuid5(uuid.NAMESPACE_URL, self.settings.home.as_uri())
        cluster = base64.urlsafe_b64encode(home.bytes).decode().rstrip("=").replace("-", "a")
        command = self._java(
            "kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", cluster, "-c", str(self._properties)
        )
        with self.log.open("ab") as log:
            answer = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=FORMAT_TIMEOUT_SECONDS
            )
        if answer.returncode != 0:
            raise MetersError(
                f"Kafka's storage cannot be formatted: {last_meaningful_line(self.log)}", fix=f"Read {self.log}"
            )

    def command(self) -> list[str]:
        """The broker's JVM, started without the shell scripts of a Kafka distribution."""
        return self._java("kafka.Kafka", str(self._properties), *self.arguments)

    def probe(self) -> str:
        """Count as a broker of the cluster; the version is the jar's, since the protocol does not carry it."""
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError

        try:
            socket.create_connection((LOOPBACK, self.port), timeout=PROBE_TIMEOUT_SECONDS).close()
        except OSError as error:
            raise NotReadyError(str(error)) from None
        try:
            client = KafkaAdminClient(bootstrap_servers=self.address, request_timeout_ms=10_000)
            try:
                taking_part = {broker["port"] for broker in client.describe_cluster()["brokers"]}
            finally:
                client.close()
        except (KafkaError, OSError, AssertionError) as error:
            raise NotReadyError(str(error) or type(error).__name__) from None
        if self.port not in taking_part:
            raise NotReadyError("the other brokers do not count on it yet")
        return next(jar.stem.rsplit("-", 1)[1] for jar in self._jars if jar.name.startswith("kafka_2.13-"))
