"""`meters` with a trap: the process kills or stops itself at a step of its own work.

`python -m fault_injection.steps STEP before|after kill|stop NUMBER ARGUMENT…` runs `meters ARGUMENT…`. The steps are
calls of the client libraries, because those stay where they are when the product changes.
"""

import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

STEPS = ("write", "days", "commit", "begin", "letter", "flush", "offsets", "end")
"""The write of readings, the count of changed days, the commit of offsets; then the dead-letter transaction's begin,
its first letter, its flush, its offsets and its end."""


def _owners() -> dict[str, tuple[Any, str, Callable[[Any], bool]]]:
    from kafka import KafkaConsumer, KafkaProducer
    from pymongo.collection import Collection

    def always(_: Any) -> bool:
        return True

    return {
        "write": (Collection, "insert_many", lambda collection: collection.name in ("iot-meter", "iot-abnormal")),
        "days": (Collection, "bulk_write", lambda collection: collection.name == "local_days"),
        "commit": (KafkaConsumer, "commit", always),
        "begin": (KafkaProducer, "begin_transaction", always),
        "letter": (KafkaProducer, "send", always),
        "flush": (KafkaProducer, "flush", always),
        "offsets": (KafkaProducer, "send_offsets_to_transaction", always),
        "end": (KafkaProducer, "commit_transaction", always),
    }


def set_trap(step: str, moment: str, deed: str, number: int) -> None:
    """Have this process kill or stop itself at the step's call of that number, counted from 1."""
    owner, name, concerned = _owners()[step]
    original = getattr(owner, name)
    calls = 0

    def trap(at: str) -> None:
        if at == moment and calls == number:
            os.kill(os.getpid(), signal.SIGKILL if deed == "kill" else signal.SIGSTOP)

    def trapped(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        if not concerned(self):
            return original(self, *arguments, **options)
        calls += 1
        trap("before")
        try:
            return original(self, *arguments, **options)
        finally:
            trap("after")

    setattr(owner, name, trapped)


def main() -> None:
    """Set the trap, then be `meters`."""
    step, moment, deed, number, *arguments = sys.argv[1:]
    set_trap(step, moment, deed, int(number))
    sys.argv = ["meters", *arguments]
    runpy.run_module("meter_cli", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
