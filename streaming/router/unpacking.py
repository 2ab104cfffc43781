"""Unpacking what Kafka's producers compress, a piece at a time: memory stays bounded whatever it grows to."""

import struct
import zlib
from collections.abc import Iterator

import lz4.frame
import snappy
import zstandard

PIECE_BYTES = 1 << 20
"""Most bytes of one piece; a snappy block may be larger, and is refused beyond MAX_SNAPPY_BYTES."""

MAX_SNAPPY_BYTES = 64 << 20
"""A snappy block is unpacked at once. Java's producers write blocks of 32 KiB."""

MAX_ZSTD_WINDOW_BYTES = 128 << 20

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
"""Kafka's numbers of the codecs."""

XERIAL = b"\x82SNAPPY\x00"
"""How the framing begins that Java's snappy streams have: 16 bytes, then blocks with their sizes before them."""

XERIAL_BYTES = 16


class UnpackError(Exception):
    """The bytes are not what their codec writes, or the codec is unknown."""


def pieces(codec: int, packed: bytes) -> Iterator[bytes]:
    """What the bytes unpack to.

    Raises:
        UnpackError: they do not unpack.
    """
    if codec not in _UNPACK:
        raise UnpackError(f"codec {codec} is unknown")
    try:
        yield from _UNPACK[codec](packed)
    except UnpackError:
        raise
    except Exception as error:  # each library has errors of its own kind
        raise UnpackError(str(error) or type(error).__name__) from None


def _none(packed: bytes) -> Iterator[bytes]:
    yield packed


def _gzip(packed: bytes) -> Iterator[bytes]:
    while packed:
        unpacker = zlib.decompressobj(wbits=31)
        rest = packed
        while not unpacker.eof:
            piece = unpacker.decompress(rest, PIECE_BYTES)
            if not piece and not unpacker.unconsumed_tail and not unpacker.eof:
                raise UnpackError("gzip data ends too early")
            yield piece
            rest = unpacker.unconsumed_tail
        packed = unpacker.unused_data


def _snappy(packed: bytes) -> Iterator[bytes]:
    if not packed.startswith(XERIAL):
        yield _snappy_block(packed)
        return
    at = XERIAL_BYTES
    while at < len(packed):
        (size,) = struct.unpack_from(">i", packed, at)
        if size <= 0:
            raise UnpackError("a snappy block has no size")
        yield _snappy_block(packed[at + 4 : at + 4 + size])
        at += 4 + size


def _snappy_block(block: bytes) -> bytes:
    size = shift = 0  # a block begins with its unpacked size
    for byte in block[:5]:
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if size > MAX_SNAPPY_BYTES:
        raise UnpackError(f"a snappy block of {size:,} bytes")
    unpacked = snappy.uncompress(block)
    return unpacked if isinstance(unpacked, bytes) else unpacked.encode()  # pyright's stubs allow for text


def _lz4(packed: bytes) -> Iterator[bytes]:
    unpacker = lz4.frame.LZ4FrameDecompressor()
    piece = unpacker.decompress(packed, max_length=PIECE_BYTES)
    yield piece
    while not unpacker.eof:
        piece = unpacker.decompress(b"", max_length=PIECE_BYTES)
        if not piece and unpacker.needs_input:
            raise UnpackError("lz4 data ends too early")
        yield piece


def _zstd(packed: bytes) -> Iterator[bytes]:
    unpacker = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW_BYTES)
    with unpacker.stream_reader(packed, read_across_frames=True) as reader:
        while piece := reader.read(PIECE_BYTES):
            yield piece


_UNPACK = {NONE: _none, GZIP: _gzip, SNAPPY: _snappy, LZ4: _lz4, ZSTD: _zstd}
