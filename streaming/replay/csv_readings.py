"""CSV rows as messages of the contract: pure parsing and building, without Kafka and MongoDB.

Deterministic: the same file and layout give byte-identical messages, which ingest then knows as duplicates.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from metering.errors import MetersError
from metering.meter_types import FAULT_SIGN, METER_TYPES
from metering.reading import encode_message, iso_utc, parse_reading
from metering.registry import UNASSIGNED, Meter
from streaming.replay.csv_layout import LONGEST_INTERVAL_SECONDS, CsvLayout, is_device_id, time_parser
from streaming.replay.csv_source import CsvSource, Line
from streaming.replay.local_time import parse_zone, to_instant
from streaming.replay.meter_state import MeterTrack, usual_gap

LEARN_FROM_ROWS = 5000
"""Rows looked at beforehand to learn the usual interval, where the layout does not name it."""

INTERVAL_UNKNOWN_SECONDS = 3600
"""Used where neither the layout nor the file tells: each meter has one reading, so nothing better is known."""

USAGE_DECIMALS = 9  # of converted values: what exact sums keep behind the point
RATE_DECIMALS = 6

_BEST_UTF8 = "utf-8-sig"  # spreadsheets put a byte order mark before the header


@dataclass(slots=True)
class Message:
    """A reading, ready to send."""

    line: int
    device_id: str
    instant: datetime
    value: bytes


@dataclass(slots=True)
class Missing:
    """A row whose meter reported nothing."""

    line: int


@dataclass(slots=True)
class Refused:
    """A row that is no reading; `message` says why without repeating what it holds."""

    line: int
    raw: bytes
    device_id: str | None
    error_class: str
    message: str


Row = Message | Missing | Refused


class _BadRow(Exception):
    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class
        self.message = message


class CsvReadings:
    """A file of readings, to iterate once; `meters()` then tells which meters it has.

    Args:
        path: the file, plain or gzip.
        layout: where its readings are.

    Raises:
        MetersError: the file cannot be opened, or lacks a column.
    """

    def __init__(self, path: Path, layout: CsvLayout) -> None:
        self._zone = parse_zone(layout.timezone)
        self.source = CsvSource(path)
        self._layout = layout
        self._lines = self.source.lines()
        try:
            position, self._width = self._read_header()
            self.interval_seconds = layout.interval_seconds or learn_interval(path, layout)
        except BaseException:
            self.source.close()
            raise
        # Looked up once: what follows runs for every row, and files have millions.
        self._device_at = position[layout.device_column] if layout.device_column else None
        self._time_at = [position[column] for column in layout.time_columns]
        self._value_at = position[layout.value_column]
        self._register_at = position[layout.register_column] if layout.register_column else None
        self._household_at = position[layout.household_column] if layout.household_column else None
        self._separator = layout.separator
        self._missing = layout.missing
        self._type = METER_TYPES[layout.meter_type]
        self._parse_time = time_parser(layout.time_format)
        self._unit = layout.usage_unit
        self._converts = self._unit.averaged or self._unit.numerator != self._unit.denominator
        self._tracks: dict[str, MeterTrack] = {}

    def close(self) -> None:
        """Let go of the file."""
        self.source.close()

    def __iter__(self) -> Iterator[Row]:
        for line in self._lines:
            yield self._row(line)

    def device_ids(self) -> Iterator[str]:
        """The device id of each row that has one, instead of the rows: the file is read once."""
        for line in self._lines:
            try:
                device_id = self._device_of(self._split(line))
            except _BadRow:
                continue
            if is_device_id(device_id):
                yield device_id

    def meters(self) -> Iterator[Meter]:
        """Registry entries of the meters seen so far; a meter with one reading gets the file's usual interval."""
        usual = usual_gap(track.gaps for track in self._tracks.values()) or self.interval_seconds
        for device_id, track in self._tracks.items():
            if track.first is not None:
                yield Meter(
                    device_id=device_id,
                    meter_type=self._layout.meter_type,
                    interval_seconds=min(track.gaps.usual() or usual, LONGEST_INTERVAL_SECONDS),
                    installed_at=track.first,
                    removed_at=None,
                    household_id=track.household or UNASSIGNED,
                    source="replay",
                )

    def usual_interval(self) -> int | None:
        """The most common gap between the readings of a meter so far, in seconds."""
        return usual_gap(track.gaps for track in self._tracks.values())

    def _read_header(self) -> tuple[dict[str, int], int]:
        name = self.source.path.name
        line = next(self._lines, None)
        if line is None:
            raise MetersError(f"{name} is empty, without even a header line")
        try:
            text = "" if line.flaw else line.raw.decode(_BEST_UTF8)
            header = [cell.strip() for cell in _cells(text, self._layout.separator)]
        except (UnicodeDecodeError, csv.Error):
            header = []
        if not any(header):
            raise MetersError(f"{name} does not begin with a CSV header line in UTF-8")
        found = ", ".join(header)
        for column in self._layout.columns:
            if column not in header:
                raise MetersError(
                    f"{name} has no column '{column}' when separated by '{self._layout.separator}'",
                    fix=f"Its columns are: {found}",
                )
            if header.count(column) > 1:
                raise MetersError(f"{name} has more than one column '{column}'", fix=f"Its columns are: {found}")
        return {column: header.index(column) for column in self._layout.columns}, len(header)

    def _row(self, line: Line) -> Row:
        device_id: str | None = None
        try:
            cells = self._split(line)
            device_id = self._device_of(cells)
            return self._read(line, device_id, cells)
        except _BadRow as error:
            return Refused(line.number, line.raw, device_id, error.error_class, error.message)

    def _split(self, line: Line) -> list[str]:
        if line.flaw:
            raise _BadRow("BadLine", line.flaw)
        try:
            cells = _cells(line.raw.decode(), self._separator)
        except UnicodeDecodeError as error:
            raise _BadRow("UnicodeDecodeError", f"byte {error.start} of the line is not UTF-8") from None
        except csv.Error as error:
            raise _BadRow("BadLine", f"the line is no CSV: {error}") from None
        if len(cells) != self._width:
            raise _BadRow("BadLine", f"the line has {len(cells)} columns and the header {self._width}")
        return cells

    def _device_of(self, cells: list[str]) -> str:
        if self._device_at is not None:
            return cells[self._device_at].strip()
        return self._layout.device_id or ""

    def _read(self, line: Line, device_id: str, cells: list[str]) -> Message | Missing:
        track = self._tracks.get(device_id)
        if track is None:
            # Checked before it can become a key of the state: garbage must not pile up there.
            if not is_device_id(device_id):
                raise _BadRow("BadDeviceId", f"'{self._layout.device_column}' is no device id")
            track = self._tracks[device_id] = MeterTrack()
        instant = self._instant_of(cells, track)
        text = cells[self._value_at].strip()
        if text in self._missing:
            track.saw(instant)
            return Missing(line.number)
        value = encode_message(self._fields(device_id, instant, track, cells, text))
        try:
            parse_reading(value)
        except ValidationError as error:
            raise _BadRow("ValidationError", _first_error(error)) from None
        # Only now: a refused row must not become what the next one counts from.
        track.accept(instant)
        if self._household_at is not None and not track.household:
            track.household = cells[self._household_at].strip()
        return Message(line.number, device_id, instant, value)

    def _instant_of(self, cells: list[str], track: MeterTrack) -> datetime:
        try:
            text = " ".join([cells[at].strip() for at in self._time_at])
            return to_instant(self._parse_time(text), self._zone, track.clock)
        except (ValueError, OverflowError):
            columns = ",".join(self._layout.time_columns)
            raise _BadRow("BadTime", f"'{columns}' is no time as {self._layout.time_format}") from None

    def _fields(
        self, device_id: str, instant: datetime, track: MeterTrack, cells: list[str], text: str
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {"device_id": device_id, "timestamp": iso_utc(instant)}
        usage = self._number(text, self._layout.value_column)
        if self._converts:
            usage = self._convert(usage * self.interval_seconds if self._unit.averaged else usage)
        name, rate = self._type.usage.name, self._type.rate
        if self._converts and self._type.fault_field == name:
            # A file may carry the fault sign itself; what is -1 only by conversion is a plain reading.
            usage = _not_fault_sign(usage, USAGE_DECIMALS)
        fields[name] = _shortest(usage)
        if rate:
            fields[rate.name] = _shortest(self._rate(usage, instant, track.base_of(instant)))
        if self._register_at is not None:
            counter = cells[self._register_at].strip()
            if counter not in self._missing:
                number = self._number(counter, self._layout.register_column)
                fields["register"] = _shortest(self._convert(number) if self._converts else number)
        return fields

    def _number(self, text: str, column: str | None) -> float:
        if self._layout.decimal == ",":
            # A dot is then a thousands mark or a mistake, and 1.234 would be off a thousandfold: refused.
            text = text.replace(".", "_").replace(",", ".")
        try:
            # float() also takes Python's 1_000, which no meter means.
            number = math.nan if "_" in text else float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise _BadRow("BadNumber", f"'{column}' is no finite number")
        return number

    def _convert(self, number: float) -> float:
        return round(number * self._unit.numerator / self._unit.denominator, USAGE_DECIMALS)

    def _rate(self, usage: float, instant: datetime, base: datetime | None) -> float:
        """Mean usage a minute since the reading before."""
        seconds = (instant - base).total_seconds() if base is not None else self.interval_seconds
        return _not_fault_sign(round(usage * 60 / seconds, RATE_DECIMALS), RATE_DECIMALS)


def read_messages(path: Path, layout: CsvLayout) -> Iterator[Row]:
    """Every row of the file, in order, as a message, a missing value or a refused row.

    Raises:
        MetersError: the file cannot be opened, or lacks a column.
    """
    readings = CsvReadings(path, layout)
    try:
        yield from readings
    finally:
        readings.close()


def learn_interval(path: Path, layout: CsvLayout) -> int:
    """The usual seconds between two readings of a meter, from the file's first rows; an hour where none repeats."""
    readings = CsvReadings(path, replace(layout, interval_seconds=INTERVAL_UNKNOWN_SECONDS))
    try:
        for _ in islice(readings, LEARN_FROM_ROWS):
            pass
        return min(readings.usual_interval() or INTERVAL_UNKNOWN_SECONDS, LONGEST_INTERVAL_SECONDS)
    finally:
        readings.close()


def _cells(text: str, separator: str) -> list[str]:
    if '"' not in text:
        return text.split(separator)
    return next(csv.reader([text], delimiter=separator, strict=True))


def _shortest(number: float) -> float | int:
    # 10 rather than 10.0, as the first field devices write it; larger ones keep the float's own exponent form.
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _not_fault_sign(computed: float, decimals: int) -> float:
    # -1 is how a meter reports its own fault. A figure that we computed is no such report, so it is moved by a tenth
    # of its last decimal; without this, 60 litres flowing back in an hour would look like a broken meter.
    return computed - 10.0 ** -(decimals + 1) if computed == FAULT_SIGN else computed


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{first['loc'][-1]}: {first['msg']}" if first["loc"] else first["msg"]
