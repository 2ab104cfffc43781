"""The made-up city: reproducible, and larger ones hold smaller ones."""

import random
from datetime import UTC, datetime

from faker import Faker

from metering.meter_types import MeterType
from metering.registry import Meter
from streaming.simulator.city import DISTRICTS, make_city

START = datetime(2024, 5, 1, tzinfo=UTC)


def city(households: int, seed: int = 1) -> list[Meter]:
    return make_city(households=households, seed=seed, interval_seconds=900, installed_at=START)


def test_the_same_seed_makes_the_same_city_whatever_others_do_with_faker() -> None:
    first = city(20)
    Faker.seed(99)
    random.seed(99)
    Faker().name()
    assert city(20) == first
    assert city(20, seed=2) != first


def test_adding_households_leaves_the_earlier_ones_as_they_were() -> None:
    assert city(50)[:20] == city(10)


def test_each_household_has_one_meter_of_each_type() -> None:
    meters = city(60)
    assert [meter.device_id for meter in meters[:4]] == ["em1", "wm1", "em2", "wm2"]
    assert [meter.household_id for meter in meters[:4]] == ["h0001", "h0001", "h0002", "h0002"]
    for electricity, water in zip(meters[::2], meters[1::2], strict=True):
        assert (electricity.meter_type, water.meter_type) == (MeterType.ELECTRICITY, MeterType.WATER)
        same = ("household_id", "household_name", "address", "district", "installed_at", "interval_seconds")
        assert all(getattr(electricity, name) == getattr(water, name) for name in same)


def test_people_have_names_and_addresses_of_several_countries() -> None:
    meters = city(60)
    assert {meter.district for meter in meters} == set(DISTRICTS)
    assert all(meter.household_name and meter.address and "\n" not in meter.address for meter in meters)
    assert any("đ" in f"{meter.household_name} {meter.address}".lower() for meter in meters), "no one from Vietnam"
    assert len({meter.household_name for meter in meters}) > 50
