"""The corpus of bad messages through a real ingest and a real router, with good neighbours on both sides of each."""

from collections.abc import Iterator
from typing import Any

import pytest

from local_stack import LocalStack
from meter_assets_tests.corpus import CASES
from meter_assets_tests.corpus.case import Case
from meter_assets_tests.corpus.verdicts import by_ingest
from meter_assets_tests.ingest_support import header, source
from meter_assets_tests.router_support import ROUTE_SECONDS, City, own_kafka
from meter_assets_tests.support import read_topic, wait_for
from metering.fault_event import parse_fault_event
from metering.reading import encode_message
from metering.settings import ABNORMAL_TOPIC, DEAD_LETTERS_TOPIC, READINGS_TOPIC, Settings
from metering.store import FAULTS, READINGS
from streaming.ingest.member import Ingest
from streaming.kafka.clients import ensure_topics, open_producer

pytestmark = pytest.mark.timeout(600)  # a stack and a router of its own

MAX_REQUEST_BYTES = 10_000_000
NOON = "2024-05-27T12:00:00Z"
Origin = tuple[str, int, int]


@pytest.fixture(scope="module")
def own_stack() -> Iterator[LocalStack]:
    """Without unknown meters, so that a healthy reading of any meter is healthy."""
    with own_kafka(unknown_meters=False) as stack:
        yield stack


def neighbour(device: str, usage_kwh: float) -> bytes:
    return encode_message({"device_id": device, "timestamp": NOON, "usage_kwh": usage_kwh})


def send_with_neighbours(settings: Settings) -> dict[Origin, Case]:
    """Each case between a healthy and a faulty reading; where each case was put."""
    ensure_topics(settings, READINGS_TOPIC)
    codecs = {case.codec for case in CASES}
    producers = {
        codec: open_producer(settings, compression_type=codec, max_request_size=MAX_REQUEST_BYTES) for codec in codecs
    }
    sent: list[tuple[Any, Case | None]] = []
    for number, case in enumerate(CASES):
        healthy = producers[None].send(READINGS_TOPIC, key=case.key, value=neighbour(f"healthy{number}", 1.5))
        future = producers[case.codec].send(READINGS_TOPIC, key=case.key, value=case.value, headers=list(case.headers))
        faulty = producers[None].send(READINGS_TOPIC, key=case.key, value=neighbour(f"faulty{number}", -1))
        sent += [(healthy, None), (future, case), (faulty, None)]
    for producer in producers.values():
        producer.close()
    placed: dict[Origin, Case] = {}
    for future, case in sent:
        record = future.get(timeout=30)
        if case:
            placed[record.topic, record.partition, record.offset] = case
    return placed


def test_each_message_is_where_it_belongs_and_each_neighbour_too(own_stack: LocalStack):
    settings = own_stack.settings
    city = City.fresh(settings)
    healthy, faulty = ({f"{NOON}|{name}{number}" for number in range(len(CASES))} for name in ("healthy", "faulty"))
    with city.database.client, city.router("--no-aggregates") as router:
        placed = send_with_neighbours(settings)
        counts = Ingest(settings).run(until_caught_up=True)
        router.wait_running()
        router.wait_caught_up()
        ids = {origin: judged.id for origin, case in placed.items() if (judged := by_ingest(case.value))}
        readings = {ids[origin] for origin, case in placed.items() if case.verdict in ("healthy", "faulty")}
        of_cases = {ids[origin] for origin, case in placed.items() if case.verdict == "faulty"}

        def all_stored() -> bool:
            city.store_faults()
            return of_cases | faulty <= city.stored()

        wait_for(all_stored, ROUTE_SECONDS, "every fault is stored")
        router.stop()
        city.store_faults()
        stored = {document["_id"]: document for document in city.database[READINGS].find()}
        faults = {document["_id"]: document for document in city.database[FAULTS].find()}

    assert counts.messages == 3 * len(CASES) == counts.stored + counts.duplicates + counts.dead_letters
    assert set(stored) == readings | healthy | faulty
    assert set(faults) == of_cases | faulty
    assert set(faults) <= set(stored)
    for key, fault in faults.items():
        assert (fault["timestamp"], fault["meter_type"]) == (stored[key]["timestamp"], stored[key]["meter_type"]), key

    letters = {source(letter): letter for letter in read_topic(settings, DEAD_LETTERS_TOPIC)}
    expected = {
        origin: "conflict" if case.verdict == "conflict" else case.reason
        for origin, case in placed.items()
        if case.verdict in ("refused", "conflict")
    }
    assert {origin: header(letter, "reason") for origin, letter in letters.items()} == expected
    for origin, letter in letters.items():
        assert (letter.key, letter.value) == (placed[origin].key, placed[origin].value), placed[origin].id

    sources = [parse_fault_event(event.value).source for event in read_topic(settings, ABNORMAL_TOPIC)]
    routed = {placed[origin].id for each in sources if (origin := (each.topic, each.partition, each.offset)) in placed}
    # The router sees one message at a time: it also makes an event of a copy, and of a faulty second payload, whose
    # identity is stored with the first one. Both have that reading's id, and change nothing that is stored.
    assert routed == {
        case.id
        for case in CASES
        if case.verdict in ("faulty", "duplicate", "conflict") and "healthy usage, second" not in case.name
    }
