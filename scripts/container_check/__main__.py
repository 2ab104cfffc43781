"""Starts docker-compose.yml's services from the built image, as `docker compose up` would, for a day's work.

`scripts/check-image` runs it as root. Every service starts with its own command line, environment, user and volumes, in
the order of depends_on, and counts as up when its own health check passes. What the images of others would run is run
by stand-ins (stand_ins.py); images without one are left out, and named.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from meter_cli.init_env import environment as new_environment
from scripts.container_check.compose import active, load, read_env, seconds
from scripts.container_check.day import work_a_day
from scripts.container_check.namespaces import Container, Network
from scripts.container_check.stand_ins import StandIn, stand_ins

PROJECT = Path(__file__).parents[2]
OURS = "meter-assets"
PASS_SECONDS = 240


class Check:
    """One `up` of the compose file.

    Args:
        image: our image's file system.
        settings: its environment, by name.
        known: stand-ins by image.
        folder: for volumes, logs and the like.
        profiles: active ones.
    """

    def __init__(
        self, image: Path, settings: dict[str, str], known: dict[str, StandIn], folder: Path, profiles: set[str]
    ) -> None:
        env_file = folder / "env"
        env_file.write_text(new_environment("admin@example.org", cluster="cluster" in profiles))
        self.secrets = read_env(env_file)
        model = load(PROJECT / "docker-compose.yml", self.secrets)
        self.services = active(model, profiles)
        self._image, self._settings, self._known, self._folder = image, settings, known, folder
        self.left_out = [name for name, each in self.services.items() if not self._can_run(name, each)]
        self.containers: dict[str, Container] = {}
        self.network = Network([each for name in self.services for each in self._names(name)])

    def _can_run(self, name: str, service: dict[str, Any]) -> bool:
        image = service["image"].rpartition(":")[0]
        left_out_before = any(not self._can_run(other, self.services[other]) for other in service["depends_on"])
        return (image == OURS or image in self._known) and not left_out_before

    def _names(self, name: str) -> list[str]:
        replicas = self.services[name].get("deploy", {}).get("replicas", 1)
        return [name] if replicas == 1 else [f"{name}-{number}" for number in range(1, replicas + 1)]

    def up(self) -> None:
        """Start everything in order.

        Raises:
            SystemExit: a service does not come up.
        """
        hosts = self._folder / "hosts"
        aliases = {name: self._names(name)[0] for name in self.services if len(self._names(name)) > 1}
        hosts.write_text(self.network.hosts(aliases))
        for name, service in self.services.items():
            if name in self.left_out:
                continue
            for other, how in service["depends_on"].items():
                for each in self._names(other):
                    self._await(each, self.services[other], how["condition"])
            for each in self._names(name):
                container = self._container(each, service)
                self.containers[each] = container
                with (self._folder / f"{each}.log").open("wb") as log:
                    container.start(hosts, log)
        for name in self.services:
            for each in self._names(name):
                if each in self.containers:
                    once = self.services[name]["restart"] == "no"
                    condition = "service_completed_successfully" if once else "service_healthy"
                    self._await(each, self.services[name], condition)

    def _container(self, name: str, service: dict[str, Any]) -> Container:
        stand_in = self._known.get(service["image"].rpartition(":")[0])
        variables = {key: str(value) for key, value in (service.get("environment") or {}).items()}
        mounts = {}
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            place = PROJECT / source if source.startswith(".") else self._folder / "volumes" / source
            user = stand_in.user if stand_in else self._user
            if not place.exists():
                place.mkdir(parents=True)
                shutil.chown(place, user or 0, user or 0)
            mounts[target] = place
        if stand_in is None:
            return Container(
                name,
                self._image,
                ["/usr/bin/env", "--chdir=/var/lib/meters", *service["command"]],
                self._settings | variables,
                self._user,
                service.get("hostname", ""),
                mounts,
            )
        return Container(
            name,
            stand_in.root or self._image,
            stand_in.command or [*service["entrypoint"], *service["command"]],
            {**variables, **stand_in.environment},
            stand_in.user,
            "",
            {**mounts, **stand_in.mounts},
        )

    @property
    def _user(self) -> int:
        return (self._image / "var/lib/meters").stat().st_uid

    def _await(self, name: str, service: dict[str, Any], condition: str) -> None:
        container = self.containers[name]
        if condition == "service_started":
            return
        deadline = time.monotonic() + PASS_SECONDS
        said = ""
        while time.monotonic() < deadline:
            code = container.exit_code
            if condition == "service_completed_successfully":
                if code == 0:
                    return
            elif self.healthy(name, service)[0]:
                return
            if code is not None:
                said = f"it ended with exit code {code}"
                break
            time.sleep(1)
        self._fail(name, said or f"{condition} is not reached within {PASS_SECONDS} s")

    def healthy(self, name: str, service: dict[str, Any]) -> tuple[bool, str]:
        """Run the service's own health check once."""
        check = service["healthcheck"]
        stand_in = self._known.get(service["image"].rpartition(":")[0])
        kind, *test = check["test"]
        command = ["/bin/sh", "-c", test[0]] if kind == "CMD-SHELL" else test
        if stand_in and stand_in.health:
            command = stand_in.health
        code, output = self.containers[name].execute(command, seconds(check["timeout"]))
        return code == 0, output

    def _fail(self, name: str, reason: str) -> None:
        log = (self._folder / f"{name}.log").read_text(errors="replace").splitlines()
        for line in log[-15:]:
            print(f"    {line[:200]}")
        raise SystemExit(f"error: {name}: {reason}")

    def report(self) -> None:
        """One line a service."""
        for name, service in self.services.items():
            if name in self.left_out:
                print(f"-  {name:20} not run: no stand-in for {service['image']}, or it needs such a service")
                continue
            for each in self._names(name):
                how = "done" if service["restart"] == "no" else "healthy"
                stand_in = self._known.get(service["image"].rpartition(":")[0])
                by = f", by {stand_in.says}" if stand_in else ""
                used = self.containers[each].memory() / 2**20
                limit = service.get("deploy", {}).get("resources", {}).get("limits", {}).get("memory", "")
                print(f"ok {each:20} {how}{f', {used:,.0f} MiB of {limit}' if used else ''}{by}")

    def down(self) -> None:
        """Stop everything as Compose does: what nothing depends on any more, at once, each within its grace."""
        left = {name: each for name, each in self.services.items() if name not in self.left_out}
        while left:
            needed = {other for service in left.values() for other in service["depends_on"]}
            leaving = [name for name in left if name not in needed]
            with ThreadPoolExecutor() as pool:
                for lines in pool.map(self._stop, leaving):
                    print(lines, end="")
            for name in leaving:
                del left[name]

    def _stop(self, name: str) -> str:
        grace = seconds(self.services[name].get("stop_grace_period", "10s"))
        running = [each for each in self._names(name) if each in self.containers]
        running = [each for each in running if self.containers[each].exit_code is None]
        return "".join(f"   {each:20} stopped: {self.containers[each].stop(grace)}\n" for each in running)


