"""Resources of the code location: Spark, MongoDB and the lake, from settings, connected only when used."""

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from functools import reduce
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from dagster_pyspark import LazyPySparkResource
from dagster_pyspark.resources import spark_session_from_config
from grpc import RpcError
from py4j.protocol import Py4JError
from pydantic import PrivateAttr
from pymongo.database import Database
from pymongo.errors import PyMongoError
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.connect.session import SparkSession as ConnectSession

from meter_assets.failures import full_disk, is_of_spark, mongo_failure, spark_is_gone
from meter_assets.lake.base import Lake
from meter_assets.lake.open import open_lake
from metering.errors import MetersError, ServiceAwayError
from metering.reading import STORED_SPARK_SCHEMA, reading_id_range
from metering.registry import METER_SPARK_SCHEMA, METERS
from metering.settings import Settings, load_settings
from metering.store import READINGS, ensure_collections, keep_timezone
from runtime.database import connect
from runtime.local_services import trouble_note
from runtime.s3 import probe_store, spark_options

SPARK_CONNECT_PORT = 15002
ANSWER_WITHIN_SECONDS = 10

SHARED_SESSION = "6d657465-7273-4c6f-8361-6c537461636b"
"""Id of the one session that all runs on the local stack share, so that what Spark compiled for one serves the next.

Spark keeps generated code by session: in a session of its own, a run on one day spends a third of its time compiling.
"""

CLOSED_SESSION = "INVALID_HANDLE.SESSION_CLOSED"
"""Spark's name for the refusal of a session's id that a client has closed."""

READ_SLICES = 4
"""Parts that a range of readings is read in, side by side; each is one cursor over a contiguous range of the keys."""


class NoOptions(dg.Config):
    """What a run's configuration may set of Spark: nothing.

    Spark's options name code to run (jars, plugins, JVM options, a server elsewhere). The field must exist, because
    dagster-pyspark's resource has it; as an empty, strict type it refuses every entry when a run is launched.
    """


