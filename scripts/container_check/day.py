"""A day's work for the containers: readings come in, faults are found, yesterday is materialized through GraphQL."""

import json
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from pymongo import MongoClient

from scripts.container_check.namespaces import Container, Network

WAIT_SECONDS = 180
METERS = 40  # of the simulator's default city, with a reading each 15 minutes
READINGS_A_DAY = METERS * 96

LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"

T = TypeVar("T")


def wait_for(what: str, condition: Callable[[], T]) -> T:
    """Ask until the answer is true.

    Raises:
        SystemExit: it is not within WAIT_SECONDS.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"error: not within {WAIT_SECONDS} s: {what}")
        time.sleep(1)
    return answer


def ask(url: str, query: str, **variables: Any) -> dict[str, Any]:
    """Ask the webserver as its UI does."""
    request = urllib.request.Request(  # noqa: S310 - the address is a container's
        f"{url}/graphql",
        data=json.dumps({"query": query, "variables": variables}).encode(),
        # The guard answers for the loopback's names, as they are when Docker publishes the port.
        headers={"Content-Type": "application/json", "Host": "localhost"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        answer = json.load(response)
    if "errors" in answer:
        raise SystemExit(f"error: {answer['errors'][0]['message'][:300]}")
    return answer["data"]


def work_a_day(webserver: str, secrets: dict[str, str], network: Network, code_server: Container) -> None:
    """See that the simulator's readings arrive, that faults do, and that yesterday can be materialized.

    Args:
        webserver: its URL.
        secrets: the .env.
        network: where MongoDB is.
        code_server: where an operator's commands run.

    Raises:
        SystemExit: something does not come about.
    """
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = (midnight - timedelta(days=1)).date().isoformat()
    with MongoClient(
        network.addresses["mongo"],
        username="reader",
        password=secrets["MONGO_READER_PASSWORD"],
        directConnection=True,
        tz_aware=True,
    ) as client:
        database = client["iot"]
        day = {"timestamp": {"$gte": midnight - timedelta(days=1), "$lt": midnight}}
        wait_for("yesterday's readings", lambda: database["iot-meter"].count_documents(day) == READINGS_A_DAY)
        print(f"ok {READINGS_A_DAY:,} readings of {yesterday} went through Kafka into MongoDB")
        wait_for("faults", lambda: database["iot-abnormal"].count_documents(day))
        print("ok the router has found faults, and they are stored")
        _materialize(webserver, yesterday)
        published = {
            each["meter_type"]: each for each in database["daily_averages"].find({"calculation_date": yesterday})
        }
        if published.keys() != {"electricity", "water"}:
            raise SystemExit(f"error: daily_averages of {yesterday} has {sorted(published)}")
        readings = {meter_type: each["readings"] for meter_type, each in sorted(published.items())}
        print(f"ok {yesterday} is materialized, from the webserver over daemon and code server to Spark: {readings}")
    before = (midnight - timedelta(days=2)).date().isoformat()
    code, output = code_server.execute(["meters", "backfill", before], WAIT_SECONDS)
    if code:
        raise SystemExit(f"error: meters backfill {before} in the code server: {output.strip()[-300:]}")
    print(f"ok {output.strip().splitlines()[0]} of {before}, by meters backfill in the code server")


def _materialize(webserver: str, day: str) -> None:
    selector = {
        "repositoryLocationName": "meter_assets",
        "repositoryName": "__repository__",
        "jobName": "daily_readings_job",
    }
    tags = [{"key": "dagster/partition", "value": day}]
    launched = ask(webserver, LAUNCH, params={"selector": selector, "executionMetadata": {"tags": tags}})["launchRun"]
    if launched["__typename"] != "LaunchRunSuccess":
        raise SystemExit(f"error: the run does not start: {launched}")
    run_id = launched["run"]["runId"]

    def ended() -> str | None:
        status = ask(webserver, STATUS, id=run_id)["runOrError"]["status"]
        return status if status in ("SUCCESS", "FAILURE", "CANCELED") else None

    if (status := wait_for("the run ends", ended)) != "SUCCESS":
        raise SystemExit(f"error: the run of {day} ended as {status}")
