"""Unpacks the record batches of Kafka's four codecs piece by piece, so that memory stays bounded whatever they hold.

kafka-python unpacks a batch whole: one batch of a megabyte may become more than a gigabyte. What to do with a batch
that cannot be unpacked is decided in bounded_client.py for ingest, and in router/poison.py for the router.
"""

import gzip
import io
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import lz4.frame
import snappy
import zstandard

CHUNK_BYTES = 1024 * 1024

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
"""Kafka's numbers of the codecs, as a batch's attributes have them."""

CODEC_NAMES = {NONE: "none", GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}

_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
_SNAPPY_VARINT_BYTES = 5


class UnpackError(Exception):
    """The batch cannot be unpacked: it is damaged, or its codec is unknown."""


class Unpacked(Protocol):
    """The unpacked bytes of a batch, in order."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; empty at the end. Raises UnpackError."""
        ...


def unpack(codec: int, data: bytes, *, largest_block: int) -> Unpacked:
    """A reader of a batch's records.

    Args:
        codec: Kafka's number of it.
        data: the batch behind its header.
        largest_block: blocks of snappy, which is unpacked block by block, are refused beyond so many bytes.

    Raises:
        UnpackError: the codec is unknown.
    """
    openers: dict[int, Callable[[], Any]] = {
        NONE: lambda: io.BytesIO(data),
        GZIP: lambda: gzip.GzipFile(fileobj=io.BytesIO(data)),
        SNAPPY: lambda: _Blocks(_snappy_blocks(data, largest_block)),
        LZ4: lambda: lz4.frame.LZ4FrameFile(io.BytesIO(data)),
        ZSTD: lambda: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True),
    }
    if codec not in openers:
        raise UnpackError(f"codec {codec} is unknown")
    return _Guarded(openers[codec]())


class _Guarded:
    """Turns whatever a codec's library raises into UnpackError: batches come from strangers."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def read(self, size: int, /) -> bytes:
        try:
            return self._source.read(size)
        except UnpackError:
            raise
        except Exception as error:
            raise UnpackError(str(error) or type(error).__name__) from error


class _Blocks:
    """Blocks as a reader."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._left = b""

    def read(self, size: int, /) -> bytes:
        if not self._left:
            self._left = next(self._blocks, b"")
        part, self._left = self._left[:size], self._left[size:]
        return part


def _snappy_blocks(data: bytes, largest: int) -> Iterator[bytes]:
    """Snappy as Java's clients write it, in framed blocks, or as one bare block."""
    if data[: len(_XERIAL_MAGIC)] != _XERIAL_MAGIC:
        yield _snappy_block(data, largest)
        return
    position = _XERIAL_HEADER_BYTES
    while position < len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        block = data[position + 4 : position + 4 + size]
        if len(block) != size or not size:
            raise UnpackError("a snappy block is cut off")
        yield _snappy_block(block, largest)
        position += 4 + size


def _snappy_block(block: bytes, largest: int) -> bytes:
    # A block begins with its unpacked length, as a varint.
    length = 0
    for index, byte in enumerate(block[:_SNAPPY_VARINT_BYTES]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            break
    if length > largest:
        raise UnpackError(f"a snappy block holds {length:,} bytes; at most {largest:,} are unpacked")
    unpacked: Any = snappy.uncompress(block)
    return unpacked
