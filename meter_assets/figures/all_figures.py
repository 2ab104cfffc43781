"""All daily figures, in the order of metering/daily_tables.py: each is `FIGURE` in the module of its table's name."""

from collections.abc import Mapping
from importlib import import_module

from meter_assets.figures import raw_readings
from meter_assets.figures.figure import DailyFigure
from metering.daily_tables import DAILY_TABLES

FIGURES: Mapping[str, DailyFigure] = {
    name: import_module(f"meter_assets.figures.{name}").FIGURE for name in DAILY_TABLES
}

CHECKS = (*raw_readings.CHECKS, *(check for figure in FIGURES.values() for check in figure.checks))
"""All checks of a day."""
