"""What the real files in the test data hold, day by day, computed without any code of the product.

Plain csv and zoneinfo. It shares with streaming/ only the documented rules: which zone a file's clock is in, which of
two instants a doubled local time means, and that the first of several readings with one identity stays.
"""

import csv
import gzip
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

FILES = {
    "daiad": "daiad_water_30_meters.csv.gz",
    "sgsc": "sgsc_electricity_4_households.csv.gz",
    "uci": "uci_household_1min.csv.gz",
}


@dataclass
class DayTotals:
    """One local day: healthy readings, usage in litres or kWh, and both for each device; and the faulty readings."""

    readings: int = 0
    faulty: int = 0
    usage: float = 0.0
    per_device: dict[str, tuple[int, float]] = field(default_factory=dict)


def shared_data_folder() -> Path:
    """The folder of real files: METERS_TEST_DATA, or ../shared/data beside the repository; skips where it is absent."""
    folder = os.environ.get("METERS_TEST_DATA")
    path = Path(folder) if folder else Path(__file__).resolve().parents[2] / "shared" / "data"
    absent = [name for name in FILES.values() if not (path / name).is_file()]
    if absent:
        pytest.skip(f"real data is absent: no {absent[0]} in {path}; set METERS_TEST_DATA to its folder")
    return path


MAX_AN_INTERVAL = {"daiad": 5_000.0, "sgsc": 43.5 / 2, "uci": 43.5 / 60}
"""L an hour, kWh in half an hour, kWh in a minute: what the documented bounds allow at the interval of each file."""


def is_healthy(preset: str, usage: float) -> bool:
    """By the documented rules, as far as these files can break them."""
    return 0 <= usage <= MAX_AN_INTERVAL[preset]


def expected_days(path: Path, preset: str, city_timezone: str) -> dict[date, DayTotals]:
    """What the daily numbers are to say about each local day of the city after a replay."""
    city = ZoneInfo(city_timezone)
    values: dict[tuple[date, str], list[float]] = {}
    days: dict[date, DayTotals] = {}
    for (device, instant), usage in expected_readings(path, preset).items():
        day = instant.astimezone(city).date()
        of_device = values.setdefault((day, device), [])
        if is_healthy(preset, usage):
            of_device.append(usage)
        else:
            days.setdefault(day, DayTotals()).faulty += 1
    for (day, device), usages in values.items():
        days.setdefault(day, DayTotals()).per_device[device] = (len(usages), math.fsum(usages))
    for totals in days.values():
        totals.readings = sum(count for count, _ in totals.per_device.values())
        totals.usage = math.fsum(usage for _, usage in totals.per_device.values())
    return dict(sorted(days.items()))


def expected_readings(path: Path, preset: str) -> dict[tuple[str, datetime], float]:
    """Usage by (device, instant) of every reading that storage is to hold; the first of several stays."""
    zone: tzinfo = {
        "daiad": ZoneInfo("Europe/Madrid"),
        "sgsc": timezone(timedelta(hours=10)),
        "uci": ZoneInfo("Europe/Paris"),
    }[preset]
    newest: dict[str, datetime] = {}
    readings: dict[tuple[str, datetime], float] = {}
    for device, wall_clock, usage in _rows(path, preset):
        instants = _instants(wall_clock, zone)
        later = [instant for instant in instants if device not in newest or instant > newest[device]]
        instant = later[0] if later else instants[0]
        newest[device] = max(instant, newest.get(device, instant))
        if usage is not None:
            readings.setdefault((device, instant), usage)
    return readings


def _instants(wall_clock: datetime, zone: tzinfo) -> list[datetime]:
    # Found by trying the offsets of the day before and the day after, rather than by asking for the fold: another way
    # than the product's.
    found = set()
    for neighbour in (wall_clock - timedelta(days=1), wall_clock + timedelta(days=1)):
        candidate = wall_clock.replace(tzinfo=UTC) - (neighbour.replace(tzinfo=zone).utcoffset() or timedelta())
        if candidate.astimezone(zone).replace(tzinfo=None) == wall_clock:
            found.add(candidate)
    # In the hour that the clocks skip no instant shows this time: the documented reading is by the offset before.
    return sorted(found) or [wall_clock.replace(tzinfo=zone, fold=0).astimezone(UTC)]


def _rows(path: Path, preset: str) -> Iterator[tuple[str, datetime, float | None]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="," if preset == "sgsc" else ";")
        for row in reader:
            if preset == "daiad":
                time = datetime.strptime(row["datetime"], "%d/%m/%Y %H:%M:%S")  # noqa: DTZ007 naive on purpose
                yield row["user key"], time, float(row["diff"])
            elif preset == "sgsc":
                time = datetime.strptime(row["reading_datetime"], "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007 naive on purpose
                yield row["customer_id"], time, float(row["general_supply_kwh"])
            else:
                text = f"{row['Date']} {row['Time']}"
                time = datetime.strptime(text, "%d/%m/%Y %H:%M:%S")  # noqa: DTZ007 naive on purpose
                power = row["Global_active_power"]
                yield "uci-household-1", time, None if power in ("", "?") else float(power) / 60
