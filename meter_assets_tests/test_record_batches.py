"""Record batches without a broker: what unpacks, and what counts as poison."""

import struct
from typing import Any

import lz4.frame
import pytest
import snappy
from kafka.codec import gzip_encode, snappy_encode, zstd_encode
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from streaming.kafka.unpack import CHUNK_BYTES, GZIP, LZ4, NONE, SNAPPY, ZSTD, UnpackError, unpack
from streaming.router.poison import HEAVY_BYTES_A_POLL, examine
from streaming.router.raw_log import HEADER, RawBatch

MIB = 1 << 20


def pieces(codec: int, packed: bytes) -> list[bytes]:
    source = unpack(codec, packed, largest_block=64 * MIB)
    return list(iter(lambda: source.read(CHUNK_BYTES), b""))


@pytest.mark.parametrize(
    ("codec", "packed"),
    [
        (NONE, lambda data: data),
        (GZIP, gzip_encode),
        (GZIP, lambda data: gzip_encode(data[:10]) + gzip_encode(data[10:])),
        (SNAPPY, snappy_encode),
        (SNAPPY, snappy.compress),
        (LZ4, lz4.frame.compress),
        (ZSTD, zstd_encode),
    ],
)
def test_every_codec_is_unpacked_in_pieces(codec: int, packed: Any):
    data = bytes(range(256)) * 20_000
    unpacked = pieces(codec, packed(data))
    assert b"".join(unpacked) == data
    assert max(map(len, unpacked)) <= CHUNK_BYTES


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD, 5])
def test_what_does_not_unpack_is_an_error_of_one_kind(codec: int):
    for data in (b"nonsense", b"\x82SNAPPY\x00" + b"\x00" * 12, b"\x1f\x8b\x08" + b"\x00" * 20):
        with pytest.raises(UnpackError):
            pieces(codec, data)


def batch(*values: bytes, codec: int = NONE, first: int = 0) -> RawBatch:
    """A batch as a producer makes it."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 30)
    for number, value in enumerate(values):
        builder.append(number, 1_700_000_000_000, b"em1", value, [])
    return RawBatch(first, first + len(values), bytes(builder.build()))


def damaged(good: RawBatch, at: int, byte: int, *, checksum: bool) -> RawBatch:
    """The batch with another byte there; with a checksum that matches, or not."""
    data = bytearray(good.data or b"")
    data[at] = byte
    if checksum:
        struct.pack_into(">I", data, DefaultRecordBatch.CRC_OFFSET, calc_crc32c(bytes(data[21:])))
    return RawBatch(good.first, good.end, bytes(data))


ATTRIBUTES = DefaultRecordBatch.ATTRIBUTES_OFFSET + 1


def test_sound_batches_are_taken_and_each_kind_of_poison_is_named():
    good = batch(*[b'{"device_id":"em1"}'] * 1000)
    assert examine(good, thorough=True) == (0, "")
    for codec in (GZIP, SNAPPY, LZ4, ZSTD):
        assert examine(batch(*[b"x" * 200] * 50_000, codec=codec)) == (0, "")
        heavy, why = examine(batch(b"x" * 2 * MIB, b"y", codec=codec))
        assert heavy == pytest.approx(2 * MIB, rel=0.01) and not why
        assert "unpacks to more than" in examine(batch(b" " * (HEAVY_BYTES_A_POLL + MIB), codec=codec))[1]
    assert "checksum" in examine(damaged(good, 100, 0xFF, checksum=False))[1]
    assert "codec 7 is unknown" in examine(damaged(good, ATTRIBUTES, 7, checksum=True))[1]
    assert "does not unpack" in examine(damaged(good, ATTRIBUTES, GZIP, checksum=True))[1]
    assert "format 9" in examine(damaged(good, 16, 9, checksum=True))[1]
    broken = damaged(good, HEADER.size + 4, 0x7E, checksum=True)
    assert examine(broken) == (0, "") and "cannot be parsed" in examine(broken, thorough=True)[1]
    assert "damaged" in examine(RawBatch(0, 1, None))[1]
