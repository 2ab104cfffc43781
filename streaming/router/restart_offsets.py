"""Where the queries go on, after what their checkpoints say is compared with what Kafka still has.

What a query can never have is recorded in `iot.lost_messages` and passed over, here and nowhere else: retention removed
it, the topic was made again, a checkpoint is gone or damaged, or Spark cannot unpack it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from metering.lost_messages import Loss, LossReason, lost_counts, record_losses
from metering.settings import READINGS_TOPIC, Settings
from streaming.kafka.clients import ensure_topics, kafka_errors, open_consumer, partitions_of, topic_ids
from streaming.router.checkpoint import (
    AGGREGATES_QUERY,
    FAULTS_QUERY,
    DamagedCheckpointError,
    KnownTopic,
    Offsets,
    Place,
)
from streaming.router.poison import Poison, Search

READER = "router"
Report = Callable[[str], None]


@dataclass(frozen=True)
class Bounds:
    """What Kafka has of the topic: its oldest offsets, its ends, and its id (empty where Kafka has none)."""

    first: Offsets
    ends: Offsets
    topic_id: str


def read_bounds(consumer: Any) -> Bounds:
    """As Kafka is now.

    Raises:
        KafkaError: it does not answer.
    """
    partitions = partitions_of(consumer, READINGS_TOPIC)
    return Bounds(
        first={each.partition: at for each, at in consumer.beginning_offsets(partitions).items()},
        ends={each.partition: at for each, at in consumer.end_offsets(partitions).items()},
        topic_id=topic_ids(consumer, READINGS_TOPIC).get(READINGS_TOPIC, ""),
    )


class RestartOffsets:
    """Compares and corrects, while the queries do not run.

    Args:
        settings: where Kafka is.
        place: the checkpoints.
        database: for what is lost.
        queries: those that run in this router.
        report: takes one line per thing that a user must know.
    """

    def __init__(
        self, settings: Settings, place: Place, database: Database, *, queries: Iterable[str], report: Report
    ) -> None:
        self._settings = settings
        self._place = place
        self._database = database
        self._queries = list(queries)
        self._report = report
        self._damaged: set[str] = set()
        self._searched: Offsets = {}
        self._reported: set[tuple[int, int]] = set()

    def settle(self, *, has_routed: bool = False) -> Bounds:
        """Have every query go on at an offset that Kafka has.

        Args:
            has_routed: a router has used this folder before, so that an empty one is a loss.

        Returns:
            what Kafka has.

        Raises:
            MetersError: Kafka does not answer.
            PyMongoError: MongoDB does not answer.
        """
        ensure_topics(self._settings, READINGS_TOPIC, *self._settings.fault_topics)
        with kafka_errors(self._settings):
            consumer = open_consumer(self._settings, group=None)
            try:
                bounds = read_bounds(consumer)
            finally:
                consumer.close()
        known = self._place.topic()
        old = known if known and bounds.topic_id and known.topic_id != bounds.topic_id else None
        for query in self._queries:
            self._settle(query, bounds, old, has_routed=has_routed)
        self._place.remember(KnownTopic(bounds.topic_id, bounds.ends))
        return bounds

    def _settle(self, query: str, bounds: Bounds, old: KnownTopic | None, *, has_routed: bool) -> None:
        is_faults = query == FAULTS_QUERY
        try:
            if query in self._damaged:
                raise DamagedCheckpointError("Spark cannot read it")
            saved = self._place.position(query)
        except DamagedCheckpointError as error:
            self._report(
                f"The checkpoint {self._place.of(query)} is damaged ({error}): begins with the oldest readings in "
                "Kafka, which stores nothing twice"
            )
            saved = None
        else:
            if saved is None and has_routed and is_faults:
                self._report(
                    f"The checkpoint {self._place.of(query)} is gone: begins with the oldest readings in Kafka, which "
                    "stores nothing twice"
                )
        if saved is None:
            self._place.begin(query, bounds.first)
            self._damaged.discard(query)
        elif old is not None:
            if is_faults:
                self._pass_old_topic(saved, old)
            self._place.begin(query, bounds.first)
        elif ahead := [each for each, at in saved.items() if at > bounds.ends.get(each, 0)]:
            self._report(
                f"Kafka's {READINGS_TOPIC} ends before the offset that the {query} query had come to (partitions "
                f"{', '.join(map(str, ahead))}): begins with the oldest readings in it"
            )
            self._place.begin(query, bounds.first)
        elif is_faults:  # micro-batches pass by themselves what retention has removed, and count it nowhere
            self._pass_retention(saved, bounds)

    def _pass_old_topic(self, saved: Offsets, old: KnownTopic) -> None:
        losses = [
            self._loss(old.topic_id, each, at, old.ends[each], LossReason.TOPIC_RECREATED)
            for each, at in saved.items()
            if old.ends.get(each, at) > at
        ]
        self._record(
            losses,
            f"Kafka's {READINGS_TOPIC} was deleted and made again, with up to {{}} readings that were not routed: "
            "begins with the oldest readings in the new one",
        )

    def _pass_retention(self, saved: Offsets, bounds: Bounds) -> None:
        losses = [
            self._loss(bounds.topic_id, each, at, bounds.first[each], LossReason.RETENTION)
            for each, at in saved.items()
            if bounds.first.get(each, at) > at
        ]
        if not losses:
            return
        self._record(
            losses,
            f"Kafka's retention removed {{}} messages of {READINGS_TOPIC} before the router read them: goes on behind "
            "them. Raise the topic's retention.ms",
        )
        self._place.advance(FAULTS_QUERY, saved | {loss.partition: loss.end for loss in losses})

    def find_poison(self, *, thorough: bool = False) -> list[Poison]:
        """What the queries cannot pass, from where they would go on to the topic's ends, recorded as lost.

        Raises:
            MetersError: Kafka does not answer.
            PyMongoError: MongoDB does not answer.
        """
        with kafka_errors(self._settings):
            consumer = open_consumer(self._settings, group=None)
            try:
                bounds = read_bounds(consumer)
                search = Search(consumer, READINGS_TOPIC, thorough=thorough)
                found = []
                ends = bounds.ends
                for query in self._queries:
                    try:
                        saved = self._place.position(query) or {}
                    except DamagedCheckpointError:
                        saved = {}
                    begin = {each: max(oldest, saved.get(each, oldest)) for each, oldest in bounds.first.items()}
                    if query == FAULTS_QUERY:
                        begin = {each: max(at, self._searched.get(each, at)) for each, at in begin.items()}
                    found += search.run(begin, ends)
                    if query == FAULTS_QUERY:
                        # A search that ran out of time goes on there when the query dies again.
                        self._searched = (
                            search.reached if any(search.reached[each] < ends[each] for each in ends) else {}
                        )
                    ends = begin  # windows may be further behind
            finally:
                consumer.close()
        for each in found:
            if (each.partition, each.first) in self._reported:
                continue
            self._reported.add((each.partition, each.first))
            where = f"offset {each.first}" if each.end == each.first + 1 else f"offsets {each.first} to {each.end - 1}"
            self._record(
                [self._loss(bounds.topic_id, each.partition, each.first, each.end, LossReason.UNREADABLE)],
                f"Spark cannot take {READINGS_TOPIC} partition {each.partition}, {where}: {each.why}. Goes on behind "
                "({} messages)",
            )
        return found

    def give_up(self, query: str) -> None:
        """Have a query whose checkpoint Spark cannot read begin with the oldest readings, when it is settled next."""
        self._damaged.add(query)

    def lost(self) -> int:
        """How many messages the router has lost, at most, ever."""
        return lost_counts(self._database).get(READER, 0)

    def _loss(self, topic_id: str, partition: int, first: int, end: int, reason: LossReason) -> Loss:
        return Loss(READER, READINGS_TOPIC, topic_id, partition, first, end, reason)

    def _record(self, losses: list[Loss], line: str) -> None:
        record_losses(self._database, losses)
        self._report(line.replace("{}", f"{sum(loss.messages for loss in losses):,}"))


def both(aggregates: bool) -> list[str]:
    """The queries that a router runs."""
    return [FAULTS_QUERY, AGGREGATES_QUERY] if aggregates else [FAULTS_QUERY]
