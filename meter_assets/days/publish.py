"""Publish: replace a day's readings in the lake and its figures in MongoDB, and report each to Dagster."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pymongo.database import Database

from meter_assets.days.revisions import Edition, Published, publish_day
from meter_assets.days.stores import Stores
from meter_assets.figures import raw_readings
from meter_assets.figures.all_figures import FIGURES
from meter_assets.figures.day_figures import DayFigures
from meter_assets.lake.base import StagedDays
from metering.daily_tables import RAW_READINGS
from metering.day_ledger import put_in_force, read_day
from metering.process_identity import own_process
from metering.publishing import Publishing, begin_publishing, end_publishing


def publish_whole_day(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    database: Database,
    stores: Stores,
    figures: DayFigures,
    edition: Edition,
    staged: StagedDays | None,
    assets: Collection[str],
) -> None:
    """Replace the day's readings and figures one after another; in between the day says `publishing`.

    Args:
        context: of the step, whose log gets a materialization for each asset.
        database: where the figures go.
        stores: where the readings go.
        figures: the day.
        edition: whose work it is.
        staged: the readings that replace those in the lake; None leaves them.
        assets: names out of daily_tables.DAILY_ASSETS.
    """
    run = edition.day.run
    mark = Publishing(run, edition.run_id, own_process(), datetime.now(UTC), tuple(assets))
    begin_publishing(database, figures.day, mark)
    if staged:
        metadata = _replace_readings(context, database, stores, figures, edition, staged)
        _materialized(context, RAW_READINGS, figures, {**raw_readings.describe(figures), **metadata})
    for name, figure in FIGURES.items():
        if name in assets:
            published = publish_day(database, name, figures.documents[name], edition)
            _materialized(context, name, figures, {**figure.describe(figures), **_counts(published)})
    end_publishing(database, figures.day, run=run, assets=assets)


def _replace_readings(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    database: Database,
    stores: Stores,
    figures: DayFigures,
    edition: Edition,
    staged: StagedDays,
) -> Mapping[str, Any]:
    lake = stores.lake.get()
    with lake.locked(database, RAW_READINGS, figures.day) as session:
        if outdated := read_day(database, figures.day, session).in_force(RAW_READINGS).run > edition.day.run:
            context.log.warning(f"{figures.day}: the readings of a run that began later are in the lake")
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


def _materialized(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    asset: str,
    figures: DayFigures,
    metadata: Mapping[str, Any],
) -> None:
    # A day of a clock change is recognised by its number of hours.
    context.log_event(
        dg.AssetMaterialization(
            asset_key=asset, partition=figures.day.isoformat(), metadata={**metadata, "hours": figures.hours}
        )
    )


def _counts(published: Published) -> dict[str, Any]:
    numbers = {"documents": published.documents, "changed": published.changed, "removed": published.removed}
    return {**numbers, "outdated": True} if published.is_outdated else numbers
