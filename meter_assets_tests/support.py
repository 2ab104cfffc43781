"""Helpers of the tests: waiting for conditions, free ports, the `meters` command, GraphQL. No fixtures here."""

import itertools
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from local_stack.dagster import webserver_url
from metering.settings import LOOPBACK, Settings
from streaming.kafka.clients import open_consumer, partitions_of

POLL_SECONDS = 0.05

T = TypeVar("T")


def wait_for(condition: Callable[[], T], timeout_seconds: float, what: str = "") -> T:
    """Ask again and again until the answer is true; returns it, fails after the deadline."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {what or condition}")
        time.sleep(POLL_SECONDS)


def answers_http(url: str) -> bool:
    """Does somebody answer there at all?"""
    try:
        urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - loopback
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _own_ports() -> Iterator[int]:
    """Ports that neither other processes of the tests nor the system, for whoever lets it choose, give away."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw-1").removeprefix("gw"))
    first, count = 10_000 + 2_000 * ((process + 1) % 5), 2_000
    begin = random.randrange(count)  # noqa: S311 - no secret: another session's may begin elsewhere
    return itertools.cycle(first + (begin + each) % count for each in range(count))


_ports = _own_ports()


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on, all different; none comes again soon, though it stays free."""
    found: list[int] = []
    while len(found) < count:
        port = next(_ports)
        with suppress(OSError), socket.socket() as each:
            each.bind((LOOPBACK, port))
            found.append(port)
    return found


def free_block(count: int) -> int:
    """The first of that many free ports in a row."""
    while True:
        found = free_ports(count)
        if found[-1] - found[0] == count - 1:
            return found[0]


def settings_for(home: Path, **changes: object) -> Settings:
    """Settings of an installation of its own, on free ports."""
    mongo, kafka, controller, spark, webserver = free_ports(5)
    ports = {
        "mongo_port": mongo,
        "kafka_port": kafka,
        "kafka_controller_port": controller,
        "spark_port": spark,
        "webserver_port": webserver,
    }
    return Settings(home=home, **{**ports, "spark_memory": "1g", **changes})  # pyright: ignore[reportArgumentType]


def meters(
    settings: Settings, *arguments: str, timeout_seconds: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the `meters` command as a user would, in the given installation."""
    return subprocess.run(
        [Path(sys.executable).with_name("meters"), *arguments],
        env={**os.environ, **settings.environment(), **environment},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )


def ask(settings: Settings, query: str, **variables: Any) -> dict[str, Any]:
    """Ask the Dagster webserver as its UI does; the answer has no errors."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"{webserver_url(settings)}/graphql",
        data=json.dumps({"query": query, "variables": variables}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        answer = json.load(response)
    assert "errors" not in answer, answer
    return answer["data"]


def read_topic(settings: Settings, topic: str) -> list[Any]:
    """The committed messages of a topic up to its present end, each partition in its order; none where it is not."""
    consumer: Any = open_consumer(settings, group=None, max_poll_records=20_000)
    try:
        partitions = partitions_of(consumer, topic)
        if not partitions:
            return []
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        ends = consumer.end_offsets(partitions)
        found: list[Any] = []
        while any((consumer.position(partition) or 0) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=200).values():
                found += records
        return found
    finally:
        consumer.close()
