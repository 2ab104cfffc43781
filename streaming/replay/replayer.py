"""Replay: a real CSV file's readings into Kafka, at full speed or paced by their own timestamps.

Conservation law: rows = sent + missing + refused, and every refused row lies in the dead letters with its raw line.
Reading and building is in csv_readings.py; this module sends, paces, counts, and enters the meters in the registry.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pymongo.database import Database

from metering.errors import MetersError
from metering.reading import iso_utc
from metering.registry import METERS, register_meters
from metering.settings import DEAD_LETTERS_TOPIC, READINGS_TOPIC, Settings
from metering.store import ensure_collections
from runtime.database import open_database
from streaming.dead_letter_topic import dead_letter_headers, ensure_dead_letters_topic
from streaming.kafka.clients import Headers, Sender, ensure_topics
from streaming.replay.csv_layout import CsvLayout
from streaming.replay.csv_readings import CsvReadings, Message, Missing, Refused, Row

PROGRESS_EVERY_ROWS = 1000

MAX_NEW_METERS = 10_000
"""A file with more meters than these that the registry does not know was probably read by the wrong column."""

MAX_COUNTED_IDS = 1_000_000
"""A file with more is not counted to its end: its ids would not fit into memory."""

IDS_PER_QUERY = 1000

PROGRESS_EVERY_SECONDS = 1.0
"""Longest silence of the progress callback while a paced replay waits."""


@dataclass
class ReplayReport:
    """What a replay did so far; complete once `replay` returns it."""

    file: str
    topic: str
    rows: int = 0
    sent: int = 0
    missing: int = 0
    refused: int = 0
    meters: int = 0
    new_meters: int = 0
    dry_run: bool = False
    first_instant: datetime | None = None
    last_instant: datetime | None = None
    seconds: float = 0.0
    first_refused_line: int | None = None
    first_refused_why: str | None = None
    damage: str | None = None
    dead_letters_topic: str = DEAD_LETTERS_TOPIC

    @property
    def rows_per_second(self) -> float:
        """Rows a second, from the first row to the last acknowledgement."""
        return self.rows / self.seconds if self.seconds else 0.0

    @property
    def error(self) -> str | None:
        """One line on what did not go well; None when every row is a reading or a missing value."""
        parts = []
        if self.damage:
            parts.append(f"{self.file}: {self.damage}; the {self.rows:,} rows before that were read")
        if self.refused:
            parts.append(
                f"{self.refused:,} of {self.rows:,} rows were refused, first line {self.first_refused_line}: "
                f"{self.first_refused_why}" + ("" if self.dry_run else f"; they are kept in {self.dead_letters_topic}")
            )
        return ". ".join(parts) or None

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document; instants as in messages."""
        fields = asdict(self)
        for name in ("first_instant", "last_instant"):
            fields[name] = iso_utc(fields[name]) if fields[name] else None
        return {**fields, "rows_per_second": round(self.rows_per_second, 1), "error": self.error}


def replay(
    path: Path,
    layout: CsvLayout,
    settings: Settings,
    *,
    speed: float | None = None,
    limit: int | None = None,
    topic: str = READINGS_TOPIC,
    dead_letters_topic: str = DEAD_LETTERS_TOPIC,
    on_progress: Callable[[int, int, ReplayReport], None] | None = None,
    dry_run: bool = False,
    many_meters: bool = False,
) -> ReplayReport:
    """Send a file's readings, in the file's order, and register its meters.

    Args:
        path: the file, plain or gzip.
        layout: where its readings are.
        settings: says where Kafka and MongoDB are.
        speed: how much faster than real time; None: as fast as it goes.
        limit: rows to read at most.
        topic: where readings go.
        dead_letters_topic: where refused rows go.
        on_progress: called now and then with bytes read, bytes in all and the report so far.
        dry_run: read and judge every row, and send and register nothing.
        many_meters: the file may bring more than MAX_NEW_METERS new meters.

    Returns:
        The report, after Kafka has acknowledged every message.

    Raises:
        MetersError: the file does not fit the layout, has too many new meters, or a service is not there; nothing is
            sent in these cases. Also when a service fails on the way.
    """
    with closing(CsvReadings(path, layout)) as readings, open_database(settings) as database:
        new_meters = count_new_meters(database, path, layout, limit)
        if dry_run:
            report = ReplayReport(file=path.name, topic=topic, dead_letters_topic=dead_letters_topic, dry_run=True)
            _Run(readings, None, None, report, None, on_progress).send(limit)
            report.meters, report.new_meters = sum(1 for _ in readings.meters()), new_meters
            return report
        if new_meters > MAX_NEW_METERS and not many_meters:
            raise MetersError(
                f"{path.name} would register {new_meters:,} new meters, as many as it has different ids in "
                f"'{layout.device_column}'",
                fix="Name the column of the meter's id with --device; look first with --dry-run; --yes to go on",
            )
        ensure_topics(settings, topic)
        ensure_dead_letters_topic(settings, dead_letters_topic)
        report = ReplayReport(file=path.name, topic=topic, dead_letters_topic=dead_letters_topic)
        report.new_meters = new_meters
        ensure_collections(database)
        try:
            with Sender(settings, topic) as sender, Sender(settings, dead_letters_topic) as refusals:
                _Run(readings, sender, refusals, report, speed, on_progress).send(limit)
        finally:
            # Also after Ctrl-C in a paced replay: what was sent needs its registry entries.
            meters = list(readings.meters())
            report.meters = len(meters)
            register_meters(database, meters)
    return report