class SparkResource(LazyPySparkResource):
    """A session opened at first use, and left with the run; its settings come from the environment alone.

    A session of the run's own is closed: left open, it holds memory in the server, and a process that ends after its
    server waits for it. The shared one stays, without what the run may have left running in it.
    """

    spark_config: NoOptions = NoOptions()  # pyright: ignore[reportIncompatibleVariableOverride] (narrower on purpose)
    _tag: str = PrivateAttr(default_factory=lambda: f"run-{uuid.uuid4()}")
    _remote: str = PrivateAttr(default="")

    def _init_session(self) -> None:
        if self._spark_session is not None:
            return
        options = spark_settings(load_settings())
        self._remote = options.get("spark.remote", "")
        if self._remote:
            _require_answer(self._remote)
        try:
            session: Any = spark_session_from_config(options)
        except PySparkException as error:
            if SHARED_SESSION not in self._remote or CLOSED_SESSION not in str(error):
                raise
            # Somebody has closed the shared session, and the server refuses its id until it is restarted.
            _forget_session()
            self._remote = self._remote.partition("/;")[0]
            session = spark_session_from_config({**options, "spark.remote": self._remote})
        self._spark_session = session
        if SHARED_SESSION in self._remote:
            session.release_session_on_close = False
            session.addTag(self._tag)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Leave the session, if the run has opened one."""
        self.leave()

    def leave(self) -> None:
        """Leave the session; the next use opens another one, as a server that was restarted demands."""
        if self._spark_session is None:
            return
        session: Any = self._spark_session
        self._spark_session = None
        if self._remote:
            try:
                _require_answer(self._remote)
            except MetersError:
                session.release_session_on_close = False  # it would wait for the server
            else:
                if SHARED_SESSION in self._remote:
                    # A server that was restarted knows no such session: there is nothing left to interrupt in it, and
                    # its error must not take the place of the one for which the session is left.
                    with suppress(PySparkException, RpcError, ValueError):
                        session.interruptTag(self._tag)
        with suppress(PySparkException, Py4JError, RpcError, ValueError):
            session.stop()


def _forget_session() -> None:
    """Leave the session that this process has at hand: PySpark keeps the one that it could not set up."""
    session: Any = ConnectSession.getActiveSession()
    if session is not None:
        session.release_session_on_close = False
        session.stop()


def require_spark(settings: Settings) -> None:
    """See that the Connect server answers, where there is to be one.

    Raises:
        ServiceAwayError: it does not.
    """
    if not settings.spark_master:
        _require_answer(settings.spark)


def _require_answer(remote: str) -> None:
    """Say at once that nobody listens there: the Connect client would try again for ten minutes.

    Raises:
        ServiceAwayError: nobody listens.
    """
    address = urlsplit(remote)
    try:
        port = address.port or SPARK_CONNECT_PORT
        socket.create_connection((address.hostname or "", port), timeout=ANSWER_WITHIN_SECONDS).close()
    except OSError as error:
        settings = load_settings()
        note = "" if settings.spark_remote else trouble_note(settings, "spark")
        raise ServiceAwayError(
            f"Spark does not answer at {address.hostname}:{address.port or SPARK_CONNECT_PORT}",
            fix=note or "Start the local stack with `meters up` or set METERS_SPARK_REMOTE",
        ) from error


def spark_settings(settings: Settings) -> dict[str, Any]:
    """A session's options: a Connect server (the local stack's, or METERS_SPARK_REMOTE), or METERS_SPARK_MASTER."""
    config: dict[str, Any] = {
        "spark.sql.session.timeZone": "UTC",  # every timestamp here is an instant; local days are made explicitly
        # As every reader of Parquet has it; Spark's own default is the deprecated INT96, which has no statistics.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        # A day's file stays open until its task ends: up to so many days need not be sorted to be written apart.
        "spark.sql.maxConcurrentOutputFileWriters": "40",
    }
    if settings.spark_master:
        config |= {
            "spark.master": settings.spark_master,
            "spark.jars": settings.spark_jars or "",
            "spark.driver.memory": settings.spark_memory,
            "spark.driver.host": "127.0.0.1",
            "spark.ui.enabled": "false",
            **spark_options(settings),
        }
    else:
        config["spark.remote"] = settings.spark_remote or f"{settings.spark}/;session_id={SHARED_SESSION}"
    return config


class MongoResource(dg.ConfigurableResource):
    """MongoDB of the settings in force; the URI stays out of run configuration, because it may hold a password."""

    _is_prepared: bool = PrivateAttr(default=False)

    @contextmanager
    def database(self) -> Iterator[Database]:
        """A connected database with its collections in place, closed afterwards.

        Raises:
            MetersError: MongoDB is away, or its days are those of another time zone.
        """
        settings = load_settings()
        database = connect(settings)
        try:
            if not self._is_prepared:  # once a run, not once an asset
                ensure_collections(database)
                keep_timezone(database, settings.timezone)
                self._is_prepared = True
            yield database
        finally:
            database.client.close()

    def read_readings(self, spark: SparkSession, *, start: datetime, end: datetime) -> DataFrame:
        """Stored readings in [start, end), whole seconds, columns of reading.STORED_SPARK_SCHEMA.

        The range is pushed down on `_id`, the cluster key, in slices of equal time: no partitioner has to sample.
        """
        step = timedelta(seconds=max(1, -(-int((end - start).total_seconds()) // READ_SLICES)))
        slices = []
        while start < end:
            until = min(start + step, end)
            low, high = reading_id_range(start, until)
            match = f'[{{"$match": {{"_id": {{"$gte": "{low}", "$lt": "{high}"}}}}}}]'
            slices.append(self._read(spark, READINGS, STORED_SPARK_SCHEMA, pipeline=match))
            start = until
        return reduce(DataFrame.union, slices)

    def read_meters(self, spark: SparkSession) -> DataFrame:
        """The registry, columns of registry.METER_SPARK_SCHEMA."""
        return self._read(spark, METERS, METER_SPARK_SCHEMA, pipeline="[]")

    @staticmethod
    def _read(spark: SparkSession, collection: str, schema: str, *, pipeline: str) -> DataFrame:
        settings = load_settings()
        return (
            spark.read.format("mongodb")
            .option("connection.uri", settings.mongo)
            .option("database", settings.mongo_database)
            .option("collection", collection)
            .option("partitioner", "com.mongodb.spark.sql.connector.read.partitioner.SinglePartitionPartitioner")
            .option("aggregation.pipeline", pipeline)
            .schema(schema)
            .load()
        )


@contextmanager
def service_errors(settings: Settings) -> Iterator[None]:
    """Say of an error of MongoDB, Spark or a disk whether it may pass: then the same work may succeed later.

    Raises:
        ServiceAwayError: MongoDB, Spark or the lake's object store does not answer, Spark has lost the session, or a
            disk is full.
        MetersError: one of them refuses.
    """
    try:
        yield
    except PyMongoError as error:
        raise mongo_failure(settings, error) from error
    except Exception as error:
        if full := full_disk(settings, error):
            raise full from error
        if not is_of_spark(error):
            raise
        connect(settings).client.close()  # Spark reads from it, too
        require_spark(settings)
        if settings.is_lake_in_s3:
            probe_store(settings)
        if spark_is_gone(error):
            raise ServiceAwayError(
                "Spark ended or lost this run's session, and answers again",
                fix="Try again; if it stays so, read Spark's log",
            ) from error
        raise


class LakeResource(dg.ConfigurableResource):
    """The lake of the settings in force."""

    _lake: Lake | None = PrivateAttr(default=None)

    def get(self) -> Lake:
        """The lake itself.

        Raises:
            MetersError: it is in an object store, and that cannot be used.
        """
        if self._lake is None:
            self._lake = open_lake(load_settings())
        return self._lake


class NoFiles(dg.ConfigurableIOManager):
    """In the place of Dagster's own one, which reads pickles from a folder that a run's configuration may name.

    Our steps hand on nothing by Dagster: what they make is in the lake and in MongoDB.
    """

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Take the nothing that a step returns."""
        if obj is not None:
            raise dg.Failure("A step returned a value; keep it in the lake or in MongoDB", allow_retries=False)

    def load_input(self, context: dg.InputContext) -> Any:
        """Refuse: nothing is kept."""
        raise dg.Failure("A step has an input; read it from the lake or from MongoDB", allow_retries=False)


def all_resources() -> dict[str, Any]:
    """Every resource of the code location, by the name that assets ask for."""
    return {
        "pyspark": SparkResource(),
        "mongo": MongoResource(),
        "lake": LakeResource(),
        "io_manager": NoFiles(),
    }
