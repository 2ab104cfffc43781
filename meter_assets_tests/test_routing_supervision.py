"""The router under Dagster's supervision, as an operator meets it: real servers, real `meters route`, real kills."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest
from pymongo import MongoClient

from local_stack import LocalStack
from local_stack.dagster import Dagster
from meter_assets_tests.support import ask, free_ports, meters, wait_for
from metering.settings import Settings
from metering.store import HEARTBEATS

START_SECONDS = 120
RECOVERY_SECONDS = 150
"""The goal is 30 s on a machine of its own; the tests share theirs with everything that they start."""

pytestmark = pytest.mark.timeout(600)  # several starts of Spark, each waited for with a limit of its own

SENSOR = {
    "repositoryLocationName": "meter_assets",
    "repositoryName": "__repository__",
    "sensorName": "fault_routing_sensor",
}


class Routing:
    """What an operator sees of the router.

    Args:
        settings: of an installation whose Dagster servers are up.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: MongoClient = MongoClient(settings.mongo, tz_aware=True)
        self.heartbeats = self._client[settings.mongo_database][HEARTBEATS]

    def close(self) -> None:
        """Leave MongoDB."""
        self._client.close()

    def heartbeat(self) -> dict[str, Any]:
        """The last one; empty: there never was one."""
        return self.heartbeats.find_one({"_id": "router"}) or {}

    def at_work(self, *, but: int | None = None) -> dict[str, Any] | None:
        """The heartbeat of a router that routes now, other than that with the pid `but`."""
        beat = self.heartbeat()
        young = bool(beat) and datetime.now(UTC) - beat["at"] < timedelta(seconds=10)
        return beat if young and beat["state"] == "running" and beat["pid"] != but else None

    def wait(self, timeout_seconds: float = START_SECONDS, *, but: int | None = None) -> dict[str, Any]:
        """Wait until a router is at work."""
        found = wait_for(lambda: self.at_work(but=but), timeout_seconds, f"a router works; last: {self.ticks()[:2]}")
        assert found
        return found

    def runs(self) -> list[dict[str, Any]]:
        """The job's runs, newest first."""
        query = """{ runsOrError(filter: {pipelineName: "fault_routing_job"}, limit: 20) {
            ... on Runs { results { runId status tags { key value } } } } }"""
        return ask(self.settings, query)["runsOrError"]["results"]

    def active(self) -> list[str]:
        """Ids of the runs that have not ended."""
        return [run["runId"] for run in self.runs() if run["status"] not in ("SUCCESS", "FAILURE", "CANCELED")]

    def ticks(self) -> list[str]:
        """What the sensor said, newest first; empty for a tick that started a run, whose tag says it."""
        ticks = self._ticks()
        assert not [tick["error"] for tick in ticks if tick["error"]]
        return [tick["skipReason"] or "" for tick in ticks]

    def looks(self) -> bool:
        """Is the sensor looking just now? It finishes that also when it is turned off."""
        return any(tick["status"] == "STARTED" for tick in self._ticks())

    def _ticks(self) -> list[dict[str, Any]]:
        query = """query($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) {
            ... on Sensor { sensorState { ticks(limit: 20) { status skipReason error { message } } } } } }"""
        return ask(self.settings, query, sensor=SENSOR)["sensorOrError"]["sensorState"]["ticks"]

    def log(self, run_id: str) -> list[dict[str, Any]]:
        """Events of a run."""
        query = """query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events {
            __typename ... on MessageEvent { message }
            ... on ExecutionStepFailureEvent { failureMetadata { description } } } } } }"""
        return ask(self.settings, query, id=run_id)["logsForRun"]["events"]

    def turn(self, on: bool) -> None:
        """Turn the sensor on or off, as the UI's switch does."""
        if on:
            query = "mutation($sensor: SensorSelector!) { startSensor(sensorSelector: $sensor) { __typename } }"
            answer = ask(self.settings, query, sensor=SENSOR)
            assert answer["startSensor"]["__typename"] == "Sensor"
            return
        query = """query($sensor: SensorSelector!) { sensorOrError(sensorSelector: $sensor) {
            ... on Sensor { id sensorState { id } } } }"""
        sensor = ask(self.settings, query, sensor=SENSOR)["sensorOrError"]
        ask(self.settings, "mutation($id: String!) { stopSensor(id: $id) { __typename } }", id=sensor["id"])

    def figures(self, asset: str) -> list[dict[str, float]]:
        """Metadata of an asset's observations, newest first."""
        query = """query($key: AssetKeyInput!) { assetOrError(assetKey: $key) { ... on Asset {
            assetObservations(limit: 10) { metadataEntries { label
                ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue } } } } } }"""
        observations = ask(self.settings, query, key={"path": [asset]})["assetOrError"].get("assetObservations", [])
        return [
            {entry["label"]: entry.get("intValue", entry.get("floatValue")) for entry in each["metadataEntries"]}
            for each in observations
        ]