def count_new_meters(database: Database, path: Path, layout: CsvLayout, limit: int | None = None) -> int:
    """How many ids in the file the registry does not know; the file is read beforehand, for its ids alone."""
    if layout.device_column is None:
        ids = {layout.device_id or ""}
    else:
        with closing(CsvReadings(path, layout)) as readings:
            ids: set[str] = set()
            for device_id in islice(readings.device_ids(), limit):
                ids.add(device_id)
                if len(ids) >= MAX_COUNTED_IDS:
                    break
    remaining, known = iter(ids), 0
    while chunk := list(islice(remaining, IDS_PER_QUERY)):
        known += database[METERS].count_documents({"_id": {"$in": chunk}})
    return len(ids) - known


class _Run:
    """One replay on open connections; without them a dry run."""

    def __init__(
        self,
        readings: CsvReadings,
        sender: Sender | None,
        refusals: Sender | None,
        report: ReplayReport,
        speed: float | None,
        on_progress: Callable[[int, int, ReplayReport], None] | None,
    ) -> None:
        self._readings = readings
        self._sender = sender
        self._refusals = refusals
        self._report = report
        self._speed = speed
        self._on_progress = on_progress
        self._began = time.monotonic()
        self._origin: tuple[datetime, float] | None = None  # the first reading, and when it was sent

    def send(self, limit: int | None) -> None:
        """Send every row, and return once all are acknowledged."""
        report = self._report
        for row in islice(self._readings, limit):
            self._handle(row)
            report.rows += 1
            if report.rows % PROGRESS_EVERY_ROWS == 0:
                self._show()
        report.damage = self._readings.source.damage
        for sender in (self._sender, self._refusals):
            if sender:
                sender.flush()
        self._show()

    def _handle(self, row: Row) -> None:
        report = self._report
        if isinstance(row, Message):
            if self._speed is not None:
                self._wait_for(row.instant, self._speed)
            if self._sender:
                self._sender.send(row.value, key=row.device_id.encode())
            report.sent += 1
            if self._origin is None:
                # Taken after sending: the first message also waits for the topic's metadata, which is no meter's time.
                self._origin = row.instant, time.monotonic()
            if report.first_instant is None or row.instant < report.first_instant:
                report.first_instant = row.instant
            if report.last_instant is None or row.instant > report.last_instant:
                report.last_instant = row.instant
        elif isinstance(row, Missing):
            report.missing += 1
        else:
            key = row.device_id.encode() if row.device_id else None
            if self._refusals:
                self._refusals.send(row.raw, key=key, headers=refused_row_headers(row, report.file))
            report.refused += 1
            if report.first_refused_line is None:
                report.first_refused_line, report.first_refused_why = row.line, row.message

    def _wait_for(self, instant: datetime, speed: float) -> None:
        """Sleep until the reading is due, counted from the first one; readings earlier than others are due at once."""
        if self._origin is None:
            return
        first, sent_at = self._origin
        due = sent_at + (instant - first).total_seconds() / speed
        while (wait := due - time.monotonic()) > 0:
            self._show()
            time.sleep(min(wait, PROGRESS_EVERY_SECONDS))

    def _show(self) -> None:
        self._report.seconds = time.monotonic() - self._began
        if self._on_progress is not None:
            source = self._readings.source
            self._on_progress(source.bytes_read, source.size, self._report)


def refused_row_headers(row: Refused, file: str) -> Headers:
    """Headers of a refused row's dead letter; `source` is `<file name>:<line number>`."""
    headers = dead_letter_headers(reason="bad_row", stage="REPLAY", error_class=row.error_class, message=row.message)
    return [*headers, ("source", f"{file}:{row.line}".encode())]
