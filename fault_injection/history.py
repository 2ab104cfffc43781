"""Every message that ever stood on iot-meter in a row, also after Kafka no longer has it, and what nobody can read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set

from fault_injection.oracle import Place
from fault_injection.topics import Message, Topics
from metering.settings import READINGS_TOPIC


class History:
    """What was sent.

    Args:
        topics: the broker.

    Attributes:
        messages: everything that was read so far, by where it stood.
        eras: the number of each id that the topic has had.
        gone: messages that Kafka removed before their reader came to them.
        put_aside: partition and offset of messages that nobody can read.
        spoiled: what those of them said that were readable once.
        unseen: how many messages went with a topic before anybody had looked at them.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._era = 0
        self._readable_from: dict[int, int] = {}
        self.messages: dict[Place, Message] = {}
        self.eras: dict[str, int] = {}
        self.gone: set[Place] = set()
        self.put_aside: set[tuple[int, int]] = set()
        self.spoiled: dict[Place, Message] = {}
        self.unseen = 0

    def keep(self) -> None:
        """Remember what stands on the topic now."""
        self.eras.setdefault(self._topics.topic_id(READINGS_TOPIC), self._era)
        for message in self._topics.read(READINGS_TOPIC, era=self._era, begin=self._readable_from):
            self.messages[message.era, message.partition, message.offset] = message

    def make_topic_again(self, partitions: int = 4) -> None:
        """Delete the topic, and make it again."""
        self.keep()
        self._topics.delete(READINGS_TOPIC)
        self._topics.make(READINGS_TOPIC, partitions)
        self._era += 1
        self._readable_from = {}
        self.keep()

    def make_unreadable(self, spoil: Callable[[], Mapping[int, range]]) -> None:
        """Have something sent, or done to the topic, that nobody can read, this suite included.

        Args:
            spoil: does it; returns the offsets concerned, by partition.
        """
        self.keep()
        spoiled = spoil()
        self._readable_from = self.ends()
        for number, offsets in spoiled.items():
            for at in offsets:
                place = (self._era, number, at)
                if place in self.messages:
                    self.spoiled[place] = self.messages.pop(place)
                self.put_aside.add((number, at))

    def take_back(self, recorded: Set[tuple[int, int]]) -> None:
        """What was spoiled and is not recorded must have been read: it stood before the damage of its batch."""
        for place, message in self.spoiled.items():
            if place[1:] not in recorded:
                self.messages[place] = message
                self.put_aside.discard(place[1:])

    def expect_gone(self, read: Mapping[int, int], kept: Mapping[int, int]) -> int:
        """Kafka is about to lose what stands before `kept` and is not `read`; how many messages that is."""
        gone = {
            place
            for place in self.messages
            if place[0] == self._era and read.get(place[1], 0) <= place[2] < kept[place[1]]
        }
        self.gone |= gone
        return len(gone)

    def leave_out_gone(self) -> None:
        """What is gone was never looked at by the product: it can say that there may be more, and not how many."""
        for place in self.gone:
            del self.messages[place]
        self.unseen += len(self.gone)
        self.gone.clear()

    def ends(self) -> dict[int, int]:
        """Where each partition ends now."""
        return {tp.partition: at for tp, at in self._topics.ends(READINGS_TOPIC).items()}

    def goal(self) -> dict[int, int]:
        """The last message of each partition of today's topic."""
        goal: dict[int, int] = {}
        for era, partition, offset in self.messages:
            if era == self._era:
                goal[partition] = max(goal.get(partition, -1), offset)
        return goal

    def sent(self, *, but: Iterable[Place] = ()) -> Iterator[Message]:
        """All messages, without some."""
        left_out = set(but)
        yield from (message for place, message in self.messages.items() if place not in left_out)
