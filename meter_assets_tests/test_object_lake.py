"""The lake in an object store, on an S3 server over HTTP: a day is replaced whole there, too, and by one at a time."""

import itertools
import os
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from pymongo.database import Database
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from meter_assets.lake import object_store
from meter_assets.lake.base import Lake
from meter_assets.lake.open import open_lake
from meter_assets_tests.days_support import Installation, electricity
from meter_assets_tests.lake_support import SCHEMA, values, write
from meter_assets_tests.s3_server import S3Address, S3Server
from meter_assets_tests.support import free_ports, meters
from metering.day_ledger import LocalDay, begin_days, hold_day, put_in_force, read_day
from metering.errors import MetersError, ServiceAwayError
from metering.settings import Settings, load_settings

FIRST, SECOND = date(2024, 5, 18), date(2024, 5, 19)
DAYS = ["2024-05-01", "2024-05-02"]
HOURS = (0, 7, 13, 19)


@pytest.fixture
def place(s3: S3Address, settings: Settings) -> Settings:
    """Settings with an empty lake in the session's bucket."""
    return s3.applied(settings, uuid.uuid4().hex)


@pytest.fixture
def lake(place: Settings) -> Lake:
    return open_lake(place)


@pytest.fixture
def city(installation: Installation, place: Settings) -> Installation:
    """Two days of readings; the second one has a water meter, too."""
    installation.choose(unknown_meters=False, lake=place.lake, s3_endpoint=place.s3_endpoint)
    installation.send(
        *(electricity("em1", f"{day}T{hour:02}:00:00.250Z", hour / 10) for day in DAYS for hour in HOURS),
        {"device_id": "wm1", "timestamp": "2024-05-02T07:00:00Z", "usage": 8, "flow_rate": 0.5, "register": 1e6},
    )
    return installation


