"""Broker and MongoDB killed, restarted, stopped and failing while ingest works."""

import signal
import time
from functools import partial
from typing import Any

from fault_injection.case import Case
from fault_injection.ending import recover
from fault_injection.inject import failpoint, hold, pause_service
from fault_injection.row import Row, row
from fault_injection.rows.ingest import LONGER_THAN_SESSION, LONGER_THAN_TRANSACTION, PLAIN, SHORT, STEP_SECONDS
from metering.settings import DEAD_LETTERS_TOPIC

DOWN = 40
"""Longer than any client's patience with a single request."""

SAID_WITHIN_SECONDS = 45
TITLES = {"kafka": "broker", "mongo": "mongod"}


def _begin(case: Case, **load: Any) -> None:
    case.load(rate=500, **load)
    case.ingest()
    case.wait_at_work(500)


def killed(case: Case, *, services: tuple[str, ...], down_seconds: float = 0) -> None:
    """Killed under load, and started again after so long."""
    _begin(case)
    for name in services:
        case.stack.kill(name)
    hold(down_seconds)
    case.stack.start_services(services)
    recover(case)


def restarted(case: Case, *, service: str) -> None:
    """Stopped in order under load, and started again."""
    _begin(case)
    case.stack.restart(service)
    recover(case)


def stopped(case: Case, *, service: str, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after so long: connections stay open, and nobody answers."""
    _begin(case)
    pause_service(case.stack, service, seconds)
    recover(case)


def broker_dies_inside_transaction(case: Case) -> None:
    """Killed and started again while ingest stands inside its dead-letter transaction."""
    case.load(rate=500)
    ingest = case.ingest(trap=("offsets", "after", "stop", "2"))
    ingest.wait_stopped(STEP_SECONDS)
    case.stack.kill("kafka")
    case.stack.start_service("kafka")
    ingest.send(signal.SIGCONT)
    recover(case)


def down_while_idle(case: Case, *, service: str) -> None:
    """Gone while ingest has nothing to do: it must not look healthy."""
    alive = case.folder / "alive"
    settings = case.settings.model_copy(update={"alive_file": alive})
    case.load(days=1, rate=None).finish()
    ingest = case.ingest(settings=settings)
    case.wait_at_work(3_000)
    case.stack.kill(service)
    since = time.time()
    title = {"kafka": "Kafka", "mongo": "MongoDB"}[service]
    try:
        case.wait(
            lambda: not ingest.is_alive or any(title in line for line in ingest.lines),
            SAID_WITHIN_SECONDS,
            f"ingest says that {title} does not answer",
        )
        case.promise(alive.stat().st_mtime < since + 5, "its alive file is fresh while it can do nothing")
    finally:
        case.stack.start_service(service)
    case.load(days=1, rate=None, first_day=case.next_day())
    recover(case)


def failing(case: Case, *, seconds: float = 0, mode: Any = None, line: str = "", **how: Any) -> None:
    """MongoDB fails commands of ingest: so many of them, or for so long."""
    _begin(case)
    namespace = how.pop("collection", "")
    if namespace:
        how["namespace"] = f"{case.database.name}.{namespace}"
    with failpoint(case.settings, mode or "alwaysOn", **how) as entered:
        entered(1, STEP_SECONDS)
        hold(seconds)
    if line:
        # A refusal that only a person can end may end ingest, with a line that says so.
        case.tolerate_end(line)
    recover(case)


def dead_letters_refused(case: Case, *, seconds: float, **configs: str) -> None:
    """The dead-letter topic takes nothing for a while; readings alone must not pass it by."""
    case.load(rate=500, **PLAIN)
    case.ingest()
    case.wait_at_work(500)
    present = case.topics.configuration(DEAD_LETTERS_TOPIC)
    before = {name: present.get(name.replace("_", "."), "1") for name in configs}
    case.topics.configure(DEAD_LETTERS_TOPIC, **configs)
    case.load(rate=500, first_day=case.next_day(), days=2)
    hold(seconds)
    case.topics.configure(DEAD_LETTERS_TOPIC, **before)
    case.tolerate_end("dead letter|iot-meter-dlq")
    recover(case)


def dead_letters_topic_deleted(case: Case) -> None:
    """The topic is gone while bad messages come; made again by the next ingest."""
    case.load(rate=500, **PLAIN)
    case.ingest()
    case.wait_at_work(500)
    case.topics.delete(DEAD_LETTERS_TOPIC)
    case.load(rate=500, first_day=case.next_day(), days=2)
    hold(10)
    case.tolerate_end("dead letter|iot-meter-dlq")
    case.topics.make(DEAD_LETTERS_TOPIC, max_message_bytes=str(16 * 1024 * 1024))
    recover(case)


GOES_ON = "Ingest waits for it and goes on by itself: nothing lost, nothing twice."
NAMED = "Nothing lost, nothing twice; when ingest ends, its line names what is wrong."


def _of_service(service: str) -> list[Row]:
    title = TITLES[service]
    pauses = (SHORT, LONGER_THAN_SESSION, LONGER_THAN_TRANSACTION)
    return [
        row(
            *(title, "kill", "SIGKILL under load", GOES_ON),
            partial(killed, services=(service,)),
            in_tests=service == "mongo",
        ),
        row(title, "restart", "restart under load", GOES_ON, partial(restarted, service=service)),
        row(
            *(title, f"down-{DOWN}s", f"down for {DOWN} s under load", GOES_ON),
            partial(killed, services=(service,), down_seconds=DOWN),
        ),
        *(
            row(
                *(title, f"pause-{seconds}s", f"SIGSTOP for {seconds} s", GOES_ON),
                partial(stopped, service=service, seconds=seconds),
            )
            for seconds in pauses
        ),
    ]


_INSERTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("insert-closed", "connection closed in three inserts", {"mode": {"times": 3}, "closeConnection": True}),
    (
        "insert-unacknowledged",
        "three inserts written and not acknowledged",
        {"mode": {"times": 3}, "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    ),
    ("insert-slow", "inserts take 12 s", {"mode": {"times": 2}, "blockConnection": True, "blockTimeMS": 12_000}),
    ("insert-stepdown", "no primary for inserts for 5 s", {"errorCode": 10107, "seconds": 5}),
)
_CLOSED: dict[str, Any] = {"closeConnection": True, "mode": {"times": 3}}

ROWS: tuple[Row, ...] = (
    *_of_service("kafka"),
    row(
        *("broker", "kill-in-transaction", "SIGKILL inside a dead-letter transaction", GOES_ON),
        broker_dies_inside_transaction,
    ),
    row(
        *("broker", "down-idle", "down while ingest is idle", "Ingest says so, and its health check fails."),
        partial(down_while_idle, service="kafka"),
    ),
    *_of_service("mongo"),
    row(
        *("mongod", "kill-both", "SIGKILL of mongod and broker together", GOES_ON),
        partial(killed, services=("mongo", "kafka")),
    ),
    *(
        row(
            *("mongod", f"fail-{name}", f"failpoint: {fault}", GOES_ON),
            partial(failing, failCommands=["insert"], **how),
        )
        for name, fault, how in _INSERTS
    ),
    row(
        *("mongod", "fail-find", "failpoint: connection closed in the look-up of stored readings", GOES_ON),
        partial(failing, failCommands=["aggregate"], collection="$cmd.aggregate", **_CLOSED),
    ),
    row(
        *("mongod", "fail-days", "failpoint: connection closed in the count of changed days", GOES_ON),
        partial(failing, failCommands=["update"], collection="local_days", **_CLOSED),
    ),
    row(
        *("mongod", "fail-disk", "failpoint: out of disk space for 5 s", NAMED),
        partial(failing, failCommands=["insert"], errorCode=14031, seconds=5, line="(?i)disk|space"),
    ),
    row(
        *("mongod", "fail-inside", "failpoint: an internal error for 5 s", NAMED),
        partial(failing, failCommands=["insert"], errorCode=1, seconds=5, line="^(?!.*password)"),
    ),
    row(
        *("dead-letter topic", "refuses", "takes nothing for 15 s", NAMED),
        partial(dead_letters_refused, seconds=15, min_insync_replicas="2"),
    ),
    row(
        *("dead-letter topic", "too-small", "takes only messages of 200 bytes for 10 s", NAMED),
        partial(dead_letters_refused, seconds=10, max_message_bytes="200"),
    ),
    row("dead-letter topic", "deleted", "deleted under load", NAMED, dead_letters_topic_deleted),
)
