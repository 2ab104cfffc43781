"""The services of a group of rows: an installation of its own in a temporary folder, on free ports."""

import os
import random
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fault_injection.row import Group
from local_stack import LocalStack
from local_stack.jars import fetch_jars
from metering.settings import LOOPBACK, Settings

Report = Callable[[str], None]

FIRST_PORT, LAST_PORT = 21_600, 21_999
"""Below the range from which the system takes the ports of connections: a service must find its own free again."""

PORTS_VARIABLE = "METERS_FAULTS_PORTS"
"""Environment variable with another range, for what runs beside another run."""

PORTS = {
    "mongo_port": 0,
    "kafka_port": 3,
    "kafka_controller_port": 4,
    "spark_master_port": 9,
    "spark_port": 15,
    "webserver_port": 16,
}
"""Where each setting's port is in a block of BLOCK: three members, three brokers with their controllers, master and
workers with their pages, Connect, webserver."""

BLOCK = 17
SERVICES = {
    Group.INGEST: ("mongo", "kafka"),
    Group.ROUTER: ("mongo", "kafka"),
    Group.DAYS: ("mongo", "kafka", "spark"),
    Group.DAGSTER: ("mongo", "kafka", "spark"),
    Group.CLUSTER: ("mongo", "kafka"),
    Group.WORKERS: ("mongo", "kafka", "spark"),
}
SIZES: dict[Group, dict[str, int]] = {
    Group.CLUSTER: {"mongo_members": 3, "kafka_brokers": 3},
    Group.WORKERS: {"spark_workers": 2},
}
MONGO_ARGUMENTS = (
    *("--setParameter", "enableTestCommands=1"),  # its failpoints
    # How long the transaction of a killed run holds a day; a minute by default.
    *("--setParameter", "transactionLifetimeLimitSeconds=20"),
)


def free_block(count: int) -> int:
    """The first of so many free ports in a row."""
    given = os.environ.get(PORTS_VARIABLE) or f"{FIRST_PORT}-{LAST_PORT}"
    lowest, highest = map(int, given.split("-"))
    while True:
        first = random.randrange(lowest, highest + 2 - count)  # noqa: S311 - no secret
        if all(_is_free(port) for port in range(first, first + count)):
            return first


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind((LOOPBACK, port))
        return True
    return False


def own_settings(home: Path, **changes: Any) -> Settings:
    """Settings of an installation of its own; nothing of the environment's or of a .env file's."""
    first = free_block(BLOCK)
    ports = {name: first + place for name, place in PORTS.items()}
    chosen = {"home": home, "spark_memory": "1g", "alert_channels": "log", **ports, **changes}
    cache = {"cache_dir": Path(os.environ["METERS_CACHE_DIR"])} if os.environ.get("METERS_CACHE_DIR") else {}
    return Settings(_env_file=None, **{**cache, **chosen})  # pyright: ignore[reportCallIssue]


@contextmanager
def temporary_home(*, keep: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """A folder that goes with the block, unless it is to be kept then."""
    home = Path(tempfile.mkdtemp(prefix="meters-faults-"))
    try:
        yield home
    finally:
        if not keep():
            shutil.rmtree(home, ignore_errors=True)


@contextmanager
def group_stack(group: Group, *, report: Report) -> Iterator[LocalStack]:
    """The services of a group, for as long as the block lasts."""
    with temporary_home() as home:
        settings = own_settings(home, **SIZES.get(group, {}))
        fetch_jars(settings)
        stack = LocalStack(settings, SERVICES[group], arguments={"mongo": MONGO_ARGUMENTS}, report=report)
        with stack:
            try:
                yield stack
            finally:
                for name in stack.services:  # its data goes anyway: no need for an orderly end
                    stack.kill(name)
