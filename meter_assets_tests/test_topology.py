"""Three brokers, three members, two Spark workers: nothing but settings differs, and nothing is lost when parts die."""

import json
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient
from pymongo import MongoClient
from pymongo.errors import WTimeoutError
from pymongo.write_concern import WriteConcern

from local_stack import LocalStack
from local_stack.doctor import preflight
from local_stack.jars import fetch_jars
from local_stack.topology import keep_topology
from meter_assets_tests.ingest_support import Pipe, check_nothing_lost, mixed
from meter_assets_tests.support import free_block, meters, settings_for, wait_for
from metering.errors import MetersError
from metering.settings import ABNORMAL_TOPIC, DEAD_LETTERS_TOPIC, READINGS_TOPIC, Settings

PORTS = 17
"""Three members, three brokers with their controllers, master and workers with their pages, Connect, webserver."""


def cluster_settings(home: Path) -> Settings:
    """Three of everything on ports that follow each other."""
    first = free_block(PORTS)
    return settings_for(
        home,
        mongo_members=3,
        kafka_brokers=3,
        spark_workers=2,
        mongo_port=first,
        kafka_port=first + 3,
        kafka_controller_port=first + 4,
        spark_master_port=first + 9,
        spark_port=first + 15,
        webserver_port=first + 16,
    )


@pytest.fixture(scope="module")
def events() -> Iterator[Path]:
    """Where Spark writes down what its executors did."""
    folder = Path(tempfile.mkdtemp(prefix="meters-events-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(events: Path) -> Iterator[LocalStack]:
    home = Path(tempfile.mkdtemp(prefix="meters-"))
    settings = cluster_settings(home)
    fetch_jars(settings)
    event_log = {"enabled": "true", "dir": events.as_uri(), "compress": "false", "rolling.enabled": "false"}
    options = [part for name, value in event_log.items() for part in ("--conf", f"spark.eventLog.{name}={value}")]
    with LocalStack(settings, arguments={"spark": options}) as stack:
        yield stack
        for name in reversed(stack.services):  # its data goes anyway: no need for an orderly end
            stack.kill(name)
    shutil.rmtree(home, ignore_errors=True)


def tasks_by_executor(events: Path) -> dict[str, int]:
    """How many tasks each executor has done."""
    tasks: dict[str, int] = {}
    for log in events.iterdir():
        for line in log.read_text().splitlines():
            if '"SparkListenerTaskEnd"' in line:
                executor = json.loads(line)["Task Info"]["Executor ID"]
                tasks[executor] = tasks.get(executor, 0) + 1
    return tasks


@pytest.mark.cluster
def test_the_demo_passes_with_only_settings_different(cluster: LocalStack, events: Path):
    status = json.loads(meters(cluster.settings, "status", "--json").stdout)
    assert status["running"]
    assert len(status["services"]) == 3 + 3 + 1 + 2 + 1

    demo = meters(cluster.settings, "demo", "--once", "--json", "--days", "1", "--households", "2")

    assert demo.returncode == 0, demo.stderr
    summary = json.loads(demo.stdout)
    assert summary["ok"]
    assert summary["faults"]["injected"] == summary["faults"]["routed"] > 0
    # Executor 0 and 1, one on each worker, since an executor takes all of its worker's processors.
    assert tasks_by_executor(events).keys() == {"0", "1"}
    topics = replicas(cluster.settings)
    assert {READINGS_TOPIC, DEAD_LETTERS_TOPIC, ABNORMAL_TOPIC, "__consumer_offsets"} <= topics.keys()
    assert set(topics.values()) == {3}
    assert in_sync(cluster.settings, READINGS_TOPIC, DEAD_LETTERS_TOPIC) == {"2"}


@pytest.mark.cluster
def test_everything_listens_on_the_loopback_only(cluster: LocalStack):
    for service in cluster.services.values():
        assert service.child
        process = psutil.Process(service.child.pid)
        for each in [process, *process.children(recursive=True)]:  # a worker's executor is its child
            listening = {
                connection.laddr[0].removeprefix("::ffff:")
                for connection in each.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN
            }
            assert listening <= {"127.0.0.1"}, service.name


@pytest.mark.cluster
def test_a_broker_and_the_primary_killed_under_ingest_lose_nothing(cluster: LocalStack):
    settings = cluster.settings.model_copy(update={"mongo_database": "killed"})
    pipe = Pipe.fresh(settings)
    pipe.send(mixed(80_000, random.Random(8)))
    broker, primary = leader_of(settings, pipe.feed.topics[0]), primary_of(settings)

    with pipe.member(until_caught_up=True) as member:
        assert wait_for(pipe.stored_count, 60) < 40_000  # far from the end
        cluster.kill(primary)
        cluster.kill(broker)
        counts = member.finish()

    assert counts.messages == counts.stored + counts.duplicates + counts.dead_letters
    check_nothing_lost(pipe)  # produced = stored + duplicates + dead letters, message by message
    assert primary_of(settings) != primary
    with MongoClient(settings.mongo) as client:
        collection = client[settings.mongo_database]["acknowledged"]
        collection.with_options(write_concern=WriteConcern("majority")).insert_one({"_id": 1})
        with pytest.raises(WTimeoutError):  # the third member's word is waited for, and does not come
            collection.with_options(write_concern=WriteConcern(3, wtimeout=500)).insert_one({"_id": 2})
    cluster.start_services([broker, primary])
    wait_for(lambda: set(replicas(settings, "isr_nodes").values()) == {3}, 60, "all replicas are in step again")
    assert "__transaction_state" in replicas(settings)


def replicas(settings: Settings, which: str = "replica_nodes") -> dict[str, int]:
    """How many brokers have each topic, Kafka's own included; `isr_nodes`: have it in step."""
    admin: Any = KafkaAdminClient(bootstrap_servers=settings.kafka)
    try:
        topics = admin.describe_topics(admin.list_topics())
        return {topic["name"]: min(len(each[which]) for each in topic["partitions"]) for topic in topics}
    finally:
        admin.close()


def in_sync(settings: Settings, *topics: str) -> set[str]:
    """The topics' `min.insync.replicas`."""
    admin: Any = KafkaAdminClient(bootstrap_servers=settings.kafka)
    try:
        described = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics])
        return {config["min.insync.replicas"]["value"] for config in described["topic"].values()}
    finally:
        admin.close()


