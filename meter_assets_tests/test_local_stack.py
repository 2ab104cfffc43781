"""The local stack: starts, stops, survives, and says what is wrong in one line. Real processes throughout."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from pymongo import MongoClient

from local_stack import LocalStack
from local_stack.jars import fetch_jars, jars_folder, spark_jars
from local_stack.mongod import find_mongod
from local_stack.state import live_state, read_state, state_file
from local_stack.status import redact
from meter_assets_tests.support import meters, settings_for, wait_for
from metering.errors import MetersError
from metering.settings import Settings

# Placing Kafka and Spark elsewhere leaves MongoDB to `meters up`: the supervisor is the same, and starts in a second.
ONLY_MONGO = {"kafka_bootstrap": "127.0.0.1:1", "spark_remote": "sc://127.0.0.1:1"}


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    """Makes settings of an installation of the test's own; what it started is down afterwards."""
    made: list[Settings] = []

    def make(**changes: object) -> Settings:
        made.append(settings_for(tmp_path / f"home{len(made)}", **changes))
        return made[-1]

    yield make
    for settings in made:
        meters(settings, "down")


def pid_of(settings: Settings, service: str) -> int | None:
    state = live_state(settings.home)
    entry = state.services.get(service) if state else None
    return entry.pid if entry and entry.state == "up" else None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """All services of one installation; those of a parallel session share their Spark."""
    settings = settings_for(tmp_path_factory.mktemp("whole"))
    fetch_jars(settings)
    with LocalStack(settings) as stack:
        yield stack


def test_all_services_are_usable_and_status_says_so(whole: LocalStack) -> None:
    answer = meters(whole.settings, "status", "--json")
    report = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert report["running"] is True
    assert {name: service["state"] for name, service in report["services"].items()} == {
        "mongo": "up",
        "kafka": "up",
        "spark": "up",
    }
    assert report["mongo_version"] == MongoClient(whole.settings.mongo).server_info()["version"]
    assert report["spark_version"] == "4.2.0"


