"""What a command's failure becomes: one line and an exit code, never a stack trace on the terminal.

An unforeseen error is a bug of ours: its trace is kept in a file, and METERS_DEBUG=1 shows it as well.
"""

import contextlib
import errno
import os
import sys
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path

from meter_cli.console import visible
from metering.addresses import redact
from metering.errors import MetersError
from metering.settings import Settings, load_settings

FORESEEN, UNFORESEEN = 1, 70
"""Exit codes: something that the user can correct or wait for; a bug (EX_SOFTWARE of sysexits.h)."""

MAX_TRACES = 20
MAX_MESSAGE_CHARACTERS = 300


def explain(error: Exception) -> tuple[str, int]:
    """The line for an error that ends a command, and the exit code."""
    if isinstance(error, MetersError):
        return str(error), FORESEEN
    settings = _settings()
    if settings and (foreseen := _foreseen(error, settings)):
        return str(foreseen), FORESEEN
    inner = innermost(error)
    said = redact(" ".join(str(inner).split()))[:MAX_MESSAGE_CHARACTERS].rstrip(".")
    what = f"{type(inner).__name__}: {said}" if said else type(inner).__name__
    file = _keep_trace(error, settings)
    where = f"The full trace is in {file}" if file else "METERS_DEBUG=1 shows the full trace"
    return f"This is a bug: {what}. {where}", UNFORESEEN


def innermost(error: BaseException) -> BaseException:
    """The error at the bottom: what caused what caused it."""
    seen = {id(error)}
    while True:
        below = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if below is None or id(below) in seen:
            return error
        seen.add(id(below))
        error = below


def wants_trace() -> bool:
    """Does the user want to see traces?"""
    return os.environ.get("METERS_DEBUG", "") not in ("", "0")


def _foreseen(error: Exception, settings: Settings) -> MetersError | None:
    """The error of a service or of the system in words, wherever it was raised."""
    from kafka.errors import KafkaError
    from pymongo.errors import DocumentTooLarge, PyMongoError

    from runtime.full_disk import full_disk_error
    from runtime.mongo_errors import mongo_unavailable
    from streaming.kafka.clients import kafka_errors

    inner = innermost(error)
    if isinstance(inner, OSError) and inner.errno in (errno.ENOSPC, errno.EDQUOT):
        return full_disk_error(settings, str(inner)) or MetersError("A disk is full", fix="Free some")
    for each in (error, inner):
        if isinstance(each, PyMongoError | DocumentTooLarge):
            return mongo_unavailable(settings, each)
        if isinstance(each, KafkaError):
            try:
                with kafka_errors(settings):
                    raise each
            except MetersError as known:
                return known
    if isinstance(inner, OSError) and inner.errno in (errno.EACCES, errno.EROFS) and inner.filename:
        return MetersError(
            f"{inner.filename} cannot be used: {inner.strerror}", fix="See to its rights, or name another"
        )
    return full_disk_error(settings, str(inner)) if type(inner).__module__.startswith(("pyspark", "py4j")) else None


def _settings() -> Settings | None:
    try:
        return load_settings()
    except Exception:  # noqa: BLE001 - it may be the error that is being explained
        return None


def _keep_trace(error: Exception, settings: Settings | None) -> Path | None:
    text = redact("".join(traceback.format_exception(error)))
    if wants_trace():
        print(visible(text), file=sys.stderr)
    name = f"trace-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{os.getpid()}.log"
    for folder in ([settings.home / "logs"] if settings else []) + [Path(tempfile.gettempdir())]:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        for old in sorted(folder.glob("trace-*.log"))[:-MAX_TRACES]:
            with contextlib.suppress(OSError):
                old.unlink()
        return folder / name
    return None
