"""What a member knows of its group's rebalances."""

from typing import Any

from kafka import ConsumerRebalanceListener


class Rebalance(ConsumerRebalanceListener):
    """Where the group's sharing out of its partitions stands, as the client tells it."""

    def __init__(self) -> None:
        self.is_under_way = False
        self.is_over = False

    def on_partitions_revoked(self, revoked: Any) -> None:
        """The group shares its partitions out; those that this member has are no longer its own."""
        self.is_under_way = True

    def on_partitions_assigned(self, assigned: Any) -> None:
        """It has shared them out."""
        self.is_under_way, self.is_over = False, True
