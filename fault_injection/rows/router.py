"""The router's two processes killed and stopped, its services gone, its topics changed, its messages poisoned."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil
from kafka import KafkaProducer

from fault_injection import poison
from fault_injection.case import Case
from fault_injection.ending import expected_faults, recover_routing
from fault_injection.inject import hold, pause_process, pause_service
from fault_injection.processes import Process
from fault_injection.row import Group, Row, row
from fault_injection.rows.ingest import LONGER_THAN_SESSION, LONGER_THAN_TRANSACTION
from metering.settings import READINGS_TOPIC

DEAD_SECONDS = 90
HELD_EXIT_CODE = 75
SILENT = 40
ROUTED_SECONDS = 120
LOAD = {"rate": 300, "fault_rate": 0.05}


def _routing(case: Case, **load: Any) -> Process:
    """The city is registered, and a router works on its second load."""
    case.load(days=1, rate=None, fault_rate=0.05).finish()
    router = case.router()
    case.wait_routing(router)
    if load:
        case.load(first_day=case.next_day(), **load)
        case.wait_routed()
    return router


def _wait_routed_all(case: Case) -> None:
    """Wait until the router has read everything that is there, and has sent every fault of it."""
    case.stop_loads()
    case.history.keep()
    wanted = expected_faults(case)
    case.wait(lambda: wanted <= case.routed.look(), ROUTED_SECONDS, "every fault so far is routed")


def _route_all(case: Case) -> None:
    """Have a router read everything that is there, and write it to its checkpoint, and end."""
    router = case.router(batch_seconds=10)
    case.wait_routing(router)
    _wait_routed_all(case)
    case.wait_checkpoint(router)  # what it has read behind that counts as unread
    router.stop()


def _jvm(router: Process) -> psutil.Process:
    return next(each for each in router.family() if "java" in each.name())


def killed(case: Case) -> None:
    """All of it killed; the next one goes on."""
    _routing(case, **LOAD).kill()
    case.router()
    recover_routing(case)


def python_killed(case: Case) -> None:
    """Its Python killed: its JVM ends with it, and the next router goes on."""
    router = _routing(case, **LOAD)
    family = router.family()
    router.killed = True
    family[0].kill()
    try:
        case.wait(lambda: not _alive(family), DEAD_SECONDS, "the JVM of a router that was killed ends")
    finally:
        router.kill()
    case.router()
    recover_routing(case)


def jvm_killed(case: Case) -> None:
    """Its JVM killed: it starts another one."""
    router = _routing(case, **LOAD)
    _jvm(router).kill()
    recover_routing(case)


def _alive(family: list[psutil.Process]) -> bool:
    return any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)


def paused(case: Case, *, which: str, seconds: float) -> None:
    """Its Python or its JVM stopped for so long."""
    router = _routing(case, **LOAD)
    pause_process(router.family()[0] if which == "python" else _jvm(router), seconds)
    recover_routing(case)


def terminated(case: Case) -> None:
    """Asked to end under load: it exits 0, and the next one goes on."""
    router = _routing(case, **LOAD)
    code = router.stop()
    case.promise(code == 0, f"exit code {code}: {router.last_line}")
    case.router()
    recover_routing(case)


def two_at_once(case: Case) -> None:
    """A second router on the same checkpoint gives way."""
    _routing(case, **LOAD)
    second = case.router()
    second.may_fail = True
    case.promise(second.wait(DEAD_SECONDS) == HELD_EXIT_CODE, f"exit code {second.exit_code}: {second.last_line}")
    recover_routing(case)


def service_killed(case: Case, *, service: str) -> None:
    """A service killed under load, and started again."""
    _routing(case, **LOAD)
    case.stack.kill(service)
    case.stack.start_service(service)
    recover_routing(case)


def service_paused(case: Case, *, service: str, seconds: float) -> None:
    """A service stopped with SIGSTOP under load."""
    _routing(case, **LOAD)
    pause_service(case.stack, service, seconds)
    recover_routing(case)


def removed_unread(case: Case) -> None:
    """Retention passes unread messages while no router runs; the next one goes on behind them by itself."""
    case.load(days=1, rate=None, fault_rate=0.05).finish()
    _route_all(case)
    read = case.history.ends()
    case.load(days=1, rate=None, first_day=case.next_day()).finish()
    case.history.keep()
    kept = {partition: at - 50 for partition, at in case.history.ends().items()}
    case.history.expect_gone(read, kept)
    case.topics.remove_before(kept)
    case.router()
    case.load(days=1, first_day=case.next_day(), fault_rate=0.05, rate=None)
    recover_routing(case)


def topic_made_again(case: Case, *, before: int, after: int) -> None:
    """iot-meter deleted and made again while no router runs."""
    case.load(days=before, rate=None, fault_rate=0.05).finish()
    _route_all(case)
    case.history.make_topic_again()
    case.load(days=after, rate=None, first_day=case.next_day(), fault_rate=0.05).finish()
    case.router()
    recover_routing(case)


def partitions_added(case: Case) -> None:
    """iot-meter gets partitions under load."""
    _routing(case, **LOAD)
    case.topics.add_partitions(READINGS_TOPIC, 2 * case.settings.kafka_partitions)
    recover_routing(case)


def checkpoint_removed(case: Case) -> None:
    """The checkpoint deleted while no router runs: nothing is routed twice in effect."""
    router = _routing(case)
    _wait_routed_all(case)
    router.stop()
    shutil.rmtree(case.settings.router_place)
    router = case.router()
    case.load(days=1, first_day=case.next_day(), fault_rate=0.05, rate=None)
    recover_routing(case)
    case.promise(any("checkpoint" in line for line in router.lines), "it does not say that its checkpoint is gone")


def _send(case: Case, *values: dict[str, Any], **options: Any) -> KafkaProducer:
    producer = KafkaProducer(bootstrap_servers=case.settings.kafka.split(","), **options)
    for value in values:
        producer.send(READINGS_TOPIC, key=value["device_id"].encode(), value=json.dumps(value).encode())
    producer.flush()
    return producer


def transaction_marker(case: Case) -> None:
    """Another application's transaction is the last on a quiet topic: nothing waits behind its marker."""
    _routing(case)
    _wait_routed_all(case)
    producer = KafkaProducer(bootstrap_servers=case.settings.kafka.split(","), transactional_id="another-application")
    producer.init_transactions()
    producer.begin_transaction()
    reading = {"device_id": "em1", "timestamp": "2023-06-01T10:00:07Z", "usage_kwh": -1}
    producer.send(READINGS_TOPIC, key=b"em1", value=json.dumps(reading).encode())
    producer.commit_transaction()
    producer.close()
    hold(70)  # it stood still for 60 s before it gave up
    recover_routing(case)


