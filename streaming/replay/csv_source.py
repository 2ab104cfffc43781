"""A CSV file as numbered raw lines: plain or gzip, in bounded memory, with its position and its damage.

What the lines mean is not known here. A quoted cell with a line break in it is two lines: were it one, a single
forgotten quote would swallow the rest of the file.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from metering.errors import MetersError

MAX_LINE_BYTES = 64 * 1024
"""Longer lines are no rows of readings; they are handed out in pieces of this size, each marked as flawed."""

_CHUNK_BYTES = 32 * 1024  # of the file; deflate expands at most a thousandfold, so this bounds memory
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's code for "gzip header and trailer, checksum checked"


@dataclass(slots=True)
class Line:
    """One line without its line break; `flaw` says why it cannot be a row, whatever it looks like."""

    number: int
    raw: bytes
    flaw: str | None = None


class CsvSource:
    """A file to read once; `bytes_read`, `size` and `damage` tell how far it came.

    Args:
        path: the file; gzip is recognized by its first bytes.

    Raises:
        MetersError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes_read = 0
        self.damage: str | None = None
        try:
            self._file: BufferedReader = path.open("rb")
            self.size = path.stat().st_size
        except FileNotFoundError:
            raise MetersError(f"There is no file {path}") from None
        except IsADirectoryError:
            raise MetersError(f"{path} is a folder", fix="Name a .csv or .csv.gz file") from None
        except OSError as error:
            raise MetersError(f"{path} cannot be read: {error.strerror}") from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def lines(self) -> Iterator[Line]:
        """Every line that is not blank, in order, until the end or the damage."""
        number, tail, overlong = 1, b"", False
        for chunk in self._plain_chunks():
            *complete, tail = (tail + chunk).split(b"\n")
            for raw in complete:
                if overlong or len(raw) > MAX_LINE_BYTES:
                    yield from _cut(number, raw, True)
                    overlong = False
                elif raw and not raw.isspace():
                    yield Line(number, raw.removesuffix(b"\r"))
                number += 1
            while len(tail) > MAX_LINE_BYTES:
                yield from _cut(number, tail[:MAX_LINE_BYTES], True)
                tail, overlong = tail[MAX_LINE_BYTES:], True
        for line in _cut(number, tail.removesuffix(b"\r"), overlong):
            if self.damage:
                # The rest of a number may be missing: "10" of "105" would pass for a reading.
                line.flaw = "the file breaks off in this line"
            yield line

    def _plain_chunks(self) -> Iterator[bytes]:
        data = self._read()
        if not data.startswith(_GZIP_MAGIC):
            while data:
                yield data
                data = self._read()
            return
        member = zlib.decompressobj(_GZIP_WINDOW)
        while data:
            try:
                plain = member.decompress(data)
            except zlib.error as error:
                self.damage = f"the compressed data is damaged ({error})"
                return
            yield plain
            data = member.unused_data or self._read()
            if member.eof:
                data = data.lstrip(b"\0") or self._read()  # tape-style padding, as gzip itself accepts
                member = zlib.decompressobj(_GZIP_WINDOW) if data else member
        if not member.eof:
            self.damage = "the compressed file ends too early"

    def _read(self) -> bytes:
        try:
            data = self._file.read(_CHUNK_BYTES)
        except OSError as error:
            self.damage = f"reading failed ({error.strerror})"
            return b""
        self.bytes_read += len(data)
        return data


def _cut(number: int, raw: bytes, overlong: bool) -> Iterator[Line]:
    if len(raw) <= MAX_LINE_BYTES and not overlong:
        if raw and not raw.isspace():
            yield Line(number, raw)
        return
    for start in range(0, len(raw), MAX_LINE_BYTES):
        flaw = f"the line is longer than {MAX_LINE_BYTES} bytes"
        yield Line(number, raw[start : start + MAX_LINE_BYTES], flaw)
