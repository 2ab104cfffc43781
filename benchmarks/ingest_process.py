"""A process that ingests a backlog and prints what it took: `python -m benchmarks.ingest_process TOPIC GROUP`."""

import dataclasses
import json
import sys
import time
from typing import Any

import psutil

from metering.settings import load_settings
from streaming.ingest.batch import READINGS_FEED
from streaming.ingest.member import Ingest


def main() -> None:
    """Ingest until caught up; messages and resident memory after each batch go into `memory`."""
    topic, group = sys.argv[1:]
    process = psutil.Process()
    memory: list[tuple[int, int]] = []

    def observe(counts: Any, backlog: int) -> None:
        memory.append((counts.messages, process.memory_info().rss))

    started = time.monotonic()
    feed = dataclasses.replace(READINGS_FEED, topics=(topic,), group=group)
    counts = Ingest(load_settings(), feed=feed).run(until_caught_up=True, on_progress=observe)
    seconds = time.monotonic() - started
    print(
        json.dumps({"messages": counts.messages, "stored": counts.stored, "seconds": seconds, "memory": memory}),
    )


if __name__ == "__main__":
    main()
