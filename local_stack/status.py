"""What `meters status` tells: where each service is, whether it answers, which version it says it is."""

import re
import socket
from typing import Any
from urllib.parse import urlsplit

from local_stack.service import Service
from local_stack.stack import SERVICES, make_services, wanted_services
from local_stack.state import StackState, live_state
from metering.settings import Settings

CONNECT_TIMEOUT_SECONDS = 1.0


def status(settings: Settings) -> dict[str, Any]:
    """The state of this installation's services, as a JSON-ready dict; passwords are left out."""
    state = live_state(settings.home)
    wanted = wanted_services(settings)
    services: dict[str, dict[str, Any]] = {}
    for kind in SERVICES:
        if kind in wanted:
            services |= {name: _local(service, state) for name, service in make_services(settings, [kind]).items()}
        else:
            services[kind] = _elsewhere(settings, kind)
    return {
        "running": all(service["state"] == "up" for service in services.values()),
        "home": str(settings.home),
        "mongo_uri": redact(settings.mongo),
        "mongo_version": services["mongo"]["version"],
        "kafka_bootstrap": settings.kafka,
        "kafka_version": services["kafka"]["version"],
        "spark_remote": redact(settings.spark_master or settings.spark),
        "spark_version": services["spark"]["version"],
        "lake": redact(settings.lake_path),
        "dagster_home": str(settings.dagster_home),
        "webserver_url": f"http://127.0.0.1:{settings.webserver_port}",
        "supervisor_pid": state.pid if state else None,
        "services": services,
    }


def redact(uri: str) -> str:
    """The URI with its password, and any token among its parameters, replaced by ***."""
    uri = re.sub(r"(://[^:/@?]*):.*@", r"\1:***@", uri)
    return re.sub(r"((?:token|password|secret)[^=&;/]*)=[^&;/]*", r"\1=***", uri, flags=re.IGNORECASE)


def _local(service: Service, state: StackState | None) -> dict[str, Any]:
    entry = state.services.get(service.name) if state else None
    address = entry.address if entry else service.address
    phase = entry.state if entry else "down"
    if phase == "up" and not _answers(address):
        phase = "unreachable"
    return {
        "state": phase,
        "pid": entry.pid if entry else None,
        "address": address,
        "version": (entry.version or None) if entry else None,
        "restarts": entry.restarts if entry else 0,
        "log": entry.log if entry else str(service.log),
    }


def _elsewhere(settings: Settings, name: str) -> dict[str, Any]:
    """A service that somebody else runs: does one of its addresses take connections?"""
    uri = {"mongo": settings.mongo, "kafka": settings.kafka, "spark": settings.spark_master or settings.spark}[name]
    hosts = urlsplit(uri).netloc.rpartition("@")[2] if "://" in uri else uri
    addresses = [host if ":" in host else f"{host}:27017" for host in hosts.split(",")]
    # mongodb+srv names no host and local[*] is no server: there is nothing to connect to, so nothing to doubt.
    unchecked = uri.startswith("mongodb+srv") or uri.startswith("local")
    reachable = unchecked or any(_answers(address) for address in addresses)
    return {
        "state": "up" if reachable else "unreachable",
        "pid": None,
        "address": redact(uri),
        "version": None,
        "restarts": 0,
        "log": None,
    }


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()
        return True
    except (OSError, ValueError):
        return False