def test_every_service_listens_on_the_loopback_only(whole: LocalStack) -> None:
    for service in whole.services.values():
        assert service.child
        listening = [
            connection.laddr[0]
            for connection in psutil.Process(service.child.pid).net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening
        assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_doctor_takes_our_own_ports_for_ours(whole: LocalStack) -> None:
    answer = meters(whole.settings, "doctor", "--json")
    assert answer.returncode == 0, answer.stdout
    details = {check["name"]: check["detail"] for check in json.loads(answer.stdout)["checks"]}
    assert details["mongo_port"].endswith("is held by our own mongo")
    assert details["kafka_controller_port"].endswith("is held by our own kafka")


def test_data_survives_a_kill_and_a_change_of_port(tmp_path: Path) -> None:
    first = settings_for(tmp_path / "home")
    with LocalStack(first, services=("mongo",)) as stack:
        with MongoClient(first.mongo) as client:
            client.test.kept.insert_one({"_id": 1})
        stack.kill("mongo")
        stack.start_service("mongo")
    # The replica set's configuration holds the old port, under which the node would take itself for removed.
    second = settings_for(tmp_path / "home")
    with LocalStack(second, services=("mongo",)), MongoClient(second.mongo) as client:
        assert client.test.kept.count_documents({}) == 1


def test_no_orphans_after_kill_9_of_the_owner(settings: Settings, tmp_path: Path) -> None:
    own = settings_for(tmp_path / "home")
    code = (
        "from local_stack import LocalStack; from metering.settings import load_settings; import signal\n"
        "with LocalStack(load_settings(), services=('mongo', 'kafka')): print('up', flush=True); signal.pause()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **own.environment()}, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == "up\n"
        children = psutil.Process(owner.pid).children(recursive=True)
        assert {child.name() for child in children} >= {"mongod", "java"}
        owner.kill()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    # The state file that it left does not count as a running stack.
    assert read_state(own.home) is not None
    assert live_state(own.home) is None


def test_up_and_down_are_idempotent(installation: Callable[..., Settings]) -> None:
    settings = installation(**ONLY_MONGO)
    assert meters(settings, "down").returncode == 0
    assert meters(settings, "up").returncode == 0
    pid = pid_of(settings, "mongo")
    again = meters(settings, "up")
    assert (again.returncode, pid_of(settings, "mongo")) == (0, pid)
    assert "up already" in again.stderr
    assert meters(settings, "down").returncode == 0
    assert pid is not None and not psutil.pid_exists(pid)
    assert meters(settings, "down").returncode == 0
    assert meters(settings, "status").returncode == 1


def test_supervisor_restarts_a_service_that_crashed(installation: Callable[..., Settings]) -> None:
    settings = installation(**ONLY_MONGO)
    assert meters(settings, "up").returncode == 0
    before = pid_of(settings, "mongo")
    assert before
    psutil.Process(before).kill()
    after = wait_for(lambda: (pid := pid_of(settings, "mongo")) != before and pid, 60, "mongo restarted")
    with MongoClient(settings.mongo) as client:
        client.test.readings.insert_one({"_id": 1})
    assert after != before
    state = live_state(settings.home)
    assert state and state.services["mongo"].restarts == 1
    assert "restarting MongoDB" in (settings.home / "logs" / "supervisor.log").read_text()


def test_up_after_kill_9_of_the_supervisor(installation: Callable[..., Settings]) -> None:
    settings = installation(**ONLY_MONGO)
    assert meters(settings, "up").returncode == 0
    state = live_state(settings.home)
    assert state
    psutil.Process(state.pid).kill()
    answer = meters(settings, "up")
    assert answer.returncode == 0, answer.stderr
    assert pid_of(settings, "mongo")


def test_a_second_stack_in_the_same_home_is_refused(installation: Callable[..., Settings]) -> None:
    settings = installation(**ONLY_MONGO)
    assert meters(settings, "up").returncode == 0
    with pytest.raises(MetersError, match="already runs"):
        LocalStack(settings, services=("mongo",)).start()


HOLD_A_PORT = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    print("listening", flush=True)
    sys.stdin.read()
"""


def test_a_taken_port_names_its_holder_and_the_setting(installation: Callable[..., Settings]) -> None:
    settings = installation(**ONLY_MONGO)
    command = [sys.executable, "-c", HOLD_A_PORT, str(settings.mongo_port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "listening\n"
        answer = meters(settings, "up")
        holder.communicate()
    assert answer.returncode == 1
    assert len(answer.stderr.strip().splitlines()) == 1  # though the holder's command has several
    assert f"pid {holder.pid}" in answer.stderr
    assert "METERS_MONGO_PORT" in answer.stderr


def test_a_service_that_dies_tells_the_reason_of_its_log(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "home")
    stack = LocalStack(settings, services=("mongo",), arguments={"mongo": ["--no-such-option"]})
    with pytest.raises(MetersError, match="no-such-option.*mongo.log"):
        stack.start()
    assert not state_file(settings.home).exists()


def test_missing_jars_are_told(tmp_path: Path) -> None:
    with pytest.raises(MetersError, match="Jars are missing.*make setup"):
        spark_jars(settings_for(tmp_path / "home", cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("damage", ["tampered", "truncated", "missing", "added"])
def test_damaged_jars_are_refused(stack: LocalStack, settings: Settings, tmp_path: Path, damage: str) -> None:
    damaged = settings_for(tmp_path / "home", cache_dir=tmp_path / "cache")
    folder = jars_folder(damaged)
    shutil.copytree(jars_folder(settings), folder)
    jar = next(folder.glob("spark/mongo-spark-connector*.jar"))
    if damage == "tampered":
        content = bytearray(jar.read_bytes())
        content[len(content) // 2] ^= 1
        jar.write_bytes(content)
    elif damage == "truncated":
        jar.write_bytes(jar.read_bytes()[:-1])
    elif damage == "missing":
        jar.unlink()
    else:
        jar = jar.with_name("stranger-1.0.jar")
        jar.write_bytes(b"")
    with pytest.raises(MetersError, match=jar.name):
        spark_jars(damaged)


def test_old_java_is_told(tmp_path: Path) -> None:
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.22\" 2024-01-16' >&2\n")
    java.chmod(0o755)
    settings = settings_for(tmp_path / "home")
    answer = meters(settings, "doctor", "--json", JAVA_HOME=str(tmp_path / "jdk"))
    report = json.loads(answer.stdout)
    assert answer.returncode == 1
    assert report["healthy"] is False
    [failed] = [check for check in report["checks"] if not check["ok"] and check["name"] == "java"]
    assert "11.0.22" in failed["detail"]
    assert "JAVA_HOME" in failed["fix"]
    up = meters(settings, "up", JAVA_HOME=str(tmp_path / "jdk"))
    assert up.returncode == 1
    assert len(up.stderr.strip().splitlines()) == 1
    assert "11.0.22" in up.stderr


def test_mongod_that_lacks_a_library_names_its_package(tmp_path: Path) -> None:
    # A copy of a real executable that asks the loader for a library of another name.
    real = find_mongod(settings_for(tmp_path / "home")).read_bytes()
    broken = tmp_path / "mongod"
    broken.write_bytes(real.replace(b"liblzma.so.5\0", b"liblzmb.so.5\0"))
    broken.chmod(0o755)
    answer = meters(settings_for(tmp_path / "home", mongod=broken), "doctor", "--json")
    [failed] = [check for check in json.loads(answer.stdout)["checks"] if check["name"] == "mongod"]
    assert "liblzmb.so.5" in failed["detail"]
    assert "apt-get install" in failed["fix"]


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("mongodb://me:p@ss@host:27017/?replicaSet=meters", "mongodb://me:***@host:27017/?replicaSet=meters"),
        ("mongodb://host/", "mongodb://host/"),
        ("sc://host:15002/;token=abc;user_id=me", "sc://host:15002/;token=***;user_id=me"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert redact(uri) == shown


def test_stop_and_start_of_kafka_keeps_its_topics(stack: LocalStack, settings: Settings) -> None:
    def topics() -> set[str]:
        client = KafkaAdminClient(bootstrap_servers=settings.kafka)
        try:
            return set(client.list_topics())
        finally:
            client.close()

    client = KafkaAdminClient(bootstrap_servers=settings.kafka)
    client.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    client.close()
    wait_for(lambda: "kept" in topics(), 30)
    stack.kill("kafka")
    stack.start_service("kafka")
    wait_for(lambda: "kept" in topics(), 30)
