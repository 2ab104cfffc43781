"""How many brokers and members a home's data was made by: that stays as it is for as long as the data does.

Fewer would not have all of the data, and brokers that join later would get no part of the topics that are there.
"""

import json
from collections.abc import Sequence

from metering.errors import MetersError
from metering.settings import Settings


def keep_topology(settings: Settings, kinds: Sequence[str]) -> None:
    """Note how many processes share the data of these kinds of services, or see that they are still as many.

    Raises:
        MetersError: the home's data is of another number.
    """
    note = settings.home / "topology.json"
    kept: dict[str, int] = json.loads(note.read_text()) if note.exists() else {}
    for kind, title, setting, wanted in (
        ("mongo", "MongoDB", "METERS_MONGO_MEMBERS", settings.mongo_members),
        ("kafka", "Kafka", "METERS_KAFKA_BROKERS", settings.kafka_brokers),
    ):
        if kind not in kinds:
            continue
        if (settings.home / kind / "data").exists() and (had := kept.get(kind, 1)) != wanted:
            raise MetersError(
                f"{title}'s data in {settings.home} is shared by {had}, and {setting} is {wanted}",
                fix=f"Set {setting}={had}, or METERS_HOME to a new folder",
            )
        kept[kind] = wanted
    note.write_text(json.dumps(kept))
