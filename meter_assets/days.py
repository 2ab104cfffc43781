"""What every daily asset does around its transform: read the days in question, publish day by day, tell the UI."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any

import dagster as dg
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from meter_assets.lake import RAW_READINGS, RAW_READINGS_SCHEMA
from meter_assets.partitions import days_between
from meter_assets.publish import publish_day
from meter_assets.resources import LakeResource, MongoResource, SparkResource
from meter_assets.transforms import readings as transforms
from metering.faults import rules_in_force
from metering.settings import load_settings

Document = dict[str, Any]
DayMetadata = Callable[[list[Document]], dict[str, Any]]
"""Numbers about one day's documents, for the UI to plot."""


@dataclass
class DayRange:
    """The local days of a run, and the frames that daily transforms start from, each built when first used."""

    context: dg.AssetExecutionContext
    pyspark: SparkResource
    mongo: MongoResource
    lake: LakeResource

    @cached_property
    def days(self) -> list[transforms.Day]:
        """The days, with their UTC bounds."""
        return days_between(self.context.partition_time_window)

    @cached_property
    def readings(self) -> DataFrame:
        """Judged readings of the days."""
        dates = [day for day, _, _ in self.days]
        lake = self.lake.get().read(self.pyspark.spark_session, RAW_READINGS, RAW_READINGS_SCHEMA, dates)
        rules = rules_in_force(unknown_meters=load_settings().unknown_meters)
        return transforms.judged(lake, self.meters, rules)

    @cached_property
    def meters(self) -> DataFrame:
        """The registry."""
        return self.mongo.read_meters(self.pyspark.spark_session)

    @cached_property
    def device_days(self) -> DataFrame:
        """One row per meter and day."""
        days = transforms.days_frame(self.pyspark.spark_session, self.days)
        return transforms.device_days(self.readings, self.meters, days)

    def publish(self, frame: DataFrame, collection: str, describe: DayMetadata) -> None:
        """Publish the documents of `frame` day by day, and attach each day's metadata to its partition."""
        by_day = _documents_by_day(frame)
        with self.mongo.database() as database:
            found = next(by_day, None)
            for day, _, _ in self.days:
                documents: list[Document] = []  # a day that has none still replaces what was published before
                if found and found[0] == day:
                    documents, found = found[1], next(by_day, None)
                published = publish_day(database[collection], day, documents)
                metadata = {**describe(documents), "documents": published.documents, "changed": published.changed}
                add_day_metadata(self.context, day, metadata)


def add_day_metadata(context: dg.AssetExecutionContext, day: date, metadata: dict[str, Any]) -> None:
    """Attach metadata to one partition of the asset being materialized, also in a run over many."""
    context.add_asset_metadata(metadata, partition_key=day.isoformat())


def _documents_by_day(frame: DataFrame) -> Iterator[tuple[date, list[Document]]]:
    """Documents of the frame in the order of days, one day in memory at a time."""
    # Instants travel as numbers: a collected timestamp would come in the zone of whatever machine this runs on.
    instants = [name for name, kind in frame.dtypes if kind == "timestamp"]
    columns = [F.unix_millis(name).alias(name) if name in instants else name for name in frame.columns]
    # One partition, sorted: a global sort would run most of the plan a second time to sample its ranges.
    rows = frame.select(*columns).repartition(1).sortWithinPartitions("_id").toLocalIterator()
    documents = (_document(row.asDict(recursive=True), instants) for row in rows)
    for day, group in itertools.groupby(documents, key=lambda document: document["calculation_date"]):
        yield date.fromisoformat(day), list(group)


def _document(document: Document, instants: list[str]) -> Document:
    for name in instants:
        document[name] = datetime.fromtimestamp(document[name] / 1000, UTC)
    return document