@pytest.fixture(scope="module")
def routing(stack: LocalStack, settings: Settings, tmp_path_factory) -> Iterator[Routing]:
    """Dagster's servers with the sensor on, as they are by default."""
    folder = tmp_path_factory.mktemp("routing")
    changes = {"mongo_database": f"test_{uuid.uuid4().hex[:12]}", "router_checkpoint": str(folder / "router")}
    own = settings.model_copy(update=changes)
    server = Dagster(own)
    server.launch()
    operator = Routing(own)
    try:
        server.wait_ready()
        yield operator
    finally:
        server.stop()
        operator.heartbeats.database.client.drop_database(own.mongo_database)
        operator.close()


def gone(pid: int) -> bool:
    """Is no process left there, not even a stopped one?"""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_sensor_starts_a_router_whose_figures_are_plotted(routing: Routing):
    beat = routing.wait()
    assert [beat["run_id"]] == routing.active()
    sent = meters(routing.settings, "simulate", "--days", "1", "--households", "3", "--fault-rate", "0.2", "--json")
    assert sent.returncode == 0, sent.stderr
    read = wait_for(
        lambda: [each for each in routing.figures("iot_meter_topic") if each["rows_in"]], 90, "readings are observed"
    )[0]
    assert read["rows_per_second"] >= 0
    assert {"rows_in", "rows_per_second", "late_rows", "lost", "restarts"} <= set(read)
    with_latency = wait_for(
        lambda: [each for each in routing.figures("iot_abnormal_topic") if "latency_p50_ms" in each],
        90,
        "latencies are observed",
    )
    routed = with_latency[0]
    assert routed["faults_out"]
    assert 0 <= routed["latency_p50_ms"] <= routed["latency_p99_ms"] <= routed["latency_max_ms"]
    assert any("readings in" in event.get("message", "") for event in routing.log(beat["run_id"]))
    wait_for(lambda: "is routing" in " ".join(routing.ticks()[:2]), 30, "the tick says how it goes")


@pytest.mark.parametrize("kill", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_router_that_is_killed_or_stuck_is_replaced(routing: Routing, kill: signal.Signals):
    old = routing.wait()
    os.kill(old["pid"], kill)
    limit = RECOVERY_SECONDS if kill == signal.SIGKILL else RECOVERY_SECONDS + 30  # silence has to be noticed first
    new = routing.wait(limit, but=old["pid"])
    assert gone(old["pid"])
    assert [new["run_id"]] == routing.active()
    statuses = {run["runId"]: run["status"] for run in routing.runs()}
    assert statuses[old["run_id"]] == "FAILURE"
    why = [tag["value"] for run in routing.runs() for tag in run["tags"] if tag["key"] == "meters/why"][0]
    # Of a killed router, its run tells or, where that is slow to fail, the sensor finds.
    assert any(each in why for each in (("SIGKILL", "is gone") if kill == signal.SIGKILL else ("no heartbeat for",)))


def test_no_router_survives_the_process_of_its_run(routing: Routing):
    old = routing.wait()
    worker = psutil.Process(old["pid"]).parent()
    assert worker is not None
    worker.kill()
    new = routing.wait(RECOVERY_SECONDS + 30, but=old["pid"])
    assert gone(old["pid"])
    assert [new["run_id"]] == routing.active()


def test_an_operator_pauses_routing_and_goes_on(routing: Routing):
    old = routing.wait()
    routing.turn(on=False)
    try:
        wait_for(lambda: not routing.looks(), 60, "the sensor has finished what it had begun")
        answer = ask(
            routing.settings, "mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=old["run_id"]
        )
        assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"
        wait_for(lambda: not routing.active(), 60, "the run ends")
        assert gone(old["pid"])
        assert routing.runs()[0]["status"] == "CANCELED"
        assert any(event.get("message") == "The router has drained and ended" for event in routing.log(old["run_id"]))
        time.sleep(12)  # two ticks of a sensor that were on
        assert routing.active() == []
    finally:
        routing.turn(on=True)
    assert routing.wait(but=old["pid"])["run_id"] in routing.active()


def test_a_router_that_cannot_start_is_tried_less_and_less_often_and_the_tick_says_why(
    stack: LocalStack, database: Settings, tmp_path
):
    own = database.model_copy(
        update={
            "home": tmp_path,
            "kafka_bootstrap": "127.0.0.1:1",
            "router_checkpoint": str(tmp_path / "router"),
            "webserver_port": free_ports(1)[0],
        }
    )
    server = Dagster(own)
    server.launch()
    operator = Routing(own)
    try:
        server.wait_ready()
        said = wait_for(lambda: [tick for tick in operator.ticks() if "in a row" in tick], 300, "a row of failures")
        assert "127.0.0.1:1" in said[0]
        assert "Tries again in" in said[0]
        failed = [event for event in operator.log(operator.runs()[-1]["runId"]) if event.get("failureMetadata")]
        assert "127.0.0.1:1" in failed[0]["failureMetadata"]["description"]
    finally:
        server.stop()
        operator.close()
