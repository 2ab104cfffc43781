"""docker-compose.yml, the image and the scripts around them, as far as they can be tried without a container engine."""

import copy
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema
from jsonschema import Draft202012Validator
from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

from local_stack.mongod import find_mongod
from local_stack.spark import Spark
from meter_assets_tests.support import free_ports, settings_for, wait_for
from meter_cli.init_env import environment
from metering.settings import Settings
from runtime.health_file import Alive
from scripts.container_check.compose import active, load, read_env
from scripts.container_check.rules import problems

PROJECT = Path(__file__).parents[1]
COMPOSE = PROJECT / "docker-compose.yml"
DEPLOY = PROJECT / "deploy"
MODEL = yaml.safe_load(COMPOSE.read_text())
SPECIFICATION = Draft202012Validator(get_builtin_schema("vendor.compose-spec"))


def test_the_compose_file_follows_the_specification():
    """The Compose Specification's JSON Schema, as the pinned check-jsonschema brings it."""
    assert [error.message for error in SPECIFICATION.iter_errors(MODEL)] == []
    broken = copy.deepcopy(MODEL)
    broken["services"]["kafka"]["imagee"] = "apache/kafka:4.2.0"
    assert any("imagee" in error.message for error in SPECIFICATION.iter_errors(broken))


def test_the_compose_file_keeps_our_rules():
    assert problems(MODEL) == []


BREACHES: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
    ("kafka", lambda s: s.update(image="apache/kafka:latest"), "no exact tag"),
    ("kafka", lambda s: s.update(image="apache/kafka"), "no exact tag"),
    ("postgres", lambda s: s.update(image="postgres:17"), "no exact tag"),
    ("webserver", lambda s: s.update(ports=["3000:3000"]), "beyond 127.0.0.1"),
    ("webserver", lambda s: s.update(ports=["0.0.0.0:3000:3000"]), "beyond 127.0.0.1"),
    ("webserver", lambda s: s.update(ports=[{"target": 3000, "published": "3000"}]), "beyond 127.0.0.1"),
    ("webserver", lambda s: s.update(command=["dagster-webserver", "--host=0.0.0.0"]), "every page of the browser"),
    ("router", lambda s: s.pop("healthcheck"), "no healthcheck"),
    ("router", lambda s: s.pop("restart"), "nothing of restart"),
    ("router", lambda s: s.pop("deploy"), "no limits"),
    ("mongo", lambda s: s["deploy"]["resources"]["limits"].pop("memory"), "no limits"),
    ("mongo", lambda s: s["environment"].update(MONGO_INITDB_ROOT_PASSWORD="example"), "holds a secret"),
    ("mongo", lambda s: s["environment"].update(MONGO_KEY="${MONGO_KEY:-changeme}"), "holds a secret"),
    ("ingest", lambda s: s["environment"].update(METERS_MONGO_URI="mongodb://meters:meters@mongo/"), "holds a secret"),
    ("s3", lambda s: s["environment"].update(ROOT_SECRET_KEY="example"), "holds a secret"),
    ("s3", lambda s: s.update(ports=["7070:7070"]), "beyond 127.0.0.1"),
    ("daemon", lambda s: s.update(privileged=True), "not kept apart"),
    ("daemon", lambda s: s.pop("security_opt"), "may gain privileges"),
    ("ingest", lambda s: s["depends_on"]["mongo-init"].update(condition="service_started"), "is done"),
]


@pytest.mark.parametrize(("service", "break_it", "says"), BREACHES)
def test_each_rule_refuses_its_breach(service: str, break_it: Callable[[dict[str, Any]], Any], says: str):
    broken = copy.deepcopy(MODEL)
    break_it(broken["services"][service])
    assert any(problem.startswith(f"{service}: ") and says in problem for problem in problems(broken))


