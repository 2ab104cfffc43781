"""The house: who may import whom, and what a daily figure and a meter type are made of."""

import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from meter_assets.figures.all_figures import CHECKS, FIGURES
from metering.daily_tables import DAILY_ASSETS, DAILY_TABLES, RAW_READINGS
from metering.meter_types import METER_TYPES
from metering.reading import FIELDS
from metering.store import ensure_collections
from streaming.simulator.meter_model import BEHAVIOURS

ROOT = Path(__file__).parents[1]


def test_nobody_imports_what_stands_above_or_beside_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (
        lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True) == EXIT_STATUS_SUCCESS
    )


def test_each_daily_table_is_a_figure_of_the_module_with_its_name():
    assert list(FIGURES) == list(DAILY_TABLES)
    for name, figure in FIGURES.items():
        assert figure is import_module(f"meter_assets.figures.{name}").FIGURE
        assert figure.table is DAILY_TABLES[name]
    assert {check.asset for check in CHECKS} <= set(DAILY_ASSETS)
    assert (RAW_READINGS, *FIGURES) == DAILY_ASSETS


def test_ingest_creates_the_collections_of_the_daily_tables(mongo):
    ensure_collections(mongo)
    for name, table in DAILY_TABLES.items():
        keys = {tuple(index["key"]) for index in mongo[name].index_information().values()}
        assert {(("calculation_date", 1),), *table.indexes} <= keys


@pytest.mark.parametrize("name", METER_TYPES)
def test_the_row_of_a_meter_type_fits_together(name):
    row = METER_TYPES[name]
    fields = {field.name for field in FIELDS[name]}
    assert row.fault_field in {amount.name for amount in row.amounts}
    assert {amount.name for amount in row.amounts} <= fields
    assert (row.rate is None) == (row.mean_rate_column is None)
    first = row.units[0]
    assert (first.name, first.numerator / first.denominator, first.averaged) == (row.unit, 1, False)
    assert row.meter_type in BEHAVIOURS
    columns = {column.name for table in DAILY_TABLES.values() for column in table.columns}
    assert {row.total_column, row.mean_column} <= columns


def test_no_two_meter_types_share_what_tells_them_apart():
    rows = METER_TYPES.values()
    for chosen in (
        lambda row: row.usage.name,
        lambda row: row.total_column,
        lambda row: row.device_prefix,
        lambda row: row.colour,
    ):
        assert len({chosen(row) for row in rows}) == len(rows)


def test_every_package_is_installed_checked_and_in_the_image():
    """The image had no webguard: a list of folders had been forgotten."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    packages = {pattern.removesuffix("*") for pattern in project["setuptools"]["packages"]["find"]["include"]}
    folders = {file.parent.name for file in ROOT.glob("*/__init__.py")} - {"meter_assets_tests"}
    assert packages == folders == set(project["importlinter"]["root_packages"])
    assert folders <= set(project["pyright"]["include"])
    image = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert folders <= image
