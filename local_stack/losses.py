"""What `meters status` and `meters doctor` show of messages that were lost."""

from metering.errors import MetersError
from metering.lost_messages import lost_counts
from metering.settings import Settings
from runtime.database import open_database


def read_losses(settings: Settings) -> dict[str, int] | None:
    """Messages that Kafka no longer has and a reader never read, by reader; None where MongoDB cannot be asked."""
    try:
        with open_database(settings) as database:
            return lost_counts(database)
    except MetersError:
        return None
