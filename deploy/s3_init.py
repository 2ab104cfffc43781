"""Makes the bucket of METERS_LAKE in the store of docker-compose.yml, unless it is there; a folder needs none."""

import sys
import time

from metering.errors import MetersError, ServiceAwayError
from metering.settings import Settings, load_settings
from runtime.s3 import bucket_and_prefix, connect_store, probe_store, store_errors

READY_TIMEOUT_SECONDS = 120
POLL_SECONDS = 1


def make_bucket(settings: Settings) -> str:
    """Make it, once the store answers; returns a line that says what was done.

    Raises:
        MetersError: the store does not answer in time, or refuses.
    """
    if not settings.is_lake_in_s3:
        return "METERS_LAKE is a folder: nothing to do"
    bucket, _ = bucket_and_prefix(settings.lake_path)
    deadline = time.monotonic() + READY_TIMEOUT_SECONDS
    while True:
        try:
            with store_errors(settings):
                connect_store(settings, may_make_bucket=True).create_dir(bucket)
            return probe_store(settings)
        except ServiceAwayError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Say what was done, or in one line why it was not."""
    try:
        print(make_bucket(load_settings()))
    except MetersError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
