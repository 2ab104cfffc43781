"""A Dagster webserver without a daemon, guarded or as it comes, and what can be seen to have changed in it."""

import http.client
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local_stack.child import Child
from local_stack.dagster import WORKSPACE, dagster_environment, webserver_url
from meter_assets_tests.support import ask, settings_for, wait_for
from metering.settings import Settings

GUARDED, OPEN = "local_stack.dagster_webserver", "dagster_webserver"

SELECTOR = {"repositoryLocationName": "meter_assets", "repositoryName": "__repository__"}
ALERT_SENSOR = {**SELECTOR, "sensorName": "alert_sensor"}

STATE = """query($sensor: SensorSelector!) {
  assetOrError(assetKey: {path: ["daily_averages"]}) {
    ... on Asset { assetMaterializations(limit: 100) { partition } } }
  sensorOrError(sensorSelector: $sensor) { ... on Sensor {
    sensorState { typeSpecificData { ... on SensorData { lastCursor } } } } }
  runsOrError { ... on Runs { results { runId } } } }"""


class Webserver:
    """Where it is, and what it holds."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.port = settings.webserver_port
        self.url = webserver_url(settings)
        self.host = f"127.0.0.1:{self.port}"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """As a script does, which sends no Origin."""
        return ask(self.settings, query, **variables)

    def state(self) -> dict[str, Any]:
        """What a request may have changed: days said to be materialized, the alert sensor's cursor, runs."""
        seen = self.ask(STATE, sensor=ALERT_SENSOR)
        materialized = (seen["assetOrError"] or {}).get("assetMaterializations", [])
        sensor = seen["sensorOrError"]["sensorState"]["typeSpecificData"]
        return {
            "days": sorted(each["partition"] for each in materialized),
            "cursor": sensor and sensor["lastCursor"],
            "runs": len(seen["runsOrError"]["results"]),
        }

    def send(
        self, method: str, target: str, headers: Sequence[tuple[str, str]] = (), body: str = ""
    ) -> http.client.HTTPResponse:
        """A request with exactly these headers, after a Host of the server's own unless there is one among them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        if not any(name.lower() == "host" for name, _ in headers):
            connection.putheader("Host", self.host)
        for name, value in headers:
            connection.putheader(name, value)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode() if body else None)
        return connection.getresponse()

    def _is_ready(self) -> bool:
        try:
            entries = self.ask("{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }")
        except urllib.error.URLError:
            return False
        loaded = entries["workspaceOrError"]["locationEntries"]
        return bool(loaded) and all(entry["loadStatus"] == "LOADED" for entry in loaded)


@contextmanager
def webserver(module: str, home: Path, **changes: Any) -> Iterator[Webserver]:
    """The webserver and its code server on an instance of their own; nothing that starts runs.

    Args:
        module: GUARDED or OPEN.
        home: a folder of its own.
        changes: settings.
    """
    settings = settings_for(home, **changes)
    environment = dagster_environment(settings)
    command = [
        *(sys.executable, "-m", module, "--workspace", str(WORKSPACE)),
        *("--host", "127.0.0.1", "--port", str(settings.webserver_port)),
    ]
    log = home / "webserver.log"
    child = Child(command, log=log, cwd=home, environment=environment, death_signal=signal.SIGTERM)
    running = Webserver(settings)
    try:
        wait_for(lambda: running._is_ready() or child.exit_code is not None, 120, "the webserver answers")
        assert child.exit_code is None, log.read_text()[-2000:]
        yield running
    finally:
        child.stop(20)


def forge(day: str) -> str:
    """A mutation that says of a day that it is materialized, short enough for an address."""
    return (
        "mutation{reportRunlessAssetEvents(eventParams:{eventType:ASSET_MATERIALIZATION,"
        f'assetKey:{{path:["daily_averages"]}},partitionKeys:["{day}"]}}){{__typename}}}}'
    )


def silence() -> str:
    """A mutation that moves the alert sensor's cursor."""
    selector = ",".join(f'{name}:"{value}"' for name, value in ALERT_SENSOR.items())
    return f'mutation{{setSensorCursor(sensorSelector:{{{selector}}},cursor:"{{}}"){{__typename}}}}'


def as_json(query: str) -> str:
    """The body of a request."""
    return json.dumps({"query": query})
