"""The work on local days: stage, compute, check, put in force; day by day, a limited number of days at a time."""

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import reduce
from typing import Any

import dagster as dg
from pymongo.database import Database
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from meter_assets import columns, load_curve, up_to_date
from meter_assets.checks import audit
from meter_assets.day_figures import DayFigures, Document
from meter_assets.dead_runs import note_process
from meter_assets.describe import describe
from meter_assets.lake import RAW_READINGS_SCHEMA, StagedDays
from meter_assets.publish import Edition, Published, publish_day
from meter_assets.resources import LakeResource, MongoResource, SparkResource, service_errors
from meter_assets.transforms import readings as transforms
from meter_assets.transforms.abnormal import abnormal_device_summary
from meter_assets.transforms.averages import daily_averages
from meter_assets.transforms.consumption import daily_consumption
from meter_assets.transforms.profile import hourly_profile
from metering.errors import ServiceAwayError
from metering.faults import rules_in_force
from metering.local_days import LocalDay, begin_days, finished_days, put_in_force, read_day
from metering.processes import own_process
from metering.publishing import Publishing, begin_publishing, end_publishing
from metering.settings import Settings, load_settings
from metering.store import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION, RAW_READINGS

DAYS_AT_ONCE = 31
"""Days of one Spark query: enough that its fixed costs vanish, and no more, so that memory stays with long ranges."""

RETRIES = 3
FIRST_RETRY_SECONDS = 10

PROFILE = "hourly_profile"

INSTANTS = {PROFILE: ("first_at", "last_at"), ABNORMAL_DEVICE_SUMMARY: ("first_fault_at", "last_fault_at")}
"""Columns that hold an instant. Asking Spark for the types would cost it an analysis of each plan."""


@dataclass(frozen=True)
class Stores:
    """Where days come from and go to."""

    pyspark: SparkResource
    mongo: MongoResource
    lake: LakeResource


def materialize_days(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    days: Iterable[transforms.Day],
    assets: Iterable[str],
    stores: Stores,
) -> None:
    """Compute assets of days and put them in force, each day as a whole; every finished day is noted in the run's log.

    A run that is interrupted keeps the days that are finished; the one that it was publishing says `publishing` until
    another run has finished it (late_readings_sensor starts one). A service that does not answer is worth a retry of
    the step, which goes on with the days that are left; a day whose invariants do not hold is not.

    Args:
        context: of the step; its run is said to have computed the days.
        days: in any order.
        stores: where the days come from and go to.
        assets: names out of local_days.DAILY_ASSETS.

    Raises:
        dagster.RetryRequested: a service is away.
        dagster.Failure: days whose invariants do not hold; they are as they were, and the others are in force.
    """
    work = _DayWork(context, frozenset(assets), stores)
    days = sorted(set(days))
    note_process(context.instance, context.run_id)
    with again_when_away(context, stores):
        work.run(days)
    if work.forbidden:
        days_named = ", ".join(str(day) for day in work.forbidden[:5])
        raise dg.Failure(
            f"{len(work.forbidden):,} of {len(days):,} days stay as they were, because invariants do not hold: "
            f"{days_named}. "
            "Look at their failed checks",
            allow_retries=False,
        )


@contextmanager
def again_when_away(context: dg.OpExecutionContext | dg.AssetExecutionContext, stores: Stores) -> Iterator[None]:
    """Have Dagster try the step again, RETRIES times, when a service does not answer.

    Raises:
        dagster.RetryRequested: a service is away.
    """
    try:
        with service_errors(load_settings()):
            yield
    except ServiceAwayError as error:
        stores.pyspark.leave()
        wait = FIRST_RETRY_SECONDS * 2**context.retry_number
        context.log.warning(f"{error} (again in {wait} s)" if context.retry_number < RETRIES else str(error))
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error


