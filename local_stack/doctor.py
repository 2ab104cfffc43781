"""Can the local stack run here? Each check answers with what it found and, where it fails, what to do about it."""

import platform
import re
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psutil
from kafka import codec

from local_stack.jars import jars_folder, manifest, missing_sets, verify, wanted_sets
from local_stack.java import probe_java
from local_stack.losses import read_losses
from local_stack.mongod import probe_mongod
from local_stack.ports import Port, stack_ports, twin_of
from local_stack.probes import answers, answers_mongo
from local_stack.state import StackState, live_state
from metering.errors import MetersError
from metering.settings import LOOPBACK, Settings
from runtime.full_disk import full_disk_error
from runtime.local_services import troubles
from runtime.s3 import probe_store, require_keys

OLDEST_PYTHON = (3, 11)
NEEDED_DISK_GB = 2
NEEDED_MEMORY_GB = 3
BROKER_MEMORY_GB = 0.7
"""What each further broker takes."""

MEMBER_MEMORY_GB = 0.8
"""What each further member of the replica set takes."""

WORKER_MEMORY_GB = 0.8
"""What each worker of Spark takes, beside its executor's heap."""


@dataclass(frozen=True)
class Diagnosis:
    """What a check found. `fix` is empty when all is well."""

    name: str
    ok: bool
    detail: str
    fix: str = ""
    warns: bool = False
    """Nothing keeps the stack from running, and yet a person should know."""


def preflight(settings: Settings, services: Sequence[str]) -> None:
    """The checks that decide whether these services can start at all.

    Raises:
        MetersError: one of them fails.
    """
    if {"kafka", "spark"} & set(services):
        probe_java()
        _require_jars(settings)
    if "spark" in services and settings.is_lake_in_s3:
        require_keys()  # Spark takes them from the environment that it is started with
    if "mongo" in services:
        probe_mongod(settings)
    if "kafka" in services and (settings.replication or 1) > settings.kafka_brokers:
        raise MetersError(
            f"METERS_KAFKA_REPLICATION is {settings.replication}, and METERS_KAFKA_BROKERS is {settings.kafka_brokers}",
            fix="Unset METERS_KAFKA_REPLICATION: it is for a Kafka elsewhere",
        )
    ports = stack_ports(settings, services)
    for port in ports:
        _require_own_number(port, ports)
        if holder := port_holder(port.number):
            raise _taken(port, holder)


def diagnose(settings: Settings) -> list[Diagnosis]:
    """Every check, in the order in which a person would correct what they find."""
    checks: list[tuple[str, Callable[[Settings], str]]] = [
        ("python", _python),
        ("java", lambda _: "Java {1} ({0})".format(*probe_java())),
        ("mongod", lambda s: "mongod {1} ({0})".format(*probe_mongod(s))),
        ("jars", _jars),
        *((port.name, lambda s, port=port: _port(s, port)) for port in stack_ports(settings)),
        ("disk", _disk),
        ("memory", _memory),
        ("timezone", _timezone),
        *([("lake", probe_store)] if settings.is_lake_in_s3 else []),
        ("codecs", _codecs),
        ("services", _services),
    ]
    return [*(_run(name, check, settings) for name, check in checks), _lost_messages(settings)]


def _run(name: str, check: Callable[[Settings], str], settings: Settings) -> Diagnosis:
    try:
        return Diagnosis(name, True, check(settings))
    except MetersError as error:
        return Diagnosis(name, False, error.message, error.fix)


def _python(_: Settings) -> str:
    if sys.version_info < OLDEST_PYTHON:
        raise MetersError(f"Python {platform.python_version()} is too old", fix="Install 3.11 or newer, delete .venv")
    return f"Python {platform.python_version()}"


def _jars(settings: Settings) -> str:
    _require_jars(settings)
    folder, sets = jars_folder(settings), wanted_sets(settings)
    verify(folder, sets)
    return f"{len(manifest(sets))} jars verified in {folder}"


def _require_jars(settings: Settings) -> None:
    if missing := missing_sets(settings):
        raise MetersError(f"Jars are missing from {jars_folder(settings) / missing[0]}", fix="Run make setup")


def _require_own_number(port: Port, ports: Sequence[Port]) -> None:
    if other := twin_of(port, ports):
        raise MetersError(f"Port {port.number} is wanted twice, as {other.name} and as {port.name}", fix=port.fix)


def _port(settings: Settings, port: Port) -> str:
    _require_own_number(port, stack_ports(settings))
    holder = port_holder(port.number)
    if holder is None:
        return f"{port.number} is free"
    state = live_state(settings.home)
    ours = {service.pid: name for name, service in state.services.items()} if state else {}
    if holder.pid in ours:
        return f"{port.number} is held by our own {ours[holder.pid]}"
    if port.service == "webserver" and _is_own_webserver(holder):
        return f"{port.number} is held by the Dagster webserver (pid {holder.pid})"
    raise _taken(port, holder)


