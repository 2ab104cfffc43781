"""A process that sends readings at a steady rate: `python -m benchmarks.produce_process TOPIC RATE SECONDS SKIP [DAY]`.

Two loads on one installation are of two days: readings of the same meters and times would be conflicts.
Prints when each faulty reading was handed to the producer, by the reading's id, in seconds since 1970.
"""

import json
import sys
import time
from datetime import UTC, datetime
from itertools import islice

from benchmarks.city import DAY, messages
from metering.settings import load_settings
from streaming.kafka.clients import Sender

FAULT = b":-1"
TICK_SECONDS = 0.005


def reading_key(value: bytes) -> str:
    """`<device_id>|<timestamp>` of a message of this city."""
    fields = json.loads(value)
    return f"{fields['timestamp']}|{fields['device_id']}"


def main() -> None:
    """Send, and say when."""
    topic, rate, seconds, skip = sys.argv[1], *map(int, sys.argv[2:5])
    day = datetime.fromisoformat(sys.argv[5]).replace(tzinfo=UTC) if len(sys.argv) > 5 else DAY
    readings = islice(messages(skip + rate * seconds, day), skip, None)
    sent: dict[str, float] = {}
    started = time.time()
    with Sender(load_settings(), topic, linger_ms=0) as sender:
        while sender.sent < rate * seconds:
            due = int((time.time() - started) * rate)
            for key, value in islice(readings, max(0, min(due, rate * seconds) - sender.sent)):
                if FAULT in value:
                    sent[reading_key(value)] = time.time()
                sender.send(value, key=key)
            time.sleep(TICK_SECONDS)  # the pace of the load, not a wait for something
    print(json.dumps({"sent": sent, "seconds": time.time() - started, "messages": rate * seconds}))


if __name__ == "__main__":
    main()