class _DayWork:
    def __init__(
        self, context: dg.OpExecutionContext | dg.AssetExecutionContext, assets: frozenset[str], stores: Stores
    ) -> None:
        self.forbidden: list[date] = []
        self._context = context
        self._assets = assets
        self._stores = stores
        self._settings: Settings = load_settings()
        self._rules = rules_in_force(unknown_meters=self._settings.unknown_meters)

    def run(self, days: Sequence[transforms.Day]) -> None:
        if DAILY_AVERAGES in self._assets:
            load_curve.prepare()
        with self._stores.mongo.database() as database:
            finished = finished_days(database, [day for day, _, _ in days], self._assets, self._context.run_id)
            left = [day for day in days if day[0] not in finished]
            for first in range(0, len(left), DAYS_AT_ONCE):
                self._some_days(database, left[first : first + DAYS_AT_ONCE])

    def _some_days(self, database: Database, days: Sequence[transforms.Day]) -> None:
        started = time.monotonic()
        dates = [day for day, _, _ in days]
        begun = begin_days(database, dates)  # before anything is read: what comes later is seen to come later
        with ExitStack() as stack:
            spark, lake = self._stores.pyspark.spark_session, self._stores.lake.get()
            staged: StagedDays | None = None
            if RAW_READINGS in self._assets:
                staged = stack.enter_context(lake.staged(self._stored_readings(days), RAW_READINGS))
                readings = staged.read(spark, RAW_READINGS_SCHEMA, dates)
            else:
                _require_readings(begun.values())
                readings = lake.read(spark, RAW_READINGS, RAW_READINGS_SCHEMA, dates)
            for figures in self._figures(readings, days):
                self._finish(database, figures, begun[figures.day], staged)
        self._context.log.info(f"{dates[0]} to {dates[-1]}: {len(days):,} days in {time.monotonic() - started:.1f} s")

    def _stored_readings(self, days: Sequence[transforms.Day]) -> DataFrame:
        spark, mongo = self._stores.pyspark.spark_session, self._stores.mongo
        spans = [mongo.read_readings(spark, start=start, end=end) for start, end in _spans(days)]
        frame = transforms.stored(reduce(DataFrame.union, spans)).withColumn(
            "day", transforms.local_day("timestamp", self._settings.timezone)
        )
        return frame.select(*[column.name for column in columns.RAW_READINGS.columns])

    def _figures(self, readings: DataFrame, days: Sequence[transforms.Day]) -> Iterator[DayFigures]:
        """The figures of each of the days, in their order, one day in memory at a time."""
        spark = self._stores.pyspark.spark_session
        meters = self._stores.mongo.read_meters(spark)
        judged = transforms.judged(readings, meters, self._rules)
        bounds = transforms.days_frame(spark, days)
        # Kept while the query runs: each use of it would otherwise be computed from the readings anew.
        device_days = transforms.device_days(judged, meters, bounds).persist()
        try:
            frames = {
                PROFILE: hourly_profile(judged, bounds),
                DAILY_AVERAGES: daily_averages(judged, device_days),
                ABNORMAL_DEVICE_SUMMARY: abnormal_device_summary(judged, meters),
                DAILY_CONSUMPTION: daily_consumption(device_days),
            }
            wanted = {name: frame for name, frame in frames.items() if name in self._assets or name == PROFILE}
            by_day = _documents_by_day(wanted)
            found = next(by_day, None)
        finally:
            # Its rows are sorted: with the first one, all is computed. Later the staged days are no longer there, and
            # Spark would look for them to find out what it is to forget.
            device_days.unpersist()
        for day, start, end in days:
            documents: dict[str, list[Document]] = {}
            if found and found[0] == day:  # a day that has none still replaces what was published before
                documents, found = found[1], next(by_day, None)
            profile = documents.pop(PROFILE, [])
            yield DayFigures(day, start, end, profile, {name: documents.get(name, []) for name in wanted})

    def _finish(self, database: Database, figures: DayFigures, begun: LocalDay, staged: StagedDays | None) -> None:
        """Check the day; put it in force, unless an invariant forbids it; say both in the run's log."""
        verdicts = audit(figures, self._assets, database, self._settings)
        forbidden = any(verdict.forbids for verdict in verdicts)
        if forbidden:
            self.forbidden.append(figures.day)
        else:
            self._put_in_force(database, figures, begun, staged)
        for verdict in verdicts:  # after the materialization that it speaks of
            self._evaluated(verdict.evaluation(figures))
        if DAILY_AVERAGES in self._assets:
            self._evaluated(up_to_date.evaluation(read_day(database, figures.day)))

    def _put_in_force(
        self, database: Database, figures: DayFigures, begun: LocalDay, staged: StagedDays | None
    ) -> None:
        changes = begun.changes if staged else begun.in_force(RAW_READINGS).changes
        rules = {rule.id: rule.version for rule in self._rules}
        edition = Edition(day=begun, changes=changes, rules=rules, run_id=self._context.run_id)
        mark = Publishing(begun.run, edition.run_id, own_process(), datetime.now(UTC), tuple(self._assets))
        begin_publishing(database, figures.day, mark)
        if staged:
            metadata = self._replace_readings(database, figures, edition, staged)
            self._materialized(RAW_READINGS, figures, metadata)
        for asset in (DAILY_AVERAGES, ABNORMAL_DEVICE_SUMMARY, DAILY_CONSUMPTION):
            if asset in self._assets:
                published = publish_day(database, asset, figures.documents[asset], edition)
                self._materialized(asset, figures, _published_metadata(published))
        end_publishing(database, figures.day, run=begun.run, assets=self._assets)

    def _replace_readings(
        self, database: Database, figures: DayFigures, edition: Edition, staged: StagedDays
    ) -> Mapping[str, Any]:
        lake = self._stores.lake.get()
        with lake.locked(database, RAW_READINGS, figures.day) as session:
            if outdated := read_day(database, figures.day, session).in_force(RAW_READINGS).run > edition.day.run:
                self._context.log.warning(f"{figures.day}: the readings of a run that began later are in the lake")
            else:
                lake.replace(RAW_READINGS, figures.day, staged)
                put_in_force(
                    database,
                    RAW_READINGS,
                    edition.day,
                    changes=edition.changes,
                    rules={},
                    run_id=edition.run_id,
                    at=datetime.now(UTC),
                    session=session,
                )
        place = lake.partition(RAW_READINGS, figures.day)
        return {"folder": dg.MetadataValue.path(place)} | ({"outdated": True} if outdated else {})

    def _evaluated(self, evaluation: dg.AssetCheckEvaluation) -> None:
        self._context.log_event(evaluation)  # pyright: ignore[reportArgumentType] (it takes them)

    def _materialized(self, asset: str, figures: DayFigures, metadata: Mapping[str, Any]) -> None:
        self._context.log_event(
            dg.AssetMaterialization(
                asset_key=asset,
                partition=figures.day.isoformat(),
                metadata={**describe(asset, figures), **metadata},
            )
        )


