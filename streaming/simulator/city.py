"""Making up a city: households with names, addresses and districts, each with one meter of every type.

Only who lives where and which meter hangs there. What the meters report is made up in meter_model.py;
how the registry is stored is said in metering/registry.py.
"""

import random
from datetime import datetime

from faker import Faker

from metering.meter_types import METER_TYPES
from metering.registry import Meter

LOCALES = ("en_GB", "es_ES", "fr_FR", "de_DE", "vi_VN")
DISTRICTS = ("Old Town", "Harbour", "Riverside", "Hillside", "University Quarter", "Garden Suburb")


def make_city(*, households: int, seed: int, interval_seconds: int, installed_at: datetime) -> list[Meter]:
    """The meters of a made-up city: `em1` and `wm1` in household `h0001`, `em2` and `wm2` in `h0002`, and so on.

    Household i depends on the seed and on i alone, so a larger city holds the smaller one unchanged. Names and
    addresses also depend on Faker's version.

    Args:
        households: how many; each has a meter of every type.
        seed: another seed is another city.
        interval_seconds: usual time between two readings of a meter.
        installed_at: when readings are expected from.
    """
    # Instances of our own: Faker.seed() and the shared Faker proxy would let other users of Faker change the city.
    fakers = [Faker(locale) for locale in LOCALES]
    city = []
    for number in range(1, households + 1):
        key = f"{seed}|household|{number}"
        choice = random.Random(key)  # noqa: S311 - a reproducible city, no secret
        faker = choice.choice(fakers)
        faker.seed_instance(key)
        common = {
            "interval_seconds": interval_seconds,
            "installed_at": installed_at,
            "household_id": f"h{number:04d}",
            "household_name": faker.name(),
            "address": ", ".join(faker.address().splitlines()),
            "district": choice.choice(DISTRICTS),
            "source": "simulate",
        }
        city.extend(
            Meter(device_id=f"{row.device_prefix}{number}", meter_type=row.meter_type, **common)
            for row in METER_TYPES.values()
        )
    return city
