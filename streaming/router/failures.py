"""Why a query died, in words."""

from typing import Any

from metering.errors import MetersError
from metering.settings import READINGS_TOPIC

KNOWN = (
    (
        "UnknownTopicOrPartition",
        f"the topic {READINGS_TOPIC} or a fault topic is gone",
        "Make it again and send what is missing, then `meters route --accept-gap`",
    ),
    (
        "KAFKA_DATA_LOSS",
        "Kafka no longer has readings that the router has not seen, or a topic was deleted",
        "Go on with what is left: `meters route --accept-gap`",
    ),
    (
        "OffsetOutOfRange",
        "Kafka no longer has readings that the router has not seen",
        "Go on with the oldest ones left: `meters route --accept-gap`",
    ),
    ("MongoTimeoutException", "MongoDB does not answer", "Start it, then start the router again"),
    ("ServerSelectionTimeoutError", "MongoDB does not answer", "Start it, then start the router again"),
    (
        "REAL_TIME_MODE",
        "this Spark has no real-time mode for it",
        "Set METERS_ROUTER_MODE=micro-batch",
    ),
)
"""What Spark's message holds, what it means, and what to do about it."""


def died(name: str, error: Any) -> MetersError:
    """The line for a query that ended by itself, with its StreamingQueryException or None."""
    text = str(error) if error else "it ended without a reason"
    for sign, message, fix in KNOWN:
        if sign in text:
            return MetersError(f"The {name} query died: {message}", fix=fix)
    return MetersError(f"The {name} query died: {first_line(text)}", fix="Read the lines above; then start it again")


def first_line(error: object) -> str:
    """The first line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