def _published_metadata(published: Published) -> dict[str, Any]:
    numbers = {"documents": published.documents, "changed": published.changed, "removed": published.removed}
    return {**numbers, "outdated": True} if published.is_outdated else numbers


def _require_readings(days: Iterable[LocalDay]) -> None:
    """See that the days' readings are in the lake: a day that is not there must not pass for one without readings.

    Raises:
        dagster.Failure: of some day they are not.
    """
    absent = [day.day for day in days if not day.in_force(RAW_READINGS).run]
    if absent:
        raise dg.Failure(
            f"The readings of {len(absent):,} days are not in the lake, the first {absent[0]}: "
            "select raw_readings, too, or launch meters backfill",
            allow_retries=False,
        )


def _spans(days: Sequence[transforms.Day]) -> Iterator[tuple[datetime, datetime]]:
    """Contiguous days joined: [start, end) of each."""
    spans: list[tuple[datetime, datetime]] = []
    for _, start, end in days:
        if spans and spans[-1][1] == start:
            start = spans.pop()[0]
        spans.append((start, end))
    yield from spans


def _documents_by_day(frames: Mapping[str, DataFrame]) -> Iterator[tuple[date, dict[str, list[Document]]]]:
    """Documents of all frames in the order of days, one day in memory at a time.

    One query for all of them: what they have in common is computed once, and its fixed costs are paid once.
    """
    parts = [_as_json(name, frame) for name, frame in frames.items()]
    # One partition, sorted: a global sort would run most of the plan a second time to sample its ranges.
    rows = reduce(DataFrame.union, parts).repartition(1).sortWithinPartitions("day", "frame", "id").toLocalIterator()
    for day, of_day in itertools.groupby(rows, key=lambda row: row["day"]):
        documents: dict[str, list[Document]] = {}
        for row in of_day:
            document = json.loads(row["document"])
            for column in INSTANTS.get(row["frame"], ()):
                document[column] = datetime.fromtimestamp(document[column] / 1000, UTC)
            documents.setdefault(row["frame"], []).append(document)
        yield date.fromisoformat(day), documents


def _as_json(name: str, frame: DataFrame) -> DataFrame:
    # Instants travel as numbers: as text they would come in the session's zone. Doubles survive JSON bit by bit.
    for column in INSTANTS.get(name, ()):
        frame = frame.withColumn(column, F.unix_millis(column))
    return frame.select(
        F.col("calculation_date").alias("day"),
        F.lit(name).alias("frame"),
        F.col("_id").alias("id"),
        F.to_json(F.struct("*"), {"ignoreNullFields": "false"}).alias("document"),
    )
