"""Fixtures that all tests share: one real local stack for the session, a database of its own for each test."""

import dataclasses
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pyspark.sql import SparkSession

from local_stack import LocalStack
from local_stack.jars import fetch_jars
from meter_assets.resources import require_spark
from meter_assets_tests.csv_oracle import shared_data_folder
from meter_assets_tests.days_support import Installation
from meter_assets_tests.dlq_support import Office
from meter_assets_tests.ingest_support import Pipe
from meter_assets_tests.s3_server import S3Address, S3Server
from meter_assets_tests.shared_spark import SharedSpark
from meter_assets_tests.support import settings_for, wait_for
from metering.errors import MetersError
from metering.settings import Settings, load_settings
from metering.store import ensure_collections
from runtime.database import connect


def pytest_configure() -> None:
    """Be killable, and children with us, also as a shell's background job.

    That has SIGINT ignored, and Dagster, whenever a test runs something in this process, answers SIGTERM with whatever
    SIGINT does; ignored signals are handed down to every child.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


MONGO_ARGUMENTS = [
    *("--setParameter", "enableTestCommands=1"),
    # How long the work of a process that was killed stands in the way of others; a minute by default.
    *("--setParameter", "transactionLifetimeLimitSeconds=20"),
]

_shared_spark = SharedSpark()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Start the Spark that all processes share, while they collect their tests."""
    _shared_spark.begin()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process where it is."""
    node.workerinput["spark_port"] = _shared_spark.port
    node.workerinput["store"] = dataclasses.astuple(_shared_spark.store)


def pytest_sessionfinish() -> None:
    """Stop it, when all processes have ended."""
    _shared_spark.end()


LONG_FILES = (
    "test_routing_supervision.py",
    "test_days_cli.py",
    "test_late_readings.py",
    "test_demo.py",
    "test_day_failures.py",
    "test_router.py",
)
"""Files that take minutes. They begin first, so that no process is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others in their usual order."""
    place = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONG_FILES)))


@pytest.fixture(scope="session")
def spark_port(request: pytest.FixtureRequest) -> int | None:
    """Port of the Spark that all processes of a parallel session share; None: this process has its own."""
    return getattr(request.config, "workerinput", {}).get("spark_port")


@pytest.fixture(scope="session")
def store(request: pytest.FixtureRequest) -> S3Address:
    """Where the session's Spark looks for lakes in an object store; `s3` starts a server there."""
    shared = getattr(request.config, "workerinput", {}).get("store")
    return S3Address(*shared) if shared else S3Address()


@pytest.fixture(scope="session")
def s3(store: S3Address, settings: Settings) -> Iterator[S3Address]:
    """The session's S3 server, with its bucket."""
    with S3Server(store):
        yield store


@pytest.fixture(scope="session")
def settings(spark_port: int | None, store: S3Address) -> Iterator[Settings]:
    """Settings of the session's installation, in force for this process and its children. Starts nothing."""
    # Not pytest's tmp_path: paths stay short, and the data goes at once instead of three sessions later.
    home = Path(tempfile.mkdtemp(prefix="meters-"))
    before = {name: value for name, value in os.environ.items() if name.startswith(("METERS_", "AWS_"))}
    chosen = settings_for(home, **({"spark_port": spark_port} if spark_port else {}))
    environment = {**chosen.environment(), **store.keys}
    os.environ.update(environment)
    load_settings.cache_clear()
    yield load_settings()
    for name in environment:
        os.environ.pop(name, None)
    os.environ.update(before)
    load_settings.cache_clear()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(settings: Settings, spark_port: int | None, store: S3Address) -> Iterator[LocalStack]:
    """MongoDB (with its failpoints), Kafka and Spark, started by the first test that asks for them."""
    of_stack = store.applied(settings)  # Spark can use object stores, too
    fetch_jars(of_stack)
    services = ("mongo", "kafka") if spark_port else ("mongo", "kafka", "spark")
    with LocalStack(of_stack, services, arguments={"mongo": MONGO_ARGUMENTS}) as running:
        if spark_port:
            wait_for(lambda: spark_answers(settings), 180, "the Spark that all processes share answers")
        yield running


def spark_answers(settings: Settings) -> bool:
    """Does somebody listen there?"""
    try:
        require_spark(settings)
    except MetersError:
        return False
    return True


@pytest.fixture
def database(stack: LocalStack, settings: Settings) -> Iterator[Settings]:
    """The session's settings with a MongoDB database of this test's own, dropped afterwards."""
    own = settings.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    yield own
    with MongoClient(own.mongo) as client:
        client.drop_database(own.mongo_database)


@pytest.fixture
def mongo(database: Settings) -> Iterator[Database]:
    """A connection to the test's own database, with its collections in place."""
    own = connect(database)
    ensure_collections(own)
    yield own
    own.client.close()


@pytest.fixture
def installation(stack: LocalStack, database: Settings, tmp_path: Path) -> Iterator[Installation]:
    """A database and a lake of this test's own, and the `meters` command on them."""
    own = Installation(database, tmp_path / "lake")
    yield own
    own.close()


@pytest.fixture(scope="session")
def spark(stack: LocalStack, settings: Settings) -> Iterator[SparkSession]:
    """A session on the warm Spark Connect server."""
    session = SparkSession.builder.remote(settings.spark).config("spark.sql.session.timeZone", "UTC").getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real meter files; tests that need them are skipped where they are not."""
    return shared_data_folder()


@pytest.fixture
def office(database: Settings, mongo: Database) -> Office:
    """Topics and a database of this test's own, with what works on dead letters."""
    return Office(Pipe.fresh(database), mongo)
