"""Why a query died, in one line, from the traces that Spark, Java and Python leave."""

import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metering.settings import READINGS_TOPIC

LONGEST_LINE = 300


@dataclass(frozen=True)
class Failure:
    """Why a query died.

    Args:
        why: in a few words, without a full stop.
        service: another service does not answer; nothing is wrong with the query's own offsets or readings.
        damaged: its checkpoint cannot be read.
        fatal: it cannot run in this installation; what to do about it.
    """

    why: str
    service: bool = False
    damaged: bool = False
    fatal: str = ""


GONE = Failure(f"the topic {READINGS_TOPIC} or a fault topic is gone")
PAST = Failure("Kafka no longer has readings that the router has not seen, or the topic was made again")
MONGO = Failure("MongoDB does not answer", service=True)
KAFKA = Failure("Kafka does not answer", service=True)
FULL = Failure("no space left on device", service=True)
DAMAGED = Failure("its checkpoint is damaged", damaged=True)

KNOWN = (
    ("No space left on device", FULL),
    ("SQLSTATE: 58030", FULL),
    ("unsafe memory access operation", FULL),
    ("OutOfDiskSpace", Failure("MongoDB's disk is full: make room there", service=True)),
    ("MongoTimeoutException", MONGO),
    ("MongoSocket", MONGO),
    ("MongoNodeIsRecovering", MONGO),
    ("MongoNotPrimary", MONGO),
    ("ServerSelectionTimeoutError", MONGO),
    ("NetworkTimeout", MONGO),
    ("AutoReconnect", MONGO),
    ("ConnectionFailure", MONGO),
    ("ExecutionTimeout", MONGO),
    ("UnknownTopicOrPartition", GONE),
    ("KAFKA_DATA_LOSS", PAST),
    ("OffsetOutOfRange", PAST),
    ("OutOfMemoryError", Failure("Spark ran out of memory")),
    ("Received exception when fetching the next record", Failure("Spark cannot unpack what Kafka holds")),
    ("CorruptRecordException", Failure("Kafka holds a damaged batch")),
    ("org.apache.kafka.common.errors.TimeoutException", KAFKA),
    ("BrokerNotAvailable", KAFKA),
    ("LeaderNotAvailable", KAFKA),
    ("MALFORMED_LOG_FILE", DAMAGED),
    ("Incomplete log file", DAMAGED),
    ("ChecksumException", DAMAGED),
    ("Log file was malformed", DAMAGED),
    ("REAL_TIME_MODE", Failure("this Spark has no real-time mode for it", fatal="Set METERS_ROUTER_MODE=micro-batch")),
)
"""What a trace holds, and what it means; the first one that it holds counts."""


def explain(error: Any, *, folders: Iterable[Path] = ()) -> Failure:
    """What a query's end means.

    Args:
        error: its exception, or None.
        folders: where it writes, to name the one that is full.
    """
    text = f"{error}\n{getattr(error, 'stackTrace', '') or ''}" if error else ""
    if not text.strip():
        return Failure("it ended without a reason")
    for sign, failure in KNOWN:
        if sign in text:
            return Failure(disk_full(folders), service=True) if failure is FULL else failure
    return Failure(innermost(text))


def disk_full(folders: Iterable[Path]) -> str:
    """Which of the folders has the least room left."""
    candidates = [folder for folder in (*folders, Path(tempfile.gettempdir())) if folder.exists()]
    if not candidates:
        return "a disk is full"
    fullest = min(candidates, key=lambda folder: shutil.disk_usage(folder).free)
    free = shutil.disk_usage(fullest).free >> 20
    return f"the disk of {fullest} is full ({free:,} MiB left): make room there"


_PYTHON_FRAME = re.compile(r"^\s+File \"[^\"]+\", line \d+")
_PYTHON_ERROR = re.compile(r"^(?:[A-Za-z_][\w.]*)(?:Error|Exception|Timeout|Interrupt|Exit|Reconnect)\b.*")
_JAVA_FRAME = re.compile(r"^\s*(at [\w.$/<>]+\(|\.\.\. \d+ more)")


def innermost(text: str) -> str:
    """The cause of causes in a Java trace, a Python trace or one within the other; one line."""
    lines = [line.rstrip() for line in text.splitlines()]
    causes = [line.strip().removeprefix("Caused by: ") for line in lines if line.strip().startswith("Caused by: ")]
    python = _last_python_error(lines)
    candidates = [python] if python else [line for line in reversed(causes) if "Traceback (most recent" not in line]
    candidates += [
        line.strip()
        for line in lines
        if line.strip() and not _JAVA_FRAME.match(line) and "Traceback (most recent call last)" not in line
    ]
    return first_line(candidates[0]) if candidates else "it ended without a reason"


def _last_python_error(lines: list[str]) -> str:
    """The exception that a Python trace ends with; empty without one. Of chained ones the last was raised last."""
    found, within = "", False
    for line in lines:
        if "Traceback (most recent call last)" in line:
            within = True
        elif within and _PYTHON_ERROR.match(line.strip()) and not _PYTHON_FRAME.match(line):
            found, within = line.strip(), False
    return found


def first_line(error: object) -> str:
    """The first line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:LONGEST_LINE].rstrip(". ") if lines else type(error).__name__
