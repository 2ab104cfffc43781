"""Dagster's servers on this machine: DAGSTER_HOME, and `dagster dev` as a service. What they show is meter_assets."""

import json
import shutil
import sys
import urllib.request
from pathlib import Path

from local_stack.doctor import preflight
from local_stack.service import NotReadyError, Service
from metering.settings import LOOPBACK, Settings

INSTANCE = Path(__file__).with_name("dagster.yaml")
WORKSPACE = Path(__file__).parents[1] / "workspace.yaml"

EVENT_BATCH_SIZE = 500
"""Events of one step that Dagster writes in one transaction: a year of partitions, one by one, takes a minute."""


def dagster_environment(settings: Settings) -> dict[str, str]:
    """The variables with which any process works on this installation's instance; makes DAGSTER_HOME if need be."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(settings.dagster_yaml or INSTANCE, settings.dagster_home / "dagster.yaml")
    return {
        **settings.environment(),
        "DAGSTER_HOME": str(settings.dagster_home),
        "DAGSTER_EVENT_BATCH_SIZE": str(EVENT_BATCH_SIZE),
    }


def dagster_dev_command(settings: Settings) -> list[str]:
    """`dagster dev` on workspace.yaml: webserver (guarded), daemon and code server, on the loopback."""
    return [
        *(sys.executable, "-m", "local_stack.dagster_dev", "--workspace", str(WORKSPACE)),
        *("--host", LOOPBACK, "--port", str(settings.webserver_port)),
    ]


def webserver_url(settings: Settings) -> str:
    """Where the UI is."""
    return f"http://{LOOPBACK}:{settings.webserver_port}"


class Dagster(Service):
    """Webserver, daemon and code server."""

    kind = "dagster"
    kind_title = "Dagster"

    @property
    def port(self) -> int:
        """The webserver's port."""
        return self.settings.webserver_port

    def prepare(self) -> None:
        """Make DAGSTER_HOME.

        Raises:
            MetersError: another process holds the webserver's port.
        """
        preflight(self.settings, ["webserver"])
        dagster_environment(self.settings)

    def command(self) -> list[str]:
        """`dagster dev`."""
        return [*dagster_dev_command(self.settings), *self.arguments]

    def environment(self) -> dict[str, str]:
        """This installation's instance and settings."""
        return dagster_environment(self.settings)

    def probe(self) -> str:
        """Have the code location loaded."""
        query = "{ version workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"
        request = urllib.request.Request(  # noqa: S310 - the address is ours, on the loopback
            f"{webserver_url(self.settings)}/graphql",
            data=json.dumps({"query": query}).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
                data = json.load(response)["data"]
        except (OSError, ValueError, KeyError) as error:
            raise NotReadyError(str(error)) from None
        entries = data["workspaceOrError"].get("locationEntries") or []
        if not entries or any(entry["loadStatus"] != "LOADED" for entry in entries):
            raise NotReadyError("the code location is loading")
        return str(data["version"])