def _taken(port: Port, holder: "PortHolder") -> MetersError:
    return MetersError(
        f"Port {port.number} is taken by {holder.name}", fix=f"End it, or {port.fix[0].lower()}{port.fix[1:]}"
    )


def _is_own_webserver(holder: "PortHolder") -> bool:
    return "dagster" in holder.name


@dataclass(frozen=True)
class PortHolder:
    """Who listens on a port, as far as the system tells us."""

    name: str
    pid: int | None


def port_holder(port: int) -> PortHolder | None:
    """The process that keeps us from listening on a port of the loopback; None when it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
            return None
        except PermissionError:
            return PortHolder("the system, which reserves it for root", None)
        except OSError:
            pass
    try:
        listeners = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        listeners = []
    for connection in listeners:
        if (
            connection.status == psutil.CONN_LISTEN
            and getattr(connection.laddr, "port", None) == port
            and connection.pid
        ):
            try:
                process = psutil.Process(connection.pid)
                command = " ".join(" ".join(process.cmdline()[:3]).split())[:80]  # one line, whatever it was given
                return PortHolder(f"{process.name()} (pid {process.pid}: {command})", process.pid)
            except psutil.Error:
                return PortHolder(f"pid {connection.pid}", connection.pid)
    return PortHolder("a process of another user", None)


def _disk(settings: Settings) -> str:
    if full := full_disk_error(settings):
        raise full
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < NEEDED_DISK_GB:
        raise MetersError(
            f"Only {free:.1f} GB are free for {settings.home}; {NEEDED_DISK_GB} are needed",
            fix="Free some, or set METERS_HOME to a folder on another disk",
        )
    return f"{free:.0f} GB free for {settings.home}"


def _memory(settings: Settings) -> str:
    memory = psutil.virtual_memory()
    total, available = memory.total / 1e9, memory.available / 1e9
    needed = needed_memory_gb(settings)
    if live_state(settings.home) is None and available < needed:
        raise MetersError(
            f"Only {available:.1f} GB of memory are available; {needed:.1f} are needed",
            fix="End other programs, or set METERS_SPARK_MEMORY lower, like 1g",
        )
    return f"{available:.1f} of {total:.1f} GB available"


def _codecs(_: Settings) -> str:
    present = {"gzip": codec.has_gzip(), "lz4": codec.has_lz4(), "snappy": codec.has_snappy(), "zstd": codec.has_zstd()}
    if missing := [name for name, found in present.items() if not found]:
        raise MetersError(
            f"Messages compressed with {' or '.join(missing)} cannot be read", fix="Run make setup (lz4, python-snappy)"
        )
    return f"messages compressed with {', '.join(present)} can be read"


def _services(settings: Settings) -> str:
    state = live_state(settings.home)
    if state is None:
        return "the local stack is not running"
    if found := troubles(settings):
        raise MetersError("; ".join(each.sentence for each in found), fix="To try at once: meters up")
    if silent := silent_services(state):
        raise MetersError(f"{', '.join(silent)} does not answer", fix="To start it again: meters down, then meters up")
    waiting = [service.title for service in state.services.values() if service.state != "up"]
    return f"{', '.join(waiting)} not up yet" if waiting else f"{len(state.services)} run and answer"


def silent_services(state: StackState) -> list[str]:
    """Services that count as up and do not answer, each with its address."""
    return [
        f"{service.title or name} at {service.address}"
        for name, service in state.services.items()
        if service.state == "up" and not answers(re.sub(r"-\d+$", "", name), service.address)
    ]


def _lost_messages(settings: Settings) -> Diagnosis:
    uri = settings.mongo_uri or f"mongodb://{LOOPBACK}:{settings.mongo_port}/?directConnection=true"
    losses = read_losses(settings) if answers_mongo(uri) else None
    if losses is None:
        return Diagnosis("lost messages", True, "not known: MongoDB does not answer")
    if not losses:
        return Diagnosis("lost messages", True, "none")
    named = ", ".join(f"{reader} at most {count:,}" for reader, count in sorted(losses.items()))
    fix = f"Nothing brings them back; which they were is in {settings.mongo_database}.lost_messages"
    return Diagnosis("lost messages", True, named, fix, warns=True)


def needed_memory_gb(settings: Settings) -> float:
    """What the services take that the settings ask for; the first of each, and Spark's server, are in the least."""
    heap = settings.spark_memory
    executor = int(heap[:-1]) / (1 if heap.endswith("g") else 1024)
    return (
        NEEDED_MEMORY_GB
        + (settings.kafka_brokers - 1) * BROKER_MEMORY_GB
        + (settings.mongo_members - 1) * MEMBER_MEMORY_GB
        + settings.spark_workers * (executor + WORKER_MEMORY_GB)
    )


def _timezone(settings: Settings) -> str:
    try:
        ZoneInfo("Europe/Madrid")
        return f"time zone data present; days are those of {settings.zone.key}"
    except ZoneInfoNotFoundError:
        raise MetersError("Time zone data is missing", fix="Run make setup (it installs the package tzdata)") from None
