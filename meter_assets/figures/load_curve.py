"""The day's load curve per meter type, as a picture that the UI shows."""

import base64
import io
from collections import defaultdict
from importlib import import_module
from threading import Thread

from meter_assets.figures.day_figures import DayFigures
from metering.meter_types import METER_TYPES


def prepare() -> None:
    """Load the drawing library, which takes half a second, in the background: Spark has to be waited for anyway."""
    Thread(target=import_module, args=("matplotlib.figure",), daemon=True).start()


def load_curve(figures: DayFigures) -> str:
    """Markdown with a picture: consumption of healthy readings in each hour since midnight, in the meter type's unit.

    An empty string where the day has no healthy reading. A day of a clock change has 23 or 25 hours.
    """
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for hour in figures.profile:
        if hour["usage"] is not None:
            curves[hour["meter_type"]][hour["hour"]] = hour["usage"]
    if not curves:
        return ""
    from matplotlib.figure import Figure  # see prepare

    # Without pyplot: it keeps figures for ever, and asks for a screen.
    picture = Figure(figsize=(4.6 * len(curves), 2.4), dpi=72)
    picture.subplots_adjust(left=0.11, right=0.98, bottom=0.22, top=0.88, wspace=0.28)
    (places,) = picture.subplots(1, len(curves), squeeze=False)
    for place, (name, usage) in zip(places, sorted(curves.items()), strict=True):
        row = METER_TYPES[name]
        place.bar(list(usage), list(usage.values()), width=0.9, align="edge", color=row.colour)
        place.set_xlim(0, figures.hours)
        place.set_xticks(range(0, figures.hours + 1, 6))
        place.set_title(f"{name}, {figures.day}", fontsize=9)
        place.set_xlabel("hours since midnight", fontsize=8)
        place.set_ylabel(f"{row.unit} in the hour", fontsize=8)
        place.tick_params(labelsize=8)
        place.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    picture.savefig(image, format="png")
    return f"![load curve](data:image/png;base64,{base64.b64encode(image.getvalue()).decode()})"