def image_environment(name: str) -> dict[str, str]:
    """The variables that an image sets for its containers."""
    answer = subprocess.run(["buildah", "inspect", "--type=image", name], capture_output=True, check=True)
    return dict(line.split("=", 1) for line in json.loads(answer.stdout)["OCIv1"]["config"]["Env"])


def main() -> None:
    """Check, and end with exit code 1 unless all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--image", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--debian", type=Path, required=True)
    parser.add_argument("--profile", action="append", default=[])
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()

    from local_stack.jars import fetch_jars
    from local_stack.mongod import find_mongod
    from metering.settings import load_settings

    settings = load_settings()
    # Nothing that a log or a volume holds may outlive the check: it has secrets.
    folder = Path(tempfile.mkdtemp(prefix="meters-check-"))
    folder.chmod(0o755)
    log4j = PROJECT / "local_stack/broker-log4j2.properties"
    known = stand_ins(folder, fetch_jars(settings) / "broker", log4j, find_mongod(settings), arguments.debian)
    check = Check(arguments.root, image_environment(arguments.image), known, folder, {"demo", *arguments.profile})
    try:
        with check.network:
            try:
                check.up()
                webserver = f"http://{check.network.addresses['webserver']}:3000"
                work_a_day(webserver, check.secrets, check.network, check.containers["code-server"])
                check.report()
            finally:
                check.down()
    finally:
        if arguments.keep:
            print(f"logs and volumes: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
