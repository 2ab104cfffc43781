"""Failures of a day's work: which may pass, and the one line that people read of each.

The work is tried again after a failure that may pass: a service that does not answer, a Spark that has been restarted,
a disk that is full. After any other it is not. All that knows disks is in `full_disk`, `_disks` and `_room`.
"""

import errno
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from grpc import RpcError, StatusCode
from py4j.protocol import Py4JError
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
from pyspark.errors import PySparkException
from rich.filesize import decimal

from metering.errors import MetersError, ServiceAwayError
from metering.settings import Settings
from runtime.mongo_errors import mongo_address, mongo_unavailable

OURS = (MetersError.__name__, ServiceAwayError.__name__)

SPARK_GONE = (
    "NO_ACTIVE_SESSION",
    "NO_ACTIVE_OR_DEFAULT_SESSION",
    "SESSION_OR_CONTEXT_NOT_EXISTS",
    "INVALID_HANDLE",  # SESSION_NOT_FOUND, SESSION_CHANGED, SESSION_CLOSED, OPERATION_NOT_FOUND, OPERATION_ABANDONED, …
    "SESSION_NOT_SAME",
    "INVALID_CURSOR",
    "RETRIES_EXCEEDED",
    "stopped SparkContext",
    "SparkContext was shut down",
    "SparkContext has been shutdown",
    "SparkContext is stopped",
    "SparkSession is closed",
    "closed channel",
    "Channel closed",
    "Stream removed",
    "RST_STREAM",
    "ExecutorLostFailure",  # of a cluster's worker, after Spark's own tries
    "Connection refused",
    "Connection reset",
    "Answer from Java side is empty",
)
"""Words of Spark's errors in which a server, a session or a connection has disappeared: a new session may succeed."""

SPARK_GONE_CODES = (StatusCode.UNAVAILABLE, StatusCode.CANCELLED, StatusCode.ABORTED, StatusCode.DEADLINE_EXCEEDED)

NO_SPACE = ("No space left on device", "Disk quota exceeded", "No usable temporary directory")
IO_ERROR = "58030"
"""SQLSTATE of Spark's errors of input and output. A full disk is the usual one; Spark seldom says which it was."""
UNSAFE_MEMORY = "fault occurred in a recent unsafe memory access"
"""Java's words for a file in memory whose disk had no room for the page."""

OUT_OF_DISK_SPACE = 14031

PASSING_CODES = frozenset(
    [1, 6, 7, 8, 24, 43, 46, 50, 64, 89, 91, 96, 100, 112, 133, 134, 146, 175, 189, 202, 225, 237, 244, 251, 262, 290]
    + [365, 9001, 10107, 11600, 11601, 11602, 13388, 13435, 13436]
)
"""MongoDB's errors of time, locks, elections, networks and its inside. With others it refuses what it always will.

https://github.com/mongodb/mongo/blob/v6.0/src/mongo/base/error_codes.yml
"""

PASSING_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError")


def failure_line(failure: Any) -> str:
    """One line for a step's failure: our own where there is one, else the first line of what was at the bottom of it.

    Args:
        failure: Dagster's StepFailureData.
    """
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    if error is None:
        return "see the run in the UI"
    while error.cause and error.cls_name not in OURS:
        error = error.cause
    line = error.message.strip().splitlines()[0]
    return line.split(": ", 1)[1] if error.cls_name in OURS else line


def mongo_failure(settings: Settings, error: PyMongoError) -> MetersError:
    """What to raise for an error of MongoDB: a ServiceAwayError when the same work may succeed later."""
    if full := full_disk(settings, error):
        return full
    if isinstance(error, OperationFailure) and _may_pass(error):
        return ServiceAwayError(
            f"MongoDB at {mongo_address(settings.mongo)} could not do it now: {_first_line(error)}",
            fix="Try again; if it stays so, read MongoDB's log",
        )
    return mongo_unavailable(settings, error)


def is_of_spark(error: BaseException) -> bool:
    """Does Spark, or the connection to it, raise such errors?"""
    if isinstance(error, ValueError):  # gRPC's, of a call on a connection that was closed meanwhile
        return "closed channel" in str(error)
    return isinstance(error, (PySparkException, Py4JError, RpcError))