def leader_of(settings: Settings, topic: str) -> str:
    """The service that leads the topic's first partition."""
    admin: Any = KafkaAdminClient(bootstrap_servers=settings.kafka)
    try:
        (described,) = admin.describe_topics([topic])
        number = described["partitions"][0]["leader_id"]
    finally:
        admin.close()
    return "kafka" if number == 1 else f"kafka-{number}"


def primary_of(settings: Settings) -> str:
    """The service that is the replica set's primary."""
    with MongoClient(settings.mongo) as client:
        client.admin.command("ping")
        port = (client.primary or ("", 0))[1]
    number = settings.mongo_ports.index(port) + 1
    return "mongo" if number == 1 else f"mongo-{number}"


@pytest.mark.parametrize(
    ("chosen", "replicas", "min_in_sync"),
    [
        ({}, 1, 1),
        ({"kafka_brokers": 2}, 2, 1),
        ({"kafka_brokers": 5}, 3, 2),
        ({"kafka_bootstrap": "elsewhere:9092"}, None, 1),  # the cluster's own default
        ({"kafka_bootstrap": "elsewhere:9092", "kafka_replication": 3}, 3, 2),
    ],
)
def test_replicas_of_topics(tmp_path: Path, chosen: dict[str, Any], replicas: int | None, min_in_sync: int):
    settings = settings_for(tmp_path, **chosen)
    assert (settings.replication, settings.min_in_sync) == (replicas, min_in_sync)


def test_more_replicas_than_brokers_are_refused(tmp_path: Path):
    with pytest.raises(MetersError, match="METERS_KAFKA_REPLICATION is 3, and METERS_KAFKA_BROKERS is 1"):
        preflight(settings_for(tmp_path, kafka_replication=3), ["kafka"])


def test_data_of_another_number_of_members_is_not_touched(tmp_path: Path):
    made = settings_for(tmp_path, mongo_members=3)
    keep_topology(made, ["mongo", "kafka"])
    keep_topology(made.model_copy(update={"mongo_members": 1}), ["mongo"])  # nothing is there yet
    (tmp_path / "kafka" / "data").mkdir(parents=True)
    with pytest.raises(MetersError, match="Kafka's data in .* METERS_KAFKA_BROKERS=1"):
        keep_topology(made.model_copy(update={"kafka_brokers": 3}), ["mongo", "kafka"])
    keep_topology(made, ["mongo", "kafka"])


def test_data_from_before_there_were_several_members_is_one_members(tmp_path: Path):
    (tmp_path / "mongo" / "data").mkdir(parents=True)
    with pytest.raises(MetersError, match="shared by 1, and METERS_MONGO_MEMBERS is 3"):
        keep_topology(settings_for(tmp_path, mongo_members=3), ["mongo"])


def test_a_taken_port_of_a_further_member_names_the_setting(tmp_path: Path):
    settings = cluster_settings(tmp_path)
    with (
        socket.create_server(("127.0.0.1", settings.mongo_ports[2])),
        pytest.raises(MetersError, match="set METERS_MONGO_PORT to another port; this one is 2 above it"),
    ):
        preflight(settings, ["mongo"])


def test_two_services_on_one_port_are_told(tmp_path: Path):
    settings = cluster_settings(tmp_path)
    clash = settings.model_copy(update={"kafka_controller_port": settings.kafka_ports[1]})
    with pytest.raises(MetersError, match="wanted twice, as kafka_controller_port and as kafka_port"):
        preflight(clash, ["kafka"])
