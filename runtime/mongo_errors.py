"""MongoDB's errors in one line each: what is wrong, and what to do about it."""

from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
)

from metering.addresses import mongo_hosts
from metering.errors import MetersError, ServiceAwayError
from metering.settings import Settings
from runtime.full_disk import full_disk_line
from runtime.local_services import trouble_note

LOGIN = frozenset({11, 13, 18, 31, 33, 8000})
"""UserNotFound, Unauthorized, AuthenticationFailed, RoleNotFound, no such mechanism, and Atlas for any of them."""

DISK = frozenset({14031})

TIME = frozenset({24, 46, 50, 202, 262, 290})
"""Time-outs of locks, operations, members' networks and transactions; 50 is MaxTimeMSExpired, 262 ExceededTimeLimit."""

NOT_PRIMARY = frozenset({91, 189, 10058, 10107, 11600, 11602, 13435, 13436})
"""ShutdownInProgress, PrimarySteppedDown, NotWritablePrimary and their kin: a replica set between two primaries."""

WRITE_CONCERN = frozenset({64, 79, 100})
INTERRUPTED = frozenset({237, 11601})
"""CursorKilled, Interrupted."""

MEMORY = frozenset({146, 292, 313})
"""ExceededMemoryLimit, the same for a query without use of the disk, TransactionTooLargeForCache."""

INTERNAL = frozenset({0, 1, 8, 39})
"""Errors within the server, which a full disk may have caused."""

TOO_LARGE = frozenset({10334, 17280, 17419, 17420})
CONFLICT = frozenset({112, 251})
VALIDATION = 121
DUPLICATE = 11000
WRITES_FAILED = 65


def mongo_address(uri: str) -> str:
    """The hosts of a MongoDB URI, without its credentials."""
    return mongo_hosts(uri)


def mongo_unavailable(settings: Settings, error: PyMongoError | DocumentTooLarge) -> MetersError:
    """The line for an error of MongoDB; a ServiceAwayError where the same work may well succeed later."""
    address = mongo_address(settings.mongo)
    if isinstance(error, OperationFailure):
        return _refused(settings, address, error)
    if isinstance(error, NotPrimaryError):
        return _no_primary(address, _first_line(str(error)))
    if isinstance(error, DocumentTooLarge):
        return _too_large(address, str(error))
    if isinstance(error, ConnectionFailure):
        return _silent(settings, address)
    return MetersError(f"MongoDB at {address} cannot be used: {type(error).__name__}: {_first_line(str(error))}")


def is_worth_another_try(error: PyMongoError) -> bool:
    """May the same work succeed later? Not where MongoDB refuses the user or the command itself."""
    if isinstance(error, OperationFailure):
        return _inner(error)[0] in DISK | TIME | NOT_PRIMARY | WRITE_CONCERN | INTERRUPTED | INTERNAL | CONFLICT
    return isinstance(error, AutoReconnect)


def _silent(settings: Settings, address: str) -> ServiceAwayError:
    what = f"MongoDB does not answer at {address}"
    is_local = not settings.mongo_uri
    disk = full_disk_line(settings, folders=sorted(settings.home.glob("mongo*/data"))) if is_local else None
    if is_local and (note := trouble_note(settings, "mongo")):
        return ServiceAwayError(what, fix=note)
    if disk:
        return ServiceAwayError(f"{what}, and {disk}", fix="Free some, then start it: `meters up`")
    return ServiceAwayError(what, fix="Start the local stack with `meters up` or set METERS_MONGO_URI")


def _refused(settings: Settings, address: str, error: OperationFailure) -> MetersError:
    code, message = _inner(error)
    who = f"MongoDB at {address}"
    is_local = not settings.mongo_uri
    disk = full_disk_line(settings, message) if is_local and code in DISK | INTERNAL else None
    if code in DISK or disk:
        return ServiceAwayError(
            f"{who} has no disk space: {disk or message}", fix="Free some; MongoDB then goes on by itself"
        )
    if code in LOGIN:
        return MetersError(f"{who} refused: {message}", fix="Check the user, password and rights in METERS_MONGO_URI")
    if code in TIME:
        return _too_slow(address, message)
    if code in NOT_PRIMARY:
        return _no_primary(address, message)
    if code in WRITE_CONCERN:
        return ServiceAwayError(
            f"{who} did not confirm a write by enough members: {message}", fix="See that they run, then try again"
        )
    if code in INTERRUPTED:
        return ServiceAwayError(f"{who} was made to stop this work: {message}", fix="Try again")
    if code in CONFLICT or error.has_error_label("TransientTransactionError"):
        return ServiceAwayError(f"{who} met another writer: {message}", fix="Try again")
    if code in TOO_LARGE:
        return _too_large(address, message)
    if code in MEMORY:
        return MetersError(
            f"{who} needs more memory for this than it may use: {message}",
            fix="Ask for a smaller part, or give MongoDB a larger cache",
        )
    if code == VALIDATION:
        return MetersError(
            f"{who} refused a document that its collection's validator does not allow: {message}",
            fix="Another version of this platform, or another program, writes there: see that all are of one version",
        )
    if code == DUPLICATE:
        return MetersError(f"{who} refused a second document with the same key: {message}", fix="Try again")
    name = (error.details or {}).get("codeName")
    said = f"{message} ({name or f'code {code}'})" if code or name else message
    return MetersError(f"{who} refused: {said}", fix="Read MongoDB's log; nothing in the settings is known to be wrong")


def _no_primary(address: str, message: str) -> ServiceAwayError:
    return ServiceAwayError(f"MongoDB at {address} has no primary now: {message}", fix="Try again when one is elected")


def _too_slow(address: str, message: str) -> ServiceAwayError:
    return ServiceAwayError(
        f"MongoDB at {address} took too long: {message}", fix="See what else it does (db.currentOp()), then try again"
    )


def _too_large(address: str, message: str) -> MetersError:
    return MetersError(
        f"MongoDB at {address} takes no document above 16 MB: {_first_line(message)}",
        fix="See which message or day makes so large a one",
    )


def _inner(error: OperationFailure) -> tuple[int, str]:
    """The code and text of the error itself, not of the batch of writes that it was among."""
    if isinstance(error, BulkWriteError):
        details = error.details or {}
        found = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        if found:
            # One that is not a duplicate explains more.
            worst = next((each for each in found if each.get("code") != DUPLICATE), found[0])
            return int(worst.get("code") or WRITES_FAILED), _first_line(str(worst.get("errmsg") or error))
    return int(error.code or 0), _message(error)


def _message(error: OperationFailure) -> str:
    return _first_line(str((error.details or {}).get("errmsg") or error))


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0][:300].rstrip(".")
