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

from faults.inject import revive
from faults.row import Group
from local_stack import LocalStack
from local_stack.jars import fetch_jars
from metering.settings import LOOPBACK, Settings

Report = Callable[[str], None]

FIRST_PORT, LAST_PORT = 21_600, 21_999
"""Below the range from which the system takes the ports of connections: a service must find its own free again."""

PORTS = ("mongo_port", "kafka_port", "kafka_controller_port", "spark_port", "webserver_port")
SERVICES = {
    Group.INGEST: ("mongo", "kafka"),
    Group.ROUTER: ("mongo", "kafka"),
    Group.DAYS: ("mongo", "kafka", "spark"),
    Group.DAGSTER: ("mongo", "kafka", "spark"),
}
MONGO_ARGUMENTS = (
    *("--setParameter", "enableTestCommands=1"),  # its failpoints
    # How long the transaction of a killed run holds a day; a minute by default.
    *("--setParameter", "transactionLifetimeLimitSeconds=20"),
)


def free_ports(count: int) -> list[int]:
    """The first of so many free ports in a row, and those after it."""
    while True:
        first = random.randrange(FIRST_PORT, LAST_PORT - count)  # noqa: S311 - no secret
        block = list(range(first, first + count))
        if all(_is_free(port) for port in block):
            return block


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind((LOOPBACK, port))
        return True
    return False


def own_settings(home: Path, **changes: Any) -> Settings:
    """Settings of an installation of its own; nothing of the environment's or of a .env file's."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    chosen = {"home": home, "spark_memory": "1g", "alert_channels": "log", **ports, **changes}
    cache = {"cache_dir": Path(os.environ["METERS_CACHE_DIR"])} if os.environ.get("METERS_CACHE_DIR") else {}
    return Settings(_env_file=None, **{**cache, **chosen})  # pyright: ignore[reportCallIssue]


@contextmanager
def temporary_home() -> Iterator[Path]:
    """A folder that goes with the block."""
    home = Path(tempfile.mkdtemp(prefix="meters-faults-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def group_stack(group: Group, *, report: Report) -> Iterator[LocalStack]:
    """The services of a group, for as long as the block lasts."""
    with temporary_home() as home:
        settings = own_settings(home)
        fetch_jars(settings)
        stack = LocalStack(settings, SERVICES[group], arguments={"mongo": MONGO_ARGUMENTS}, report=report)
        with stack:
            try:
                yield stack
            finally:
                with suppress(Exception):  # a service that cannot be revived is killed by the stack's end
                    revive(stack)
                for name in stack.services:  # its data goes anyway: no need for an orderly end
                    stack.kill(name)
