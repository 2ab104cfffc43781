"""The Dagster UI's own way: a webserver and daemon, driven by GraphQL, on the real stack."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from local_stack import LocalStack
from local_stack.dagster import Dagster, webserver_url
from meter_assets_tests.browser_support import chromium
from meter_assets_tests.support import ask, meters, wait_for
from meter_assets_tests.web_support import SELECTOR, Webserver, as_json, forge
from metering.settings import Settings

RUN_SECONDS = 240
CLICK_PATIENCE_MS = 120_000


@pytest.fixture
def dagster(stack: LocalStack, database: Settings, tmp_path) -> Iterator[Settings]:
    # Without a router, which is a Spark of its own: other tests look at it.
    own = database.model_copy(update={"lake": str(tmp_path / "lake"), "router_sensor": False})
    server = Dagster(own)
    server.launch()
    try:
        server.wait_ready()
        yield own
    finally:
        server.stop()


def test_one_day_is_materialized_and_three_are_backfilled(dagster: Settings):
    sent = meters(dagster, "simulate", "--days", "4", "--households", "2", "--json")
    assert sent.returncode == 0, sent.stderr
    assert meters(dagster, "ingest", "--until-caught-up").returncode == 0
    today = datetime.now(UTC).date()
    days = [str(today - timedelta(days=back)) for back in (4, 3, 2, 1)]

    launched = ask(
        dagster,
        """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
             __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }""",
        params={
            "selector": {**SELECTOR, "jobName": "daily_readings_job"},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": days[0]}]},
        },
    )["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched

    def run_status() -> str:
        query = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
        return ask(dagster, query, id=launched["run"]["runId"])["runOrError"]["status"]

    wait_for(lambda: run_status() in ("SUCCESS", "FAILURE", "CANCELED"), RUN_SECONDS, "the run ends")
    assert run_status() == "SUCCESS"

    keys = ("raw_readings", "daily_averages", "abnormal_device_summary", "daily_consumption")
    backfill = ask(
        dagster,
        """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
             __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        params={"assetSelection": [{"path": [key]} for key in keys], "partitionNames": days[1:]},
    )["launchPartitionBackfill"]
    assert backfill["__typename"] == "LaunchBackfillSuccess", backfill

    def backfill_status() -> dict[str, Any]:
        query = """query($id: String!) { partitionBackfillOrError(backfillId: $id) {
            ... on PartitionBackfill { status runs { status } } } }"""
        return ask(dagster, query, id=backfill["backfillId"])["partitionBackfillOrError"]

    ends = ("COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED")
    wait_for(lambda: backfill_status()["status"] in ends, RUN_SECONDS, "the backfill ends")
    assert [run["status"] for run in backfill_status()["runs"]] == ["SUCCESS"]  # a single run over the three days

    with MongoClient(dagster.mongo) as client:
        published = client[dagster.mongo_database]["daily_averages"].distinct("calculation_date")
    assert published == days


@pytest.mark.timeout(600)
def test_a_day_is_materialized_by_clicking_and_other_pages_are_refused(dagster: Settings):
    sent = meters(dagster, "simulate", "--days", "1", "--households", "2", "--json")
    assert sent.returncode == 0, sent.stderr
    assert meters(dagster, "ingest", "--until-caught-up").returncode == 0
    yesterday = str(datetime.now(UTC).date() - timedelta(days=1))
    runs = "{ runsOrError { ... on Runs { results { runId status tags { key value } } } } }"

    def launched() -> list[dict[str, Any]]:
        found = ask(dagster, runs)["runsOrError"]["results"]
        return [run for run in found if {"key": "dagster/partition", "value": yesterday} in run["tags"]]

    with chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(CLICK_PATIENCE_MS)
        page.goto(f"{webserver_url(dagster)}/assets/raw_readings?view=partitions")
        page.get_by_role("button", name="Materialize").first.click()
        dialog = page.get_by_role("dialog")
        days = dialog.locator("input[type=text]").first
        days.fill(yesterday)
        days.press("Enter")
        dialog.get_by_role("button", name="Launch 1 run").click()
        wait_for(launched, RUN_SECONDS, "the run is launched")
        (run,) = launched()
        page.goto(f"{webserver_url(dagster)}/runs/{run['runId']}")
        page.get_by_text("RUN_SUCCESS").first.wait_for(timeout=RUN_SECONDS * 1000)  # its log comes by WebSocket
        assert [run["status"] for run in launched()] == ["SUCCESS"]

    # `meters dev` and the demo serve this very process.
    server = Webserver(dagster)
    for headers, status in (
        ([("Host", "evil.example")], 421),
        ([("Origin", "http://evil.example")], 403),
        ([("Content-Type", "text/plain")], 415),
    ):
        assert server.send("POST", "/graphql", headers, as_json(forge(yesterday))).status == status
