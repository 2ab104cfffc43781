"""Messages that nobody should have to read: bombs, and batches that are damaged on the broker's disk."""

import struct

from crc32c import crc32c
from kafka import KafkaProducer

from local_stack import LocalStack
from metering.settings import READINGS_TOPIC

MEGABYTE = 1 << 20
SEND_SECONDS = 180
HEADER = struct.Struct(">qiibIhiqqqhii")
"""A batch of record format 2: base offset, length, leader epoch, magic, checksum, attributes, last offset delta, first
and last timestamp, producer id and epoch, base sequence, number of records."""

CHECKSUM_AT, CHECKED_FROM = 17, 21
LENGTH_COUNTS_FROM = 12
DAMAGED_BYTES = 32


def send_bombs(bootstrap: str, *, codec: str, megabytes: int, count: int) -> dict[int, range]:
    """Send messages of blanks, each a batch of its own, to partition 0 of iot-meter; their offsets."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        compression_type=codec,
        max_request_size=2_147_000_000,
        batch_size=0,
        request_timeout_ms=SEND_SECONDS * 1000,
        delivery_timeout_ms=(SEND_SECONDS + 10) * 1000,
    )
    value = b" " * (megabytes * MEGABYTE)
    sent = [
        producer.send(READINGS_TOPIC, key=b"bomb", value=value, partition=0).get(SEND_SECONDS) for _ in range(count)
    ]
    producer.close()
    return {0: range(sent[0].offset, sent[-1].offset + 1)}


def damage_batch(stack: LocalStack, topic: str, *, partition: int, offset: int, fix_checksum: bool) -> dict[int, range]:
    """Overwrite the inside of the batch that holds the offset, on the stopped broker's disk, and start it again.

    After an orderly end a broker trusts its files, and serves the damage as it is.

    Args:
        stack: whose broker.
        topic: the topic.
        partition: its partition.
        offset: the first offset of the batch.
        fix_checksum: write the checksum that fits the damaged bytes: only unpacking them shows what they are.
    """
    stack.stop_service("kafka")
    folder = stack.settings.home / "kafka" / "data" / f"{topic}-{partition}"
    for segment in sorted(folder.glob("*.log")):
        log = bytearray(segment.read_bytes())
        if offsets := _damage(log, offset, fix_checksum):
            segment.write_bytes(log)
            stack.start_service("kafka")
            return {partition: offsets}
    raise LookupError(f"no batch with offset {offset} below {folder}")


def _damage(log: bytearray, offset: int, fix_checksum: bool) -> range | None:
    """Damage the batch that holds the offset; the offsets of its records, or None where it is not there."""
    at = 0
    while at + HEADER.size <= len(log):
        base, length, _, _, _, _, last_delta, *_ = HEADER.unpack_from(log, at)
        end = at + LENGTH_COUNTS_FROM + length
        if base <= offset <= base + last_delta:
            middle = at + HEADER.size + (end - at - HEADER.size) // 2
            for position in range(middle, min(middle + DAMAGED_BYTES, end)):
                log[position] ^= 0xFF
            if fix_checksum:
                struct.pack_into(">I", log, at + CHECKSUM_AT, crc32c(bytes(log[at + CHECKED_FROM : end])))
            return range(base, base + last_delta + 1)
        at = end
    return None
