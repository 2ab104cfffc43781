"""The lake's object store: its address for Spark and for ourselves, and what its errors mean to a person.

Address and region are settings; the keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of the environment, which
Spark's S3A and pyarrow both read by themselves: they stand in no configuration, command line or message. What a lake is
made of is not known here.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from metering.errors import MetersError, ServiceAwayError
from metering.settings import S3A_URL, Settings

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

CONNECT_WITHIN_SECONDS = 5
ANSWER_WITHIN_SECONDS = 300
"""A store may be silent while it copies an object of some gigabytes; the client's own 3 s would give up on it."""

# What pyarrow's message has of an answer, in the order in which it is looked for.
REFUSALS = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 403", "HTTP status 401"),
    "UNKNOWN (HTTP status 404)",  # Versity's gateway, of a user that it does not know
)
OTHER_REGION = ("HTTP status 301", "PermanentRedirect", "AuthorizationHeaderMalformed")


def bucket_and_prefix(url: str) -> tuple[str, str]:
    """The bucket of an s3a URL, and what comes after it, without slashes around it.

    Raises:
        MetersError: it is no such URL.
    """
    if not (match := S3A_URL.fullmatch(url)):
        raise MetersError(
            "METERS_LAKE is no URL like s3a://bucket/prefix", fix="Correct it in the environment or in .env"
        )
    return match["bucket"], (match["prefix"] or "").strip("/")


def spark_options(settings: Settings) -> dict[str, str]:
    """Spark properties for the object store; none for a lake in a folder."""
    if not settings.is_lake_in_s3:
        return {}
    options = {
        "spark.hadoop.fs.s3a.endpoint.region": settings.s3_region,
        # The default one (analytics) keeps what it knows of each object for as long as the file system lives: in a warm
        # server for ever (HADOOP-20058).
        "spark.hadoop.fs.s3a.input.stream.type": "classic",
    }
    if settings.s3_endpoint:
        # A host name for each bucket is Amazon's own way; others are seldom set up for it.
        options |= {
            "spark.hadoop.fs.s3a.endpoint": settings.s3_endpoint,
            "spark.hadoop.fs.s3a.path.style.access": "true",
        }
    return options


def require_keys() -> None:
    """See that the environment has the keys: without them, clients look for them elsewhere for a long time.

    Raises:
        MetersError: it has not.
    """
    if absent := [name for name in KEYS if not os.environ.get(name)]:
        raise MetersError(
            f"The lake's object store needs keys: {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not set",
            fix=f"Set {' and '.join(KEYS)} in the environment",
        )


def connect_store(settings: Settings, *, may_make_bucket: bool = False) -> "S3FileSystem":
    """The store as a file system of pyarrow's; asks nothing of it yet.

    Raises:
        MetersError: the environment has no keys.
    """
    require_keys()
    from pyarrow.fs import S3FileSystem

    return S3FileSystem(
        region=settings.s3_region,
        endpoint_override=settings.s3_endpoint,
        connect_timeout=CONNECT_WITHIN_SECONDS,
        request_timeout=ANSWER_WITHIN_SECONDS,
        allow_bucket_creation=may_make_bucket,
    )


def probe_store(settings: Settings) -> str:
    """Ask the store for the lake's bucket; returns a line that says where it is.

    Raises:
        ServiceAwayError: the store does not answer.
        MetersError: no keys, wrong ones, or no such bucket.
    """
    from pyarrow.fs import FileSelector

    bucket, _ = bucket_and_prefix(settings.lake_path)
    # A list of nothing: to the question whether there is a bucket, an answer has no room for a reason.
    with store_errors(settings), suppress(FileNotFoundError):
        connect_store(settings).get_file_info(FileSelector(f"{bucket}/.nothing"))
    return f"bucket {bucket} answers at {_address(settings)}"


@contextmanager
def store_errors(settings: Settings) -> Iterator[None]:
    """Say of a store's error in one line what it means.

    Raises:
        ServiceAwayError: it does not answer: the same work may succeed later.
        MetersError: it refuses.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _explained(settings, str(error)) from error


def _explained(settings: Settings, message: str) -> MetersError:
    address = _address(settings)
    if "NO_SUCH_BUCKET" in message:
        bucket, _ = bucket_and_prefix(settings.lake_path)
        return MetersError(
            f"The object store at {address} has no bucket {bucket}", fix="Make it, or correct METERS_LAKE"
        )
    if any(sign in message for sign in REFUSALS):
        return MetersError(
            f"The object store at {address} refuses the keys of the environment",
            fix=f"Correct {' and '.join(KEYS)}, or their rights on the bucket",
        )
    if any(sign in message for sign in OTHER_REGION):
        return MetersError(
            f"The object store at {address} does not have the bucket in region {settings.s3_region}",
            fix="Set AWS_REGION",
        )
    if "NETWORK_CONNECTION" in message or "curlCode" in message or "HTTP status 5" in message:
        return ServiceAwayError(
            f"The object store does not answer at {address}", fix="Start it, or correct AWS_ENDPOINT_URL"
        )
    return MetersError(f"The object store at {address} failed: {message.splitlines()[0][:300]}")


def _address(settings: Settings) -> str:
    """Host and port of the store, without what else a URL may hold."""
    if not settings.s3_endpoint:
        return f"Amazon S3, {settings.s3_region}"
    url = urlsplit(settings.s3_endpoint)
    return f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"
