"""The small clusters of real processes: three brokers, three members of a replica set, two Spark workers."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pymongo import MongoClient

from fault_injection.case import Case
from fault_injection.ending import recover
from fault_injection.row import Group, Row, row
from fault_injection.rows.days import service_killed
from metering.settings import READINGS_TOPIC


def member_killed(case: Case, *, which: str) -> None:
    """The leader of a partition, the primary, or both killed under load; the others go on without it."""
    case.load(rate=500)
    case.ingest()
    case.wait_at_work(500)
    killed = [find(case) for name, find in (("leader", _leader), ("primary", _primary)) if name in which]
    for name in killed:
        case.stack.kill(name)
    recover(case)
    case.stack.start_services(killed)


def _leader(case: Case) -> str:
    with case.topics.admin() as admin:
        (described,) = admin.describe_topics([READINGS_TOPIC])
    number = described["partitions"][0]["leader_id"]
    return "kafka" if number == 1 else f"kafka-{number}"


def _primary(case: Case) -> str:
    with MongoClient(case.settings.mongo) as client:
        client.admin.command("ping")
        port = (client.primary or ("", 0))[1]
    number = case.stack.settings.mongo_ports.index(port) + 1
    return "mongo" if number == 1 else f"mongo-{number}"


OTHERS = "The others go on by themselves without it: nothing lost, nothing twice."


def _row(process: str, fault: str, promise: str, run: Callable[[Case], None], group: Group, **options: Any) -> Row:
    return row("cluster", process, fault, promise, run, group=group, **options)


ROWS = (
    _row("leader", "leader of a partition killed", OTHERS, partial(member_killed, which="leader"), Group.CLUSTER),
    _row("primary", "MongoDB's primary killed", OTHERS, partial(member_killed, which="primary"), Group.CLUSTER),
    _row(
        *("both", "leader and primary killed together", OTHERS),
        partial(member_killed, which="leader and primary"),
        Group.CLUSTER,
        full=True,
    ),
    _row(
        *("worker", "a Spark worker killed while a run reads", "The run succeeds, and all figures are right."),
        partial(service_killed, service="spark-worker-2", moment="reads"),
        Group.WORKERS,
    ),
)
