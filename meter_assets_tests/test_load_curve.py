"""The picture of a day's load: an image of the type's own shape, for days of 23 to 25 hours."""

import base64
import io
from datetime import UTC, date, datetime, timedelta

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from meter_assets.figures.day_figures import DayFigures
from meter_assets.figures.load_curve import load_curve
from metering.meter_types import METER_TYPES

START = datetime(2016, 10, 29, 22, tzinfo=UTC)


def figures(hours: int, *types: str, usage: float | None = 1.0) -> DayFigures:
    profile = [{"meter_type": each, "hour": hour, "usage": usage} for each in types for hour in range(hours)]
    return DayFigures(date(2016, 10, 30), START, START + timedelta(hours=hours), profile)


def pixels(markdown: str):
    encoded = markdown.removeprefix("![load curve](data:image/png;base64,").removesuffix(")")
    return imread(io.BytesIO(base64.b64decode(encoded)), format="png")


@pytest.mark.parametrize("hours", [23, 24, 25])
def test_each_meter_type_has_its_picture(hours: int):
    one = pixels(load_curve(figures(hours, "water")))
    both = pixels(load_curve(figures(hours, "water", "electricity")))
    assert both.shape[1] == pytest.approx(2 * one.shape[1], abs=2)
    bars = {name: to_rgb(row.colour) for name, row in METER_TYPES.items()}
    for picture, drawn in ((one, {"water"}), (both, {"water", "electricity"})):
        assert {name for name, colour in bars.items() if (abs(picture[..., :3] - colour) < 0.01).all(-1).any()} == drawn


def test_another_shape_is_another_picture():
    flat = figures(24, "water")
    peaked = DayFigures(flat.day, flat.start, flat.end, [{**hour, "usage": hour["hour"]} for hour in flat.profile])
    assert load_curve(flat) != load_curve(peaked)
    assert load_curve(flat) == load_curve(figures(24, "water"))


def test_a_day_without_healthy_readings_has_none():
    assert load_curve(figures(24)) == ""
    assert load_curve(figures(24, "water", usage=None)) == ""
