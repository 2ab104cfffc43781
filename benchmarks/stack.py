"""The stack that benchmarks run on: an installation of its own, in a temporary home and on free ports."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.measure import Report
from local_stack import LocalStack
from metering.settings import LOOPBACK, load_settings

PORTS = ("mongo_port", "kafka_port", "kafka_controller_port", "spark_port", "webserver_port")
ELSEWHERE = ("mongo_uri", "kafka_bootstrap", "spark_remote", "spark_master", "spark_jars", "lake")
ONE_OF_EACH = {"mongo_members": 1, "kafka_brokers": 1, "kafka_replication": None, "spark_workers": 0}
"""What every figure in docs/benchmarks.md was measured on."""


@contextmanager
def own_stack(*, keep: bool, report: Report) -> Iterator[LocalStack]:
    """Services for as long as the block lasts; their settings are in force in this process and its children.

    Args:
        keep: leave the home, and all that was measured on, for a look at it afterwards.
        report: gets a line when a service is usable.
    """
    home = Path(tempfile.mkdtemp(prefix="meters-bench-"))
    # Benchmarks measure the local stack, also where the settings in force place its services elsewhere.
    own = {"home": home, "timezone": "UTC", **dict.fromkeys(ELSEWHERE), **ONE_OF_EACH, **_free_ports()}
    settings = load_settings().model_copy(update=own)
    for name in (*ELSEWHERE, "kafka_replication"):
        os.environ[f"METERS_{name.upper()}"] = ""  # env_ignore_empty applies to .env as well
    os.environ.update(settings.environment())
    os.chdir(home)  # holds no .env
    load_settings.cache_clear()
    try:
        with LocalStack(load_settings(), report=report) as stack:
            yield stack
    finally:
        if keep:
            report(f"Kept in {home}; look at it: METERS_HOME={home} meters up")
        else:
            shutil.rmtree(home, ignore_errors=True)


def _free_ports() -> dict[str, int]:
    with ExitStack() as sockets:
        found = [sockets.enter_context(socket.socket()) for _ in PORTS]
        for each in found:
            each.bind((LOOPBACK, 0))
        return {name: each.getsockname()[1] for name, each in zip(PORTS, found, strict=True)}