def two_types(case: Case) -> None:
    """One meter sends readings of both types in one window."""
    _routing(case)
    first = {"device_id": "em1", "timestamp": "2023-06-01T10:00:07Z", "usage_kwh": -1}
    second = {"device_id": "em1", "timestamp": "2023-06-01T10:00:08Z", "usage": 10, "flow_rate": -1}
    _send(case, first, second, linger_ms=5).close()
    case.load(days=1, first_day=case.next_day(), fault_rate=0.05)
    hold(15)  # the aggregates' query works every 5 s
    recover_routing(case)


def bombed(case: Case, *, codec: str, megabytes: int) -> None:
    """A message that no JVM of this size can unpack."""
    _routing(case)
    _wait_routed_all(case)
    case.history.make_unreadable(
        lambda: poison.send_bombs(case.settings.kafka, codec=codec, megabytes=megabytes, count=1)
    )
    case.load(days=1, first_day=case.next_day(), fault_rate=0.05)
    recover_routing(case)


NEXT = "The next one goes on at its checkpoint: every fault is routed, none twice in effect."
ITSELF = "It goes on by itself: every fault is routed, none twice in effect."


def _row(name: str, fault: str, promise: str, run: Callable[[Case], None], *, full: bool = False) -> Row:
    return row("router", name, fault, promise, run, group=Group.ROUTER, full=full)


ROWS: tuple[Row, ...] = (
    _row("kill", "SIGKILL under load", NEXT, killed),
    _row("kill-python", "SIGKILL of its Python process", f"The JVM ends too. {NEXT}", python_killed),
    _row("kill-jvm", "SIGKILL of its JVM", ITSELF, jvm_killed),
    _row("term", "SIGTERM under load", f"It exits 0. {NEXT}", terminated),
    _row("two", "a second router on the same checkpoint", "The second one ends with exit code 75.", two_at_once),
    _row(
        "pause-python",
        "SIGSTOP of its Python for 14 s",
        ITSELF,
        partial(paused, which="python", seconds=LONGER_THAN_SESSION),
    ),
    _row(
        "pause-jvm",
        "SIGSTOP of its JVM for 26 s",
        ITSELF,
        partial(paused, which="jvm", seconds=LONGER_THAN_TRANSACTION),
    ),
    _row("broker-kill", "broker killed", ITSELF, partial(service_killed, service="kafka")),
    _row(
        "broker-pause",
        "broker stopped for 26 s",
        ITSELF,
        partial(service_paused, service="kafka", seconds=LONGER_THAN_TRANSACTION),
    ),
    _row("mongod-kill", "mongod killed", ITSELF, partial(service_killed, service="mongo")),
    _row(
        "mongod-pause",
        f"mongod silent for {SILENT} s",
        ITSELF,
        partial(service_paused, service="mongo", seconds=SILENT),
    ),
    _row(
        "retention",
        "Kafka removes unread messages while it is down",
        "It goes on behind the loss by itself, and records it.",
        removed_unread,
    ),
    _row(
        "topic-fewer",
        "iot-meter made again with fewer messages",
        "Every fault of the new topic is routed.",
        partial(topic_made_again, before=2, after=1),
    ),
    _row(
        "topic-more",
        "iot-meter made again, filled beyond its checkpoint",
        "Every fault of the new topic is routed.",
        partial(topic_made_again, before=1, after=2),
    ),
    _row("partitions", "iot-meter gets partitions", ITSELF, partitions_added),
    _row(
        "checkpoint",
        "its checkpoint deleted",
        "It says so and begins with the oldest readings: every fault is routed, none twice in effect.",
        checkpoint_removed,
    ),
    _row(
        "transaction",
        "another application's transaction on a quiet topic",
        "It runs on, and nothing waits.",
        transaction_marker,
    ),
    _row("two-types", "one meter sends both types", ITSELF, two_types),
    _row(
        "bomb-gzip-400",
        "gzip, 400 MB unpacked",
        "Routing goes on behind it within 60 s; it is recorded.",
        partial(bombed, codec="gzip", megabytes=400),
    ),
)
