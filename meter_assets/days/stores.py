"""Where days come from and go to, and what happens when one of these services does not answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from meter_assets.resources import LakeResource, MongoResource, SparkResource, service_errors
from metering.errors import ServiceAwayError
from metering.settings import load_settings

RETRIES = 3
FIRST_RETRY_SECONDS = 10


@dataclass(frozen=True)
class Stores:
    """Where days come from and go to."""

    pyspark: SparkResource
    mongo: MongoResource
    lake: LakeResource


@contextmanager
def again_when_away(context: dg.OpExecutionContext | dg.AssetExecutionContext, stores: Stores) -> Iterator[None]:
    """Have Dagster try the step again, RETRIES times, when a service does not answer.

    Raises:
        dagster.RetryRequested: a service is away.
    """
    try:
        with service_errors(load_settings()):
            yield
    except ServiceAwayError as error:
        stores.pyspark.leave()
        wait = FIRST_RETRY_SECONDS * 2**context.retry_number
        context.log.warning(f"{error} (again in {wait} s)" if context.retry_number < RETRIES else str(error))
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait) from error
