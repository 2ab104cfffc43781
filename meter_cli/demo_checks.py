"""Does what the platform says agree with what the simulator knows it sent? Each disagreement is one line."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from kafka import TopicPartition
from pymongo.database import Database

from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES, DAILY_CONSUMPTION
from metering.meter_types import METER_TYPES
from metering.settings import DEAD_LETTERS_TOPIC, Settings
from streaming.dead_letter_topic import ensure_dead_letters_topic
from streaming.ingest.batch import Counts
from streaming.kafka.clients import kafka_errors, open_consumer, partitions_of
from streaming.simulator.sent_ledger import Ledger

Offsets = dict[TopicPartition, int]


def dead_letter_offsets(settings: Settings) -> Offsets:
    """Where the dead-letter topic ends now."""
    ensure_dead_letters_topic(settings)
    consumer = open_consumer(settings, group=None)
    try:
        with kafka_errors(settings):
            return consumer.end_offsets(partitions_of(consumer, DEAD_LETTERS_TOPIC))
    finally:
        consumer.close()


def dead_letters_since(settings: Settings, since: Offsets) -> Counter[str]:
    """Reasons of the dead letters that came after `since`, read from the topic itself."""
    reasons: Counter[str] = Counter()
    until = dead_letter_offsets(settings)
    consumer = open_consumer(settings, group=None)
    try:
        with kafka_errors(settings):
            consumer.assign(list(until))
            for tp in until:
                consumer.seek(tp, since.get(tp, 0))
            while any(consumer.position(tp) < end for tp, end in until.items()):
                for records in consumer.poll(timeout_ms=1000).values():
                    reasons.update(dict(record.headers)["reason"].decode() for record in records)
    finally:
        consumer.close()
    return reasons


def conservation(ledger: Ledger, counts: Counts, dead_letters: Counter[str]) -> Iterator[str]:
    """Produced = stored + duplicates + dead letters, and each of them is what the ledger says.

    Readings that an earlier run of the same simulation has stored come as duplicates.
    """
    yield from _same("messages ingested", counts.messages, ledger.messages)
    yield from _same("stored + duplicates", counts.stored + counts.duplicates, ledger.readings + ledger.duplicates)
    yield from _same("conflicts", counts.conflicts, ledger.conflicts)
    yield from _same("refused", counts.refused, ledger.garbage)
    yield from _same("dead letters on the topic", sum(dead_letters.values()), ledger.conflicts + ledger.garbage)
    yield from _same("conflicts on the topic", dead_letters["conflict"], ledger.conflicts)


def daily_numbers(ledger: Ledger, database: Database) -> Iterator[str]:
    """Every published figure that the ledger can tell: per type, and per meter."""
    for day, types in ledger.days.items():
        averages = _published(database, DAILY_AVERAGES, day)
        consumption = _published(database, DAILY_CONSUMPTION, day)
        abnormal = _published(database, ABNORMAL_DEVICE_SUMMARY, day)
        for meter_type, devices in types.items():
            total = ledger.totals(day, meter_type)
            yield from _same_figures(f"{day} {meter_type}", averages.get(f"{day}|{meter_type}"), total)
            for device, account in devices.items():
                key = f"{day}|device|{device}|{meter_type}"
                yield from _same_figures(f"{day} {device}", consumption.get(key), account.to_json())
                fault = abnormal.pop(f"{day}|{device}", None)
                yield from _same(f"{day} {device} faults", fault["faulty_readings"] if fault else 0, account.faulty)
                run = fault["longest_fault_run"] if fault else 0
                yield from _same(f"{day} {device} longest run of faults", run, account.longest_fault_run)
        yield from (f"{key} is reported as abnormal, and is not in the ledger" for key in abnormal)


def _published(database: Database, collection: str, day: str) -> dict[str, Any]:
    return {document["_id"]: document for document in database[collection].find({"calculation_date": day})}


def _same_figures(what: str, document: dict[str, Any] | None, expected: dict[str, Any]) -> Iterator[str]:
    if document is None:
        yield f"{what}: nothing is published"
        return
    total = document[METER_TYPES[document["meter_type"]].total_column]
    yield from _same(f"{what} readings", document["readings"], expected["readings"])
    yield from _same(f"{what} faulty readings", document["faulty_readings"], expected["faulty"])
    yield from _same(f"{what} usage", total, expected["usage"])


def _same(what: str, found: float, expected: float) -> Iterator[str]:
    if found != expected:
        yield f"{what}: {found:,} instead of {expected:,}"
