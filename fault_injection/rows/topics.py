"""What happens to topics, offsets and messages: removed, made again, moved, compressed, poisoned, in transactions."""

import json
from functools import partial

import psutil
from kafka import KafkaProducer

from fault_injection import poison
from fault_injection.case import POLL_SECONDS, Case
from fault_injection.ending import recover
from fault_injection.inject import hold
from fault_injection.processes import Process
from fault_injection.row import Broken, Row, row
from fault_injection.topics import INGEST_GROUP
from metering.settings import READINGS_TOPIC

MEMORY_LIMIT_MB = 600
LOST_EXIT_CODE = 3
DAY_MESSAGES = 3_000
"""A day of the load has some more than this."""


def _drained(case: Case, *, days: int = 2) -> None:
    """So many days sent and committed, and nobody at work."""
    case.load(days=days, rate=None).finish()
    ingest = case.ingest()
    case.wait_at_work(days * DAY_MESSAGES)
    case.wait_caught_up()
    ingest.stop()


def _unread(case: Case, *, days: int = 1) -> dict[int, int]:
    """So many days sent that nobody has read; where each partition ends then."""
    case.load(days=days, rate=None, first_day=case.next_day()).finish()
    case.history.keep()
    return case.history.ends()


def _end(case: Case, *, ingest: bool = True) -> None:
    if ingest:
        case.ingest()
    recover(case)


def removed_while_down(case: Case, *, until_caught_up: bool) -> None:
    """Retention passes messages while no ingest runs."""
    _drained(case, days=1)
    ends = _unread(case)
    kept = {partition: at - 50 for partition, at in ends.items()}
    lost = case.expect_gone(kept)
    case.topics.remove_before(kept)
    if until_caught_up:
        done = case.run("ingest", "--until-caught-up")
        case.promise(done.exit_code == LOST_EXIT_CODE, f"exit code {done.exit_code} with {lost:,} messages lost")
        case.promise(any("lost" in line for line in done.lines), "it does not say that messages are lost")
    case.load(days=1, first_day=case.next_day())
    _end(case)


def removed_while_paused(case: Case) -> None:
    """Retention passes messages while ingest stands still, and keeps its partitions."""
    case.load(days=1, rate=None).finish()
    ingest = case.ingest()
    case.wait_at_work(DAY_MESSAGES)
    case.wait_caught_up()
    process = psutil.Process(ingest.pid)
    process.suspend()
    try:
        kept = {partition: at - 50 for partition, at in _unread(case).items()}
        case.expect_gone(kept)
        case.topics.remove_before(kept)
    finally:
        process.resume()
    case.load(days=1, first_day=case.next_day())
    _end(case, ingest=False)


def topic_made_again(case: Case, *, before: int, after: int, running: bool = False) -> None:
    """The topic deleted and made again: so many days were read, so many come to the new one."""
    _drained(case, days=before)
    if running:
        case.ingest()
        hold(3)
    case.history.make_topic_again()
    case.load(days=after, rate=None, first_day=case.next_day()).finish()
    _end(case, ingest=not running)


def topic_made_again_unread(case: Case) -> None:
    """The topic deleted and made again, with messages that came while no ingest ran."""
    _drained(case, days=1)
    case.expect_gone(_unread(case))
    case.history.make_topic_again()
    case.history.leave_out_gone()
    done = case.run("ingest", "--until-caught-up")
    said = any("more may have come before that" in line for line in done.lines)
    case.promise(said, f"it does not say that messages may be lost: {done.last_line}")
    events = case.database["lost_messages"].count_documents({"reader": "ingest", "reason": "topic_recreated"})
    case.promise(events > 0, "iot.lost_messages knows nothing of it")
    case.load(days=2, rate=None, first_day=case.next_day()).finish()
    _end(case)