@pytest.mark.parametrize("cluster", [False, True])
def test_the_environment_has_all_that_the_compose_file_demands(tmp_path: Path, cluster: bool):
    with pytest.raises(ValueError, match="meters init-env"):
        load(COMPOSE, {})
    file = tmp_path / ".env"
    file.write_text(environment("admin@example.org", cluster=cluster))
    variables = read_env(file)
    services = active(load(COMPOSE, variables), set(filter(None, variables.get("COMPOSE_PROFILES", "").split(","))))

    members = 3 if cluster else 1
    kafka = services["kafka"]["environment"]
    assert len(kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")) == members
    assert kafka["KAFKA_DEFAULT_REPLICATION_FACTOR"] == str(members)
    assert len(services["mongo-init"]["environment"]["MONGO_MEMBERS"].split(",")) == members
    assert ("spark-worker" in services) == cluster
    assert services["spark-connect"]["command"][1].endswith("spark://spark-master:7077" if cluster else "local[*]")
    for host in re.findall(r"@([\w-]+):9093", kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"]):
        assert host in services
    assert "simulator" not in services
    assert "mongo-express" not in services
    assert "s3" not in services


def test_init_env_writes_secrets_once(tmp_path: Path):
    command = [Path(sys.executable).with_name("meters"), "init-env", "--file", tmp_path / ".env"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    written = (tmp_path / ".env").read_text()
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 1
    assert "is there already" in again.stderr.replace("\n", " ")
    assert (tmp_path / ".env").read_text() == written
    other = environment("admin@example.org", cluster=False)
    secrets = {line for line in written.splitlines() if "=" in line and not line.startswith("METABASE_ADMIN_EMAIL")}
    assert not secrets & set(other.splitlines())


def test_both_dagster_instances_queue_and_retain_alike():
    ours, local = (
        yaml.safe_load(path.read_text()) for path in (DEPLOY / "dagster.yaml", PROJECT / "local_stack" / "dagster.yaml")
    )
    for part in ("telemetry", "nux", "concurrency", "run_coordinator", "retention"):
        assert ours[part] == local[part]


def test_both_spark_servers_are_configured_alike(tmp_path: Path):
    lines = (DEPLOY / "spark-defaults.conf").read_text().splitlines()
    ours = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    local = Spark(settings_for(tmp_path, lake="s3a://bucket/lake", s3_endpoint="http://s3:7070")).configuration()
    of_this_place = {"spark.connect.grpc.binding.address", "spark.connect.grpc.binding.port"}
    of_this_place |= {"spark.sql.warehouse.dir", "spark.driver.extraJavaOptions", "spark.executor.extraJavaOptions"}
    of_this_place |= {"spark.hadoop.fs.s3a.endpoint", "spark.hadoop.fs.s3a.endpoint.region"}
    assert {key for key in ours if "s3a" in key} == {key for key in local if "s3a" in key}
    shared = ours.keys() & local.keys() - of_this_place
    assert {key: ours[key] for key in shared} == {key: local[key] for key in shared}
    assert {"spark.sql.session.timeZone", "spark.sql.shuffle.partitions"} <= shared


def test_the_image_is_pinned_and_has_a_user():
    text = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=debian:12\.\d+-slim$", text, re.MULTILINE)
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "meters"
    assert "--constraint constraints.txt" in text
    assert "dagster-postgres==0.29.27" in (PROJECT / "constraints.txt").read_text().splitlines()


def test_the_sensor_leaves_the_router_to_its_service():
    script = "from meter_assets.routing.sensor import fault_routing_sensor as s; print(s.default_status.value)"
    for setting, status in (("false", "STOPPED"), ("true", "RUNNING")):
        answer = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            env={**os.environ, "METERS_ROUTER_SENSOR": setting},
            cwd=PROJECT,
            capture_output=True,
            text=True,
        )
        assert answer.stdout.strip() == status, answer.stderr


def test_a_sign_of_life_is_a_fresh_file(tmp_path: Path):
    file = tmp_path / "alive"
    Alive(Settings(home=tmp_path))()  # no file asked for
    Alive(Settings(home=tmp_path, alive_file=file))()
    assert time.time() - file.stat().st_mtime < 5


@contextmanager
def mongod(folder: Path, port: int, *arguments: str) -> Iterator[None]:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    command = [find_mongod(Settings(home=folder)), "--dbpath", folder / "data", "--port", str(port), *arguments]
    command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--setParameter", "diagnosticDataCollectionEnabled=false"]
    command += ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: answers(port), 30, "mongod answers")
            yield
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        with MongoClient(port=port, directConnection=True, serverSelectionTimeoutMS=500) as client:
            return bool(client.admin.command("hello"))
    except ConnectionFailure:
        return False


def mongo_init(*ports: int, **passwords: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, DEPLOY / "mongo_init.py"],
        env={**os.environ, "MONGO_MEMBERS": ",".join(f"127.0.0.1:{port}" for port in ports), **passwords},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_mongo_init_makes_users_and_gives_them_new_passwords(tmp_path: Path):
    """On a mongod as its image leaves it: a root user, then a member's key. A second one joins."""
    port, second_port = free_ports(2)
    key = tmp_path / "key"
    key.write_text("a" * 64)
    key.chmod(0o600)
    with mongod(tmp_path, port), MongoClient(port=port, directConnection=True) as client:
        client.admin.command("createUser", "root", pwd="r00t", roles=["root"])
    words = {"MONGO_ROOT_PASSWORD": "r00t", "MONGO_APP_PASSWORD": "app", "MONGO_READER_PASSWORD": "old"}

    def user(name: str, password: str) -> MongoClient:
        return MongoClient(f"mongodb://{name}:{password}@127.0.0.1:{port}/?replicaSet=meters&authSource=admin")

    replica = ("--replSet", "meters", "--keyFile", str(key))
    with mongod(tmp_path, port, *replica), mongod(tmp_path / "second", second_port, *replica):
        first = mongo_init(port, **words)
        assert first.returncode == 0, first.stderr
        again = mongo_init(port, **{**words, "MONGO_READER_PASSWORD": "new"})
        assert again.returncode == 0, again.stderr
        wrong = mongo_init(port, **{**words, "MONGO_ROOT_PASSWORD": "wrong"})
        assert wrong.returncode == 1
        assert wrong.stderr.startswith("error: MONGO_ROOT_PASSWORD") and wrong.stderr.count("\n") == 1

        joined = mongo_init(port, second_port, **{**words, "MONGO_READER_PASSWORD": "new"})
        assert joined.returncode == 0, joined.stderr
        with user("root", "r00t") as root:
            config = root.admin.command("replSetGetConfig")["config"]
            assert [member["host"] for member in config["members"]] == [
                f"127.0.0.1:{port}",
                f"127.0.0.1:{second_port}",
            ]

        with user("meters", "app") as app:
            app["iot"].create_collection("thing", validator={"a": 1})
            app["iot"].command("collMod", "thing", validator={})
            app["iot"]["thing"].insert_one({"_id": 1})
            with pytest.raises(OperationFailure, match="not authorized"):
                app["other"]["thing"].insert_one({})
        with user("reader", "new") as reader:
            assert reader["iot"]["thing"].count_documents({}) == 1
            with pytest.raises(OperationFailure, match="not authorized"):
                reader["iot"]["thing"].insert_one({})
        with user("reader", "old") as former, pytest.raises(OperationFailure, match="Authentication failed"):
            former["iot"]["thing"].find_one()
        with MongoClient(port=port, directConnection=True) as nobody, pytest.raises(OperationFailure):
            nobody["iot"]["thing"].find_one()
