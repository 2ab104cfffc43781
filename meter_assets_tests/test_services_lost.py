"""Spark disappears under a run, or a disk is full: the work is tried again, and one line names what is wrong."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
from grpc import StatusCode
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError, WriteConcernError
from pyspark.errors.exceptions.connect import SparkConnectException, SparkConnectGrpcException
from pyspark.sql.connect.client import SparkConnectClient

from local_stack import LocalStack
from meter_assets.failures import full_disk, is_of_spark, mongo_failure, spark_is_gone
from meter_assets.resources import SHARED_SESSION
from meter_assets_tests.days_support import Installation, assert_whole, failpoint, store_readings
from meter_assets_tests.runner_support import Runner, config_of
from meter_assets_tests.support import settings_for
from metering.errors import ServiceAwayError
from metering.settings import Settings
from metering.store import READINGS, ensure_collections

DAY = date(2024, 5, 1)


@pytest.fixture(scope="module")
def own_spark(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A Spark that no other test works on."""
    settings = settings_for(tmp_path_factory.mktemp("spark"))
    with LocalStack(settings, ["spark"]) as running:
        yield running


@pytest.fixture
def city(installation: Installation, own_spark: LocalStack) -> Installation:
    ensure_collections(installation.database)
    installation.choose(unknown_meters=False, spark_port=own_spark.settings.spark_port)
    store_readings(installation, DAY, hour=0)
    return installation


def forget(spark: LocalStack) -> None:
    """What happens to a session that a server does not want to keep any longer."""
    client = SparkConnectClient(f"{spark.settings.spark}/;session_id={SHARED_SESSION}")
    client.release_session()
    client.close()


def kill(spark: LocalStack) -> None:
    spark.kill("spark")
    spark.start_service("spark")


def stop(spark: LocalStack) -> None:
    spark.restart("spark")


@pytest.mark.slow
@pytest.mark.timeout(900)  # a Spark of its own, which is started twice
@pytest.mark.parametrize("lose", [forget, kill, stop])
def test_a_spark_that_loses_the_session_early_is_tried_again(
    city: Installation, own_spark: LocalStack, lose: Callable[[LocalStack], None]
):
    reads = {"failCommands": ["aggregate"], "namespace": f"{city.database.name}.{READINGS}"}
    with Runner(city, retry_seconds=10) as runner:
        with failpoint(city, "alwaysOn", blockConnection=True, blockTimeMS=3_000, **reads) as entered:
            runner.begin(config_of([str(DAY)]))
            entered(1)
            lose(own_spark)
        answer = runner.answer()
    assert answer["success"], answer["failure"]
    assert answer["retries"] >= 1
    assert_whole(city, str(DAY))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:  # noqa: S607 - the system's
        pytest.skip("needs the right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - the system's


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_full_disk_of_the_lake_is_named_and_the_day_goes_on_when_there_is_room(city: Installation, small_disk: Path):
    city.choose(lake=str(small_disk / "lake"))
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    with Runner(city) as runner:
        answer = runner.compute(str(DAY))
        assert not answer["success"]
        assert answer["retries"] == 3
        assert "full" in answer["failure"]
        assert str(small_disk / "lake") in answer["failure"]
        assert "Make room" in answer["failure"]
        assert len(answer["failure"].splitlines()) == 1
        filler.unlink()
        assert runner.compute(str(DAY))["success"]
    assert_whole(city, str(DAY))


SPARKS_ERRORS = [
    SparkConnectException(errorClass="NO_ACTIVE_SESSION", messageParameters={}),
    SparkConnectGrpcException(
        "Cannot call methods on a stopped SparkContext.\nThis stopped SparkContext was created at:"
    ),
    SparkConnectGrpcException("[INVALID_HANDLE.SESSION_NOT_FOUND] The handle 6d65 is invalid. Session not found."),
    SparkConnectGrpcException("[INVALID_HANDLE.SESSION_CHANGED] The handle 6d65 is invalid. SQLSTATE: HY000"),
    SparkConnectGrpcException("[INVALID_HANDLE.OPERATION_NOT_FOUND] The handle 6d65 is invalid."),
    SparkConnectGrpcException("Job 3 cancelled because SparkContext was shut down"),
    SparkConnectGrpcException("failed to connect to all addresses", grpc_status_code=StatusCode.UNAVAILABLE),
    ValueError("Cannot invoke RPC on closed channel!"),
]


@pytest.mark.parametrize("error", SPARKS_ERRORS, ids=lambda error: str(error)[:40])
def test_words_of_a_spark_that_has_disappeared(error: Exception):
    assert is_of_spark(error)
    assert spark_is_gone(error)
    cause = SparkConnectGrpcException("no more than a consequence")
    cause.__context__ = error
    assert spark_is_gone(cause)


def test_an_error_of_the_plan_is_not_tried_again():
    error = SparkConnectGrpcException(
        "[UNRESOLVED_COLUMN] A column cannot be resolved. SQLSTATE: 42703", sql_state="42703"
    )
    assert is_of_spark(error)
    assert not spark_is_gone(error)
    assert full_disk(Settings(), error) is None
    assert not is_of_spark(ValueError("another one"))


@pytest.mark.parametrize(
    "error",
    [
        SparkConnectGrpcException("[TASK_WRITE_FAILED] Task failed while writing rows.", sql_state="58030"),
        SparkConnectGrpcException(
            "java.lang.InternalError: a fault occurred in a recent unsafe memory access operation"
        ),
        SparkConnectGrpcException(
            "Job aborted.", server_stacktrace="Caused by: java.io.IOException: No space left on device"
        ),
        OSError(28, "No space left on device", "/lake/.locks"),
        OperationFailure("write failed", 14031),
        OperationFailure("No space left on device", 8),
        BulkWriteError({"writeErrors": [{"code": 14031, "errmsg": "no room"}]}),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:30]}",
)
def test_words_of_a_full_disk(error: Exception, tmp_path: Path):
    line = full_disk(Settings(home=tmp_path), error)
    assert isinstance(line, ServiceAwayError)
    assert "full" in line.message
    assert "room" in line.fix
    assert "\n" not in str(line)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OperationFailure("interrupted", 11602), True),
        (OperationFailure("took too long", 50), True),
        (WriteConcernError("waiting for replication timed out", 64), True),
        (BulkWriteError({"writeErrors": [{"code": 112, "errmsg": "conflict"}]}), True),
        (OperationFailure("later", 7777, {"errorLabels": ["TransientTransactionError"]}), True),
        (OperationFailure("Authentication failed", 18), False),
        (OperationFailure("not allowed", 13), False),
        (BulkWriteError({"writeErrors": [{"code": 121, "errmsg": "Document failed validation"}]}), False),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors_of_mongodb_that_pass_are_tried_again(error: PyMongoError, again: bool):
    assert isinstance(mongo_failure(Settings(), error), ServiceAwayError) is again
