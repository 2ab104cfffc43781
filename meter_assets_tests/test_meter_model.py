"""What simulated meters report, when they are faulty, and what is refused: all that needs no broker."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from meter_assets_tests.support import settings_for
from metering.errors import MetersError
from metering.meter_types import FAULT_SIGN
from metering.reading import encode_message, parse_reading
from metering.registry import Meter
from streaming.simulator.city import make_city
from streaming.simulator.fault_plan import FaultPlan
from streaming.simulator.malformed import GARBLERS, conflicting, garbled
from streaming.simulator.meter_model import Instant, MeterModel
from streaming.simulator.options import SimulationOptions, history_window, parse_interval

UTC_ZONE = ZoneInfo("UTC")
START = datetime(2024, 5, 1, tzinfo=UTC)  # a Wednesday


def city(households: int) -> list[Meter]:
    return make_city(households=households, seed=1, interval_seconds=900, installed_at=START)


def history(meter: Meter, *, seed: int = 1, days: int = 28) -> Iterator[tuple[Instant, int, int]]:
    model = MeterModel(seed, meter, 900)
    first = int(START.timestamp())
    for epoch in range(first, first + days * 86_400, 900):
        instant = Instant.at(epoch, UTC_ZONE)
        yield instant, *model.read(instant)


# What meters report


@pytest.mark.parametrize("meter_number", [0, 1], ids=["electricity", "water"])
def test_evenings_use_more_than_nights_and_weekends_differ(meter_number: int) -> None:
    by_hour: Counter[int] = Counter()
    midday: dict[bool, list[int]] = {True: [], False: []}
    for meter in city(20)[meter_number::2]:
        for instant, amount, _ in history(meter):
            by_hour[instant.slot // 4] += amount
            if 40 <= instant.slot < 64:
                midday[instant.weekend].append(amount)
    assert by_hour[20] > 2 * by_hour[3]
    assert by_hour[7] > 1.5 * by_hour[3]
    weekend, weekday = (sum(amounts) / len(amounts) for amounts in (midday[True], midday[False]))
    assert weekend > 1.5 * weekday


def test_a_household_uses_a_plausible_amount_and_never_a_negative_one() -> None:
    for meter in city(10):
        readings = list(history(meter))
        daily = sum(amount for _, amount, _ in readings) / 28 / 1000
        low, high = (2, 30) if meter.device_id.startswith("em") else (40, 800)
        assert low < daily < high, f"{meter.device_id}: {daily}"
        assert all(amount >= 0 and flow >= 0 for _, amount, flow in readings)


def test_short_intervals_lose_nothing_to_rounding() -> None:
    meter = city(1)[0]
    first = int(START.timestamp())
    totals = []
    for interval in (10, 900):
        model = MeterModel(1, meter, interval)
        instants = (Instant.at(epoch, UTC_ZONE) for epoch in range(first, first + 86_400, interval))
        totals.append(sum(model.read(instant)[0] for instant in instants))
    assert totals[0] == pytest.approx(totals[1], rel=0.1)


def test_a_reading_does_not_depend_on_those_before_it() -> None:
    for meter in city(3):
        together = list(history(meter, days=3))
        for instant, *reading in reversed(together):
            assert list(MeterModel(1, meter, 900).read(instant)) == reading


# Faults


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.3, 1.0])
def test_the_share_of_faults_is_near_the_rate_and_faults_come_in_runs(rate: float) -> None:
    verdicts = []
    for number in range(200):
        plan = FaultPlan(1, f"em{number}", rate, 900)
        verdicts += [plan.is_faulty(epoch) for epoch in range(1_714_521_600, 1_714_521_600 + 20 * 86_400, 900)]
    assert sum(verdicts) / len(verdicts) == pytest.approx(rate, rel=0.1)
    runs = [len(list(run)) for faulty, run in groupby(verdicts) if faulty]
    if rate:
        assert max(runs) > 4
    if rate == 0.01:
        assert 0.3 < runs.count(1) / len(runs) < 0.7


def test_a_fault_does_not_depend_on_where_the_history_begins() -> None:
    first = 1_714_521_600
    long, short = (FaultPlan(1, "em1", 0.2, 900) for _ in range(2))
    whole = {epoch: long.is_faulty(epoch) for epoch in range(first, first + 30 * 86_400, 900)}
    assert all(short.is_faulty(epoch) == whole[epoch] for epoch in reversed(list(whole)[777:]))


# Wrong messages


@pytest.mark.parametrize("meter", city(1), ids=lambda meter: meter.meter_type)
@pytest.mark.parametrize("faulty", [False, True])
def test_garbage_is_no_reading_and_a_conflict_is_another_one(meter: Meter, faulty: bool) -> None:
    model = MeterModel(1, meter, 900)
    instant = Instant.at(1_714_521_600, UTC_ZONE)
    good = encode_message(model.fields(instant, 12_300, 450, faulty=faulty))
    other, first = parse_reading(conflicting(good)), parse_reading(good)
    assert other.id == first.id
    assert other != first
    assert FAULT_SIGN not in other.model_dump().values()
    for kind in range(len(GARBLERS)):
        with pytest.raises(ValidationError):
            parse_reading(garbled(good, kind))


# Options


def test_intervals_are_written_with_their_unit() -> None:
    assert [parse_interval(text) for text in ("30s", "15m", "1h", "1d")] == [30, 900, 3600, 86_400]


@pytest.mark.parametrize("text", ["0s", "15", "2d", "-1m", "quarterly", "1.5h", ""])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(MetersError, match="is no interval"):
        parse_interval(text)


@pytest.mark.parametrize(
    "wrong",
    [{"fault_rate": 1.01}, {"late_rate": -0.1}, {"late_rate": 0.6, "out_of_order_rate": 0.6}, {"days": 0}]
    + [{"interval_seconds": 0}, {"garbage_rate": float("nan")}],
)
def test_impossible_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MetersError):
        SimulationOptions(**wrong)


@pytest.mark.parametrize(("until", "hours"), [(date(2024, 4, 1), 23), (date(2024, 10, 28), 25), (date(2024, 6, 1), 24)])
def test_a_history_covers_whole_local_days(tmp_path: Path, until: date, hours: int) -> None:
    settings = settings_for(tmp_path).model_copy(update={"timezone": "Europe/Madrid"})
    start, end = history_window(settings, SimulationOptions(until=until))
    assert end.timestamp() - start.timestamp() == hours * 3600


def test_a_history_ends_in_the_past(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with pytest.raises(MetersError, match="in the future"):
        history_window(settings, SimulationOptions(until=datetime.now(UTC).date() + timedelta(days=1)))


HASH_OF_HISTORY = """
import hashlib
from datetime import UTC, datetime
from zoneinfo import ZoneInfo
from meter_assets_tests.support import settings_for
from streaming.simulator.city import make_city
from metering.reading import encode_message
from streaming.simulator.fault_plan import FaultPlan
from streaming.simulator.meter_model import Instant, MeterModel
digest = hashlib.sha256()
for meter in make_city(households=5, seed=3, interval_seconds=900, installed_at=datetime(2024, 5, 1, tzinfo=UTC)):
    digest.update(meter.model_dump_json().encode())
    model, plan = MeterModel(3, meter, 900), FaultPlan(3, meter.device_id, 0.1, 900)
    for epoch in range(1714521600, 1714521600 + 86400, 900):
        instant = Instant.at(epoch, ZoneInfo("UTC"))
        digest.update(encode_message(model.fields(instant, *model.read(instant), faulty=plan.is_faulty(epoch))))
print(digest.hexdigest())
"""


def test_every_process_makes_the_same_bytes() -> None:
    """The built-in hash() of a string differs from process to process."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", HASH_OF_HISTORY],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
