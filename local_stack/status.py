"""What `meters status` shows: where each service is, whether it answers, its version, why it fails, what was lost."""

from typing import Any
from urllib.parse import urlsplit

from local_stack.losses import read_losses
from local_stack.probes import answers, answers_mongo
from local_stack.service import Service
from local_stack.stack import SERVICES, make_services, wanted_services
from local_stack.state import StackState, live_state
from metering.addresses import mongo_hosts
from metering.addresses import redact as redact
from metering.settings import Settings


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
        "lost_messages": read_losses(settings) if services["mongo"]["state"] == "up" else None,
    }


def _local(service: Service, state: StackState | None) -> dict[str, Any]:
    entry = state.services.get(service.name) if state else None
    address = entry.address if entry else service.address
    phase = entry.state if entry else "down"
    if phase == "up" and not answers(service.kind, address):
        phase = "unreachable"
    return {
        "state": phase,
        "pid": entry.pid if entry else None,
        "address": address,
        "version": (entry.version or None) if entry else None,
        "restarts": entry.restarts if entry else 0,
        "error": (entry.error or None) if entry else None,
        "next_try_at": (entry.next_try_at or None) if entry else None,
        "log": entry.log if entry else str(service.log),
    }


def _elsewhere(settings: Settings, kind: str) -> dict[str, Any]:
    """A service that somebody else runs: does one of its addresses answer?"""
    uri = {"mongo": settings.mongo, "kafka": settings.kafka, "spark": settings.spark_master or settings.spark}[kind]
    return {
        "state": "up" if _one_answers(settings, kind, uri) else "unreachable",
        "pid": None,
        "address": mongo_hosts(uri) if kind == "mongo" else redact(uri),
        "version": None,
        "restarts": 0,
        "error": None,
        "next_try_at": None,
        "log": None,
    }


def _one_answers(settings: Settings, kind: str, uri: str) -> bool:
    if kind == "mongo":
        return answers_mongo(uri)
    if kind == "spark":
        if settings.spark_master and not uri.startswith("spark://"):
            return True  # local[*] is no server, and other masters are found by Spark itself
        if settings.spark_master or "use_ssl=true" in uri:
            kind = "spark-master"  # no greeting that we speak: a connection must do
        uri = urlsplit(uri).netloc.rpartition("@")[2]
    return any(answers(kind, address.strip()) for address in uri.split(","))