def offsets_moved(case: Case, *, to: str) -> None:
    """The group's offsets set to the beginning, to the end, or deleted with the group."""
    _drained(case)
    if to == "end":
        ends = _unread(case)
        case.expect_gone(ends)
        case.topics.move_offsets(INGEST_GROUP, ends)
    elif to == "beginning":
        case.topics.move_offsets(INGEST_GROUP, dict.fromkeys(range(case.settings.kafka_partitions), 0))
    else:
        case.topics.forget_group(INGEST_GROUP)
    case.load(days=1, rate=None, first_day=case.next_day()).finish()
    _end(case)


def partitions_added(case: Case) -> None:
    """Twice as many partitions under load; a meter's readings go elsewhere from then on."""
    case.load(conflict_rate=0.0)
    case.ingest()
    case.wait_at_work(1_000)
    case.topics.add_partitions(READINGS_TOPIC, 2 * case.settings.kafka_partitions)
    _end(case, ingest=False)


def other_transactions(case: Case, *, commit: bool) -> None:
    """Another application writes readings in transactions, and ends them one way or the other, its marker last."""
    case.load(days=1, rate=None).finish()
    case.ingest()
    case.wait_at_work(1_000)
    producer = KafkaProducer(bootstrap_servers=case.settings.kafka.split(","), transactional_id="another-application")
    producer.init_transactions()
    for number in range(3):
        producer.begin_transaction()
        for minute in range(50):
            producer.send(READINGS_TOPIC, key=b"em1", value=_odd_reading("em1", 60 * number + minute))
        producer.flush()
        if commit:
            producer.commit_transaction()
        else:
            producer.abort_transaction()
    producer.close()
    _end(case, ingest=False)
    done = case.run("ingest", "--until-caught-up", within_seconds=60)
    case.promise(done.exit_code == 0, f"`meters ingest --until-caught-up` ends with exit code {done.exit_code}")


def _odd_reading(device: str, number: int) -> bytes:
    """A reading at a second of its own, which no load has."""
    hours, minutes = divmod(number, 60)
    stamp = f"2023-06-01T{hours:02}:{minutes:02}:07Z"
    return json.dumps({"device_id": device, "timestamp": stamp, "usage_kwh": 0.5}).encode()


def compressed(case: Case, *, codec: str) -> None:
    """Readings compressed by their producer."""
    case.load(days=1)
    case.ingest()
    case.wait_at_work(500)
    producer = KafkaProducer(bootstrap_servers=case.settings.kafka.split(","), compression_type=codec, linger_ms=50)
    for number in range(400):
        producer.send(READINGS_TOPIC, key=b"em2", value=_odd_reading("em2", number))
    producer.flush()
    producer.close()
    _end(case, ingest=False)


def bombed(case: Case, *, codec: str, megabytes: int, count: int = 1) -> None:
    """Messages that are small on the wire and huge when unpacked."""
    case.load(days=1, rate=None).finish()
    ingest = case.ingest()
    case.wait_at_work(1_000)
    case.wait_caught_up()
    case.history.make_unreadable(
        lambda: poison.send_bombs(case.settings.kafka, codec=codec, megabytes=megabytes, count=count)
    )
    case.load(days=1, rate=None, first_day=case.next_day()).finish()
    peak = _peak_mb(case, ingest)
    case.promise(peak <= MEMORY_LIMIT_MB, f"ingest had {peak:.0f} MB")
    _end(case, ingest=False)


def _peak_mb(case: Case, ingest: Process) -> float:
    """The most memory that ingest has until it has read everything, or ended."""
    peak = 0.0

    def watched() -> bool:
        nonlocal peak
        family = ingest.family()
        if family:
            peak = max(peak, family[0].memory_info().rss / 1e6)
        hold(POLL_SECONDS)
        return not family or case.is_caught_up()

    try:
        case.wait(watched, 120, "ingest comes past the bombs")
    except Broken as broken:
        case.outcome.wrong.append(str(broken))
    return peak


