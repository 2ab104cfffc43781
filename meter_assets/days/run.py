"""A run's work on local days: stage the readings, compute the figures, check them, and publish each day.

Each step has a module of its own: stage.py, compute.py, ../figures and publish.py.
"""

import time
from collections.abc import Iterable, Sequence
from datetime import date

import dagster as dg
from pymongo.database import Database

from meter_assets.days import up_to_date
from meter_assets.days.compute import computed_days
from meter_assets.days.dead_runs import note_process
from meter_assets.days.publish import publish_whole_day
from meter_assets.days.revisions import Edition
from meter_assets.days.stage import Staged, staged_readings
from meter_assets.days.stores import Stores, again_when_away
from meter_assets.figures.all_figures import CHECKS, FIGURES
from meter_assets.figures.check import Verdict
from meter_assets.figures.day_figures import DayFigures
from metering.calendar import Day
from metering.daily_tables import RAW_READINGS
from metering.day_ledger import LocalDay, begin_days, finished_days, read_day
from metering.fault_rules import rules_in_force
from metering.settings import Settings, load_settings

DAYS_AT_ONCE = 31
"""Days of one Spark query: enough that its fixed costs vanish, and no more, so that memory stays with long ranges."""


def materialize_days(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    days: Iterable[Day],
    assets: Iterable[str],
    stores: Stores,
) -> None:
    """Compute assets of days and publish each day as a whole; the run's log has every finished day.

    A run that is interrupted keeps the days that are finished; the one that it was publishing says `publishing` until
    another run has finished it (late_readings_sensor starts one). A service that does not answer is worth a retry of
    the step, which goes on with the days that are left; a day whose invariants do not hold is not.

    Args:
        context: of the step; its run is said to have computed the days.
        days: in any order.
        assets: names out of daily_tables.DAILY_ASSETS.
        stores: where the days come from and go to.

    Raises:
        dagster.RetryRequested: a service is away.
        dagster.Failure: days whose invariants do not hold; they are unchanged, and the others are published.
    """
    work = _DayWork(context, frozenset(assets), stores, load_settings())
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


class _DayWork:
    def __init__(
        self,
        context: dg.OpExecutionContext | dg.AssetExecutionContext,
        assets: frozenset[str],
        stores: Stores,
        settings: Settings,
    ) -> None:
        self.forbidden: list[date] = []
        self._context = context
        self._assets = assets
        self._stores = stores
        self._settings = settings
        self._rules = rules_in_force(unknown_meters=settings.unknown_meters)

    def run(self, days: Sequence[Day]) -> None:
        for name in self._assets & FIGURES.keys():
            FIGURES[name].prepare()
        with self._stores.mongo.database() as database:
            finished = finished_days(database, [day.date for day in days], self._assets, self._context.run_id)
            left = [day for day in days if day.date not in finished]
            for first in range(0, len(left), DAYS_AT_ONCE):
                self._some_days(database, left[first : first + DAYS_AT_ONCE])

    def _some_days(self, database: Database, days: Sequence[Day]) -> None:
        started = time.monotonic()
        dates = [day.date for day in days]
        begun = begin_days(database, dates)  # before anything is read: what comes later is seen to come later
        with staged_readings(days, begun.values(), self._assets, self._stores, self._settings) as staged:
            spark = self._stores.pyspark.spark_session
            meters = self._stores.mongo.read_meters(spark)
            for figures in computed_days(spark, staged.readings, meters, days, self._assets, self._rules):
                self._finish(database, figures, begun[figures.day], staged)
        self._context.log.info(f"{dates[0]} to {dates[-1]}: {len(days):,} days in {time.monotonic() - started:.1f} s")

    def _finish(self, database: Database, figures: DayFigures, begun: LocalDay, staged: Staged) -> None:
        """Check the day, publish it unless an invariant forbids it, and log both."""
        chosen = {*self._assets, RAW_READINGS}  # the readings are checked whatever is computed from them
        checks = [check for check in CHECKS if check.asset in chosen]
        verdicts = [Verdict(check, check.look(figures, database, self._settings)) for check in checks]
        if any(verdict.forbids for verdict in verdicts):
            self.forbidden.append(figures.day)
        else:
            changes = begun.changes if staged.days else begun.in_force(RAW_READINGS).changes
            rules = {rule.id: rule.version for rule in self._rules}
            edition = Edition(day=begun, changes=changes, rules=rules, run_id=self._context.run_id)
            publish_whole_day(self._context, database, self._stores, figures, edition, staged.days, self._assets)
        for verdict in verdicts:  # after the materialization that it speaks of
            self._evaluated(verdict.evaluation(figures))
        if up_to_date.ASSET in self._assets:
            self._evaluated(up_to_date.evaluation(read_day(database, figures.day)))

    def _evaluated(self, evaluation: dg.AssetCheckEvaluation) -> None:
        self._context.log_event(evaluation)  # pyright: ignore[reportArgumentType] (it takes them)