def objects(lake: Lake, below: str = "") -> list[str]:
    """All objects of the lake, or of a folder in it; not the empty ones that stand for folders."""
    found = lake.files.get_file_info(fs.FileSelector(f"{lake.root}{below}", recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{lake.root}/") for info in found if info.is_file)


def test_a_day_is_one_object_and_replaced_whole(lake: Lake, spark: SparkSession):
    write(lake, spark, [(1, FIRST), (2, FIRST), (3, SECOND)], FIRST, SECOND)
    assert values(lake, spark, FIRST, SECOND) == [1, 2, 3]
    write(lake, spark, [(4, FIRST)], FIRST)
    assert values(lake, spark, FIRST, SECOND) == [3, 4]
    assert objects(lake) == [f"table/day={day}/readings.parquet" for day in (FIRST, SECOND)]
    assert lake.days("table") == [FIRST, SECOND]


def test_a_day_without_rows_goes_and_staging_with_it(lake: Lake, spark: SparkSession):
    write(lake, spark, [(1, FIRST)], FIRST)
    write(lake, spark, [], FIRST, SECOND)
    assert values(lake, spark, FIRST) == []
    assert lake.days("table") == []
    assert objects(lake) == []


def test_a_write_that_fails_leaves_the_day_and_no_staging(lake: Lake, spark: SparkSession):
    write(lake, spark, [(1, FIRST)], FIRST)
    rows = spark.createDataFrame([(2, FIRST), (3, FIRST)], SCHEMA)
    broken = rows.withColumn("value", F.when(F.col("value") == 3, F.raise_error(F.lit("no"))).otherwise(F.col("value")))
    with pytest.raises(PySparkException), lake.staged(broken.select("value", "day"), "table"):
        pass
    assert values(lake, spark, FIRST) == [1]
    assert objects(lake) == [f"table/day={FIRST}/readings.parquet"]


def test_a_day_too_large_to_be_replaced_in_one_step_is_refused(
    lake: Lake, spark: SparkSession, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(object_store, "MAX_COPIED_BYTES", 10)
    with pytest.raises(MetersError, match=f"readings of {FIRST} are one object.*no more than 5.*METERS_LAKE"):
        write(lake, spark, [(1, FIRST)], FIRST)
    assert objects(lake) == []


def test_a_reader_sees_the_old_day_or_the_new_one(lake: Lake, spark: SparkSession, s3: S3Address):
    """Both as Spark reads, which may fail when the day changes under it, and as whoever gets the object at once."""
    old, new = [(1, FIRST)] * 200, [(1000, FIRST)] * 100
    write(lake, spark, old, FIRST)
    client = boto3.client("s3", endpoint_url=s3.url, region_name="us-east-1")
    seen: list[int] = []
    by_spark: list[int] = []
    trouble: list[BaseException] = []
    is_over = threading.Event()

    def read() -> None:
        for attempt in itertools.count():
            if is_over.is_set():
                return
            try:
                if attempt % 4:
                    seen.append(sum(pq.read_table(pa.BufferReader(get(client, lake)))["value"].to_pylist()))
                else:
                    by_spark.append(sum(values(lake, spark, FIRST)))
            except PySparkException as error:
                if "RemoteFileChangedException" not in str(error):
                    trouble.append(error)
                    return
            except BaseException as error:
                trouble.append(error)
                return

    reader = threading.Thread(target=read)
    with (
        lake.staged(spark.createDataFrame(old, SCHEMA), "table") as one,
        lake.staged(spark.createDataFrame(new, SCHEMA), "table") as other,
    ):
        reader.start()
        began = time.monotonic()
        try:
            while not trouble and (elapsed := time.monotonic() - began) < 60:
                if elapsed > 5 and by_spark and len(set(seen)) > 1:
                    break
                for staged in (other, one):
                    lake.replace("table", FIRST, staged)
                    time.sleep(0.05)
        finally:
            is_over.set()
            reader.join()
    assert not trouble
    assert set(seen) == {200, 100_000}
    assert by_spark
    assert set(by_spark) <= {200, 100_000}


def get(client: Any, lake: Lake) -> bytes:
    """The first day's object, in one request."""
    bucket, _, key = lake.partition("table", FIRST).removeprefix("s3a://").partition("/")
    return client.get_object(Bucket=bucket, Key=key)["Body"].read()


def put(lake: Lake, database: Database, begun: LocalDay, staged: Any, *, pause_seconds: float = 0) -> None:
    """What a run does with a day when it is computed."""
    with lake.locked(database, "table", FIRST) as session:
        if read_day(database, FIRST, session).in_force("table").run > begun.run:
            return
        time.sleep(pause_seconds)
        lake.replace("table", FIRST, staged)
        time.sleep(pause_seconds)
        put_in_force(
            database, "table", begun, changes=0, rules={}, run_id=str(begun.run), at=datetime.now(UTC), session=session
        )


def test_of_runs_that_replace_a_day_at_once_the_later_one_stays(lake: Lake, spark: SparkSession, mongo: Database):
    begun = [begin_days(mongo, [FIRST])[FIRST] for _ in range(3)]
    rows = [(each.run, FIRST) for each in begun]
    staged = []
    for row in rows:
        staging = lake.staged(spark.createDataFrame([row], SCHEMA), "table")
        staged.append((staging, staging.__enter__()))
    runs = [
        threading.Thread(target=put, args=(lake, mongo, each, days), kwargs={"pause_seconds": 0.1})
        for each, (_, days) in reversed(list(zip(begun, staged, strict=True)))
    ]
    for run in runs:
        run.start()
        time.sleep(0.05)
    for run in runs:
        run.join()
    for staging, _ in staged:
        staging.__exit__(None, None, None)
    assert values(lake, spark, FIRST) == [begun[-1].run]
    assert read_day(mongo, FIRST).in_force("table").run == begun[-1].run


def test_a_hold_that_mongodb_gave_up_notes_nothing(mongo: Database):
    begun = begin_days(mongo, [FIRST])[FIRST]

    def note() -> None:
        with hold_day(mongo, FIRST) as session:
            put_in_force(mongo, "table", begun, changes=0, rules={}, run_id="x", at=datetime.now(UTC), session=session)
            mongo.client.admin.command("killSessions", [session.session_id])

    with pytest.raises(ServiceAwayError, match=f"gave up on {FIRST}"):
        note()
    assert read_day(mongo, FIRST).in_force("table").run == 0
    with hold_day(mongo, FIRST):  # nobody has it any more
        pass


def test_days_are_those_of_a_lake_in_a_folder(city: Installation, tmp_path: Path):
    """All that a day goes through, with the same figures; materialized again, pruned, and brought back."""
    city.run("backfill", DAYS[0], DAYS[-1])
    derived = city.derived()
    assert {each["readings"] for each in derived["daily_averages"].values()} == {4, 1}
    in_store = open_lake(city.settings)
    assert objects(in_store) == [f"raw_readings/day={day}/readings.parquet" for day in DAYS]
    found = table(city)

    city.run("backfill", DAYS[0], DAYS[-1])
    listed = [(each["day"], each["files"], each["rows"]) for each in city.run("lake")]
    assert listed == [(DAYS[0], 1, 4), (DAYS[1], 1, 5)]
    assert city.derived() == derived
    assert table(city).equals(found)

    assert city.run("lake", "compact") == []
    assert [each["day"] for each in city.run("lake", "prune", "--before", DAYS[1])] == DAYS[:1]
    assert objects(in_store) == [f"raw_readings/day={DAYS[1]}/readings.parquet"]

    city.choose(lake="s3a://no-such-bucket/lake")
    refused = meters(city.settings, "backfill", DAYS[0])
    assert refused.returncode == 1
    assert "has no bucket no-such-bucket" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr

    in_folder = str(tmp_path / "lake")
    city.choose(lake=in_folder)
    city.run("backfill", DAYS[0], DAYS[-1])
    assert city.derived() == derived  # to the moment since when they have stood
    columns = [column for column in found.columns if column != "day"]
    pd.testing.assert_frame_equal(in_order(pd.read_parquet(f"{in_folder}/raw_readings"))[columns], found[columns])


def table(city: Installation) -> pd.DataFrame:
    """All readings as pandas and, equally, Polars read them from the store."""
    lake = open_lake(city.settings)
    pandas = pd.read_parquet(f"{lake.root}/raw_readings", filesystem=lake.files)
    options = {"aws_endpoint_url": city.settings.s3_endpoint or "", "aws_allow_http": "true", "aws_region": "us-east-1"}
    url = f"{city.settings.lake_path}/raw_readings/*/*.parquet"
    polars = pl.read_parquet(url, hive_partitioning=True, storage_options=options)
    assert len(polars) == len(pandas)
    assert polars["usage_kwh"].sum() == pytest.approx(pandas["usage_kwh"].sum())
    assert {str(day) for day in polars["day"]} == {str(day) for day in pandas["day"]}
    return in_order(pandas)


def in_order(readings: pd.DataFrame) -> pd.DataFrame:
    return readings.sort_values(["timestamp", "device_id"]).reset_index(drop=True)


@pytest.fixture
def refusing(settings: Settings) -> Iterator[S3Address]:
    address = S3Address()
    with S3Server(address, refuses=True):
        yield address


def test_each_trouble_is_one_line(place: Settings, settings: Settings, monkeypatch: pytest.MonkeyPatch):
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    troubles = [
        ({"lake": "s3a://no-such-bucket/lake"}, MetersError, "has no bucket no-such-bucket.*METERS_LAKE"),
        ({"s3_endpoint": nobody}, ServiceAwayError, f"does not answer at {nobody[7:]}.*AWS_ENDPOINT_URL"),
    ]
    for changes, kind, says in troubles:
        with pytest.raises(kind, match=says) as told:
            open_lake(place.model_copy(update=changes))
        assert "\n" not in str(told.value)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(MetersError, match="AWS_SECRET_ACCESS_KEY is not set.*in the environment"):
        open_lake(place)


def test_keys_that_the_store_refuses_are_told_and_not_shown(refusing: S3Address, settings: Settings, tmp_path: Path):
    chosen = refusing.applied(settings, "lake")
    with pytest.raises(MetersError, match="refuses the keys.*AWS_ACCESS_KEY_ID"):
        open_lake(chosen)
    for command in (["lake"], ["doctor"]):
        answer = meters(chosen.model_copy(update={"cache_dir": tmp_path}), *command)
        assert answer.returncode == 1
        said = answer.stdout + answer.stderr
        assert "refuses the keys" in said, said
        assert "Traceback" not in said
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in said
    assert f"Jars are missing from {tmp_path}" in said


@pytest.mark.parametrize("url", ["s3://bucket/lake", "s3a://key:s3cret@bucket/lake", "hdfs://host/lake", "s3a://"])
def test_a_lake_that_is_neither_folder_nor_bucket_is_refused(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("METERS_LAKE", url)
    load_settings.cache_clear()
    with pytest.raises(MetersError, match="METERS_LAKE is not usable.*s3a://bucket/prefix") as told:
        load_settings()
    load_settings.cache_clear()
    assert "s3cret" not in str(told.value)


def test_keys_stand_in_no_process_arguments_nor_logs(stack: Any, settings: Settings, store: S3Address):
    """Also of Spark, which has them. It comes last, when Spark has used them."""
    arguments = " ".join(part for process in psutil.process_iter(["cmdline"]) for part in process.info["cmdline"] or ())
    assert "SparkConnectServer" in arguments
    assert store.url in arguments
    logs = [log.read_text(errors="replace") for log in (settings.home / "logs").glob("*.log")]
    for text in (arguments, *logs):
        assert store.secret not in text
        assert store.key not in text