def corrupted(case: Case, *, checksum: bool) -> None:
    """A batch damaged on the broker's disk; with a checksum that fits, or one that does not."""
    case.load(days=1, rate=None).finish()
    producer = KafkaProducer(bootstrap_servers=case.settings.kafka.split(","), compression_type="gzip", linger_ms=200)
    for number in range(100):
        producer.send(READINGS_TOPIC, key=b"em3", value=_odd_reading("em3", number), partition=0)
    producer.flush()
    producer.close()
    begin = case.history.ends()[0] - 100
    case.history.make_unreadable(
        lambda: poison.damage_batch(case.stack, READINGS_TOPIC, partition=0, offset=begin, fix_checksum=checksum)
    )
    case.load(days=1, rate=None, first_day=case.next_day()).finish()
    _end(case)


COUNTED = "What is gone is counted and kept in iot.lost_messages, the rest is stored, ingest goes on by itself."
SAID = "Nobody can know how many they were: it says that some may be lost, and iot.lost_messages keeps the event."
WHOLE = "The new topic is read whole."
ONCE = "Read again, nothing is stored or dead-lettered twice."
TAKEN = "All readings are stored."
ASIDE = f"It is put aside and recorded; all others are stored; ingest lives on with at most {MEMORY_LIMIT_MB} MB."

ROWS: tuple[Row, ...] = (
    row(
        *("retention", "down", "Kafka removes unread messages while ingest is down", COUNTED),
        partial(removed_while_down, until_caught_up=False),
    ),
    row(
        *("retention", "exit-code", "the same, then `ingest --until-caught-up`", f"{COUNTED} Exit code 3."),
        partial(removed_while_down, until_caught_up=True),
        in_tests=True,
    ),
    row(
        *("retention", "paused", "Kafka removes unread messages while ingest stands still", COUNTED),
        removed_while_paused,
    ),
    row(
        *("topic", "again-fewer", "made again, with fewer messages than were read", WHOLE),
        partial(topic_made_again, before=2, after=1),
    ),
    row(
        *("topic", "again-more", "made again, and filled beyond the saved offsets", WHOLE),
        partial(topic_made_again, before=1, after=2),
    ),
    row(
        *("topic", "again-unread", "made again with messages that came while no ingest ran", SAID),
        topic_made_again_unread,
    ),
    row(
        *("topic", "again-running", "made again while ingest runs", WHOLE),
        partial(topic_made_again, before=1, after=1, running=True),
    ),
    row(
        *("topic", "again-running-more", "made again while ingest runs, and filled beyond its place at once", WHOLE),
        partial(topic_made_again, before=1, after=2, running=True),
    ),
    row("offsets", "beginning", "set to the beginning", ONCE, partial(offsets_moved, to="beginning")),
    row("offsets", "deleted", "deleted with the group", ONCE, partial(offsets_moved, to="deleted")),
    row("offsets", "end", "set to the end, past unread messages", COUNTED, partial(offsets_moved, to="end")),
    row("topic", "partitions", "gets partitions under load", TAKEN, partitions_added),
    row(
        *("transactions", "committed", "of another application, committed", TAKEN),
        partial(other_transactions, commit=True),
    ),
    row(
        *("transactions", "aborted", "of another application, aborted", "None of their messages is stored."),
        partial(other_transactions, commit=False),
    ),
    *(
        row("message", f"codec-{codec}", f"compressed with {codec}", TAKEN, partial(compressed, codec=codec))
        for codec in ("gzip", "snappy", "lz4", "zstd")
    ),
    *(
        row(
            *("message", f"bomb-{codec}-{megabytes}", f"{codec}, {megabytes} MB unpacked", ASIDE),
            partial(bombed, codec=codec, megabytes=megabytes),
        )
        for codec, megabytes in (("gzip", 100), ("lz4", 200), ("zstd", 400))
    ),
    row(
        *("message", "bombs-zstd-100", "ten of zstd, 100 MB unpacked each", ASIDE),
        partial(bombed, codec="zstd", megabytes=100, count=10),
    ),
    row(
        *("message", "damaged", "damaged on the broker's disk, its checksum wrong", ASIDE),
        partial(corrupted, checksum=False),
    ),
    row(
        *("message", "damaged-inside", "damaged on the broker's disk, its checksum right", ASIDE),
        partial(corrupted, checksum=True),
    ),
)
