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


def send_bombs(bootstrap: str, *, codec: str, megabytes: int, count: int) -> None:
    """Send messages of blanks, each a batch of its own, to partition 0 of iot-meter."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap.split(","),
        compression_type=codec,
        max_request_size=2_147_000_000,
        batch_size=0,
        request_timeout_ms=SEND_SECONDS * 1000,
        delivery_timeout_ms=(SEND_SECONDS + 10) * 1000,
    )
    value = b" " * (megabytes * MEGABYTE)
    for _ in range(count):
        producer.send(READINGS_TOPIC, key=b"bomb", value=value, partition=0).get(SEND_SECONDS)
    producer.close()


def damage_batch(stack: LocalStack, topic: str, *, partition: int, offset: int, fix_checksum: bool) -> None:
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
        damaged = _damaged(segment.read_bytes(), offset, fix_checksum)
        if damaged:
            segment.write_bytes(damaged)
            break
    else:
        raise AssertionError(f"no batch with offset {offset} below {folder}")
    stack.start_service("kafka")


def _damaged(log: bytes, offset: int, fix_checksum: bool) -> bytes | None:
    at = 0
    while at + HEADER.size <= len(log):
        base, length, *_ = HEADER.unpack_from(log, at)
        last = base + HEADER.unpack_from(log, at)[6]
        end = at + LENGTH_COUNTS_FROM + length
        if base <= offset <= last:
            batch = bytearray(log[at:end])
            middle = HEADER.size + (len(batch) - HEADER.size) // 2
            for position in range(middle, min(middle + 32, len(batch))):
                batch[position] ^= 0xFF
            if fix_checksum:
                struct.pack_into(">I", batch, CHECKSUM_AT, crc32c(bytes(batch[CHECKED_FROM:])))
            return log[:at] + bytes(batch) + log[end:]
        at = end
    return None
