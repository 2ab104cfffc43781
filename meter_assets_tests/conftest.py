"""Fixtures that all tests share: one real local stack for the session, a database of its own for each test."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from pyspark.sql import SparkSession

from local_stack import LocalStack
from local_stack.jars import fetch_jars
from meter_assets_tests.csv_oracle import shared_data_folder
from meter_assets_tests.support import settings_for
from metering.settings import Settings, load_settings


def pytest_configure() -> None:
    """Be killable, and children with us, also as a shell's background job.

    That has SIGINT ignored, and Dagster, whenever a test runs something in this process, answers SIGTERM with whatever
    SIGINT does; ignored signals are handed down to every child.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def settings() -> Iterator[Settings]:
    """Settings of the session's installation, in force for this process and its children. Starts nothing."""
    # Not pytest's tmp_path: paths stay short, and the data goes at once instead of three sessions later.
    home = Path(tempfile.mkdtemp(prefix="meters-"))
    before = {name: value for name, value in os.environ.items() if name.startswith("METERS_")}
    chosen = settings_for(home)
    os.environ.update(chosen.environment())
    load_settings.cache_clear()
    yield load_settings()
    for name in chosen.environment():
        os.environ.pop(name, None)
    os.environ.update(before)
    load_settings.cache_clear()
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(settings: Settings) -> Iterator[LocalStack]:
    """MongoDB (with its failpoints), Kafka and Spark, started by the first test that asks for them."""
    fetch_jars(settings)
    with LocalStack(settings, arguments={"mongo": ["--setParameter", "enableTestCommands=1"]}) as running:
        yield running


@pytest.fixture
def database(stack: LocalStack, settings: Settings) -> Iterator[Settings]:
    """The session's settings with a MongoDB database of this test's own, dropped afterwards."""
    own = settings.model_copy(update={"mongo_database": f"test_{uuid.uuid4().hex[:12]}"})
    yield own
    with MongoClient(own.mongo) as client:
        client.drop_database(own.mongo_database)


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