def spark_is_gone(error: BaseException) -> bool:
    """Has Spark's server, session or connection disappeared? It may answer again meanwhile, and know nothing of us."""
    return any(_code(each) in SPARK_GONE_CODES or _names(each, SPARK_GONE) for each in _chain(error))


def full_disk(settings: Settings, error: BaseException) -> ServiceAwayError | None:
    """The line for an error that a full disk has caused, with the store that has no room; None for any other error."""
    if isinstance(error, PyMongoError):
        if OUT_OF_DISK_SPACE not in _mongo_codes(error) and not _names(error, NO_SPACE):
            return None
        where = "" if settings.mongo_uri else f": {_room(settings.home / 'mongo')}"
        return ServiceAwayError(
            f"The disk of MongoDB at {mongo_address(settings.mongo)} is full{where}",
            fix="Make room on it, and try again",
        )
    errors = list(_chain(error))
    if any(isinstance(each, OSError) and each.errno in (errno.ENOSPC, errno.EDQUOT) for each in errors):
        place = next((each.filename for each in errors if isinstance(each, OSError) and each.filename), None)
        what = f"A disk is full: {_room(Path(place))}" if place else f"A disk is full: {_disks(settings)}"
        return ServiceAwayError(what, fix="Make room on it, and try again")
    if not any(is_of_spark(each) for each in errors):
        return None
    if any(_names(each, NO_SPACE) for each in errors):
        return ServiceAwayError(
            f"A disk that Spark writes to is full: {_disks(settings)}", fix="Make room, and try again"
        )
    if any(_names(each, (UNSAFE_MEMORY,)) or _sql_state(each) == IO_ERROR for each in errors):
        return ServiceAwayError(
            f"Spark could not write, most likely because a disk is full: {_disks(settings)}",
            fix="Make room, and try again; if there is room, read Spark's log",
        )
    return None


def _disks(settings: Settings) -> str:
    """Where Spark writes, as far as this machine sees it, and how much room there is now."""
    places = {} if settings.is_lake_in_s3 else {"the lake": Path(settings.lake_path)}
    if not settings.spark_remote:
        places["Spark's temporary files"] = settings.home / "spark"
    found = ", ".join(f"{name} at {_room(place)}" for name, place in places.items())
    return found or "see the disks of Spark's machines"


def _room(place: Path) -> str:
    there = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    return f"{place} ({decimal(shutil.disk_usage(there).free)} free now)"


def _may_pass(error: OperationFailure) -> bool:
    return any(map(error.has_error_label, PASSING_LABELS)) or bool(PASSING_CODES.intersection(_mongo_codes(error)))


def _mongo_codes(error: PyMongoError) -> set[int]:
    """Codes of an error and, of a bulk write, of each of its writes."""
    if not isinstance(error, OperationFailure):
        return set()
    details: Mapping[str, Any] = error.details or {}
    parts: Iterable[Any] = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
    codes = {error.code, (details.get("writeConcernError") or {}).get("code"), *(part.get("code") for part in parts)}
    return {code for code in codes if code is not None}


def _first_line(error: OperationFailure) -> str:
    details: Mapping[str, Any] = error.details or {}
    if isinstance(error, BulkWriteError):
        parts = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        return str(parts[0].get("errmsg", error)) if parts else str(error)
    return str(details.get("errmsg", error)).strip().splitlines()[0]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and those that it came from."""
    seen: set[int] = set()
    left: BaseException | None = error
    while left is not None and id(left) not in seen:
        seen.add(id(left))
        yield left
        left = left.__cause__ or left.__context__


def _names(error: BaseException, words: Iterable[str]) -> bool:
    text = str(error)
    if trace := getattr(error, "getStackTrace", None):  # Spark's message may have the outermost error alone
        text += trace() or ""
    return any(word in text for word in words)


def _sql_state(error: BaseException) -> str | None:
    return error.getSqlState() if isinstance(error, PySparkException) else None


def _code(error: BaseException) -> StatusCode | None:
    if not is_of_spark(error):
        return None
    ask: Any = getattr(error, "getGrpcStatusCode", None) or getattr(error, "code", None)
    code = ask() if callable(ask) else None
    return code if isinstance(code, StatusCode) else None
