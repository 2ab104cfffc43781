"""What our compose file keeps to beyond the specification: pinned, watched, limited, closed to the world, no secret."""

import re
from collections.abc import Iterator
from typing import Any

EXACT_TAG = re.compile(r"^[^:@]+(/[^:@]+)*:[\w.-]*\d+\.\d+[\w.-]*$")
SECRET_NAME = re.compile(r"(PASSWORD|PASS|SECRET|TOKEN|KEY)$")
REFERENCE = re.compile(r"^\$\{\w+(:\?[^}]*)?\}$")
URI_PASSWORD = re.compile(r"://[^:/@{}]+:(.*?)@")

LONG_RUNNING = ("always", "unless-stopped")


def problems(model: dict[str, Any]) -> list[str]:
    """Each breach in a line; none for a file that is as it should be.

    Args:
        model: the file as YAML gives it, variables not filled in.
    """
    found = []
    for name, service in model["services"].items():
        found += [f"{name}: {problem}" for problem in _of(service)]
        for other, how in service.get("depends_on", {}).items():
            once = model["services"][other].get("restart") == "no"
            if once and how["condition"] != "service_completed_successfully":
                found.append(f"{name}: does not wait until {other} is done")
    return found


def _of(service: dict[str, Any]) -> Iterator[str]:
    if not EXACT_TAG.match(service.get("image", "")):
        yield f"image {service.get('image')} has no exact tag"
    restart = service.get("restart")
    if restart not in (*LONG_RUNNING, "no"):
        yield "says nothing of restart"
    if restart != "no":
        if not service.get("healthcheck", {}).get("test"):
            yield "has no healthcheck"
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if not {"cpus", "memory"} <= limits.keys():
            yield "has no limits of cpus and memory"
    for port in service.get("ports", []):
        address = port.get("host_ip", "") if isinstance(port, dict) else str(port)
        if not re.match(r"127\.0\.0\.1(:|$)", address):
            yield f"port {port} is open beyond 127.0.0.1"
    if {"dagster-webserver", "dagster_webserver", "dev"} & set(service.get("command") or []):
        yield "serves the UI to every page of the browser: its command is not local_stack.dagster_webserver"
    if service.get("network_mode") == "host" or service.get("privileged"):
        yield "is not kept apart from its host"
    if "no-new-privileges:true" not in service.get("security_opt", []):
        yield "may gain privileges"
    yield from _secrets(service)


def _secrets(service: dict[str, Any]) -> Iterator[str]:
    for name, value in (service.get("environment") or {}).items():
        passwords = [str(value)] if SECRET_NAME.search(name) else URI_PASSWORD.findall(str(value))
        for password in passwords:
            if not REFERENCE.match(password):
                yield f"{name} holds a secret, or a default for one"
