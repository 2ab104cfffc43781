"""What a row works with: its installation, its processes and loads. How a row ends is in ending.py."""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeVar

from pymongo import MongoClient

from fault_injection import inject
from fault_injection.history import History
from fault_injection.load import Load, load_day
from fault_injection.processes import Process
from fault_injection.routed import Routed
from fault_injection.row import Broken, Outcome, Row
from fault_injection.topics import FAULTS_GROUP, INGEST_GROUP, TOPICS, Topics
from local_stack import LocalStack
from metering.settings import Settings

T = TypeVar("T")

POLL_SECONDS = 0.1
WORK_SECONDS = 90
"""How long a row waits for the ordinary: a start, the first messages."""

ROUTER_START_SECONDS = 180
FRESH_SECONDS = 10
LINES_KEPT = 3
"""Lines of each process that an outcome keeps: the last ones."""


class Case:
    """One row on its installation.

    Args:
        row: the row.
        stack: the services; None for a row that starts its own.
        settings: the installation: its database, its lake and its folder are this row's own.
        seed: of its loads.
        report: gets a line of progress.
    """

    def __init__(
        self, row: Row, stack: LocalStack | None, settings: Settings, *, seed: int, report: Callable[[str], None]
    ) -> None:
        self.row = row
        self.settings = settings
        self.folder = settings.home
        self.report = report
        self.outcome = Outcome(row)
        self.topics = Topics(settings.kafka)
        self.routed = Routed(settings.kafka)
        self.history = History(self.topics)
        self.processes: list[Process] = []
        self.loads: list[Load] = []
        self.fault_ended = 0.0
        self.before: dict[int, int] = {}
        """What was committed when the fault ended."""
        self._seed = seed
        self._stack = stack
        self._client: MongoClient | None = None

    @property
    def stack(self) -> LocalStack:
        """The services."""
        if self._stack is None:
            raise RuntimeError("the row has a stack of its own")
        return self._stack

    @property
    def database(self) -> Any:
        """The row's database."""
        if self._client is None:
            self._client = MongoClient(self.settings.mongo, tz_aware=True, serverSelectionTimeoutMS=30_000)
        return self._client[self.settings.mongo_database]

    # Processes and loads.

    def load(self, **options: Any) -> Load:
        """Begin to send; see load.Load."""
        load = Load(self.settings, **{"seed": self._seed, **options})
        self.loads.append(load)
        load.start()
        return load

    def next_day(self) -> date:
        """A day behind those of the loads so far: a further load's readings are not theirs again."""
        return load_day(len(self.loads))

    def stop_loads(self) -> None:
        """Stop sending; everything sent is acknowledged then."""
        for load in self.loads:
            ledger = load.stop()
            if load.failure:
                self.outcome.lines.append(f"simulate: {load.failure}")
            elif not ledger.complete:
                self.outcome.wrong.append("the load did not come to its end")

    def meters(self, *arguments: str, **options: Any) -> Process:
        """Start a `meters` command; see processes.Process."""
        settings = options.pop("settings", self.settings)
        process = Process(settings, arguments, folder=self.folder, **options)
        self.processes.append(process)
        return process

    def run(self, *arguments: str, within_seconds: float = 240, **options: Any) -> Process:
        """Run a `meters` command to its end, whatever that is."""
        process = self.meters(*arguments, **options)
        process.may_fail = True
        process.wait(within_seconds)
        return process

    def ingest(self, *arguments: str, trap: Sequence[str] = (), **options: Any) -> Process:
        """Start an ingest, with a trap at a step (see steps.py) if need be."""
        if trap:
            options["python"] = ("-m", "fault_injection.steps", *trap)
        return self.meters("ingest", *arguments, "--json", **options)

    def router(self, *arguments: str, batch_seconds: int = 30) -> Process:
        """Start a router that writes its checkpoint so often."""
        changes = {"router_batch_seconds": batch_seconds}
        return self.meters("route", *arguments, settings=self.settings.model_copy(update=changes))

    def tolerate_end(self, line: str) -> None:
        """Running processes may end with a line in which this pattern is found; others are started then."""
        for process in self.processes:
            process.may_end_with = line

    # Conditions.

    def wait(self, condition: Callable[[], T], seconds: float, what: str) -> T:
        """Ask again and again until the answer is true.

        Raises:
            Broken: it does not come true in time.
        """
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > deadline:
                raise Broken(f"not within {seconds:.0f} s: {what}")
            time.sleep(POLL_SECONDS)
        return answer

    def wait_at_work(self, messages: int = 1) -> None:
        """Wait until ingest has committed so many messages."""

        def at_work() -> bool:
            self._require_alive()
            return sum((self.topics.committed(INGEST_GROUP) or {}).values()) >= messages

        self.wait(at_work, WORK_SECONDS, f"ingest has committed {messages} messages")

    def wait_caught_up(self) -> None:
        """Wait until ingest has committed everything that is on the topic now."""
        self.wait(self.is_caught_up, WORK_SECONDS, "ingest has caught up")

    def is_caught_up(self) -> bool:
        """Has the group committed up to the present end?"""
        now = self.topics.committed(INGEST_GROUP) or {}
        return all(now.get(partition, 0) >= end for partition, end in self.history.ends().items())

    def committed(self) -> dict[int, int]:
        """What the ingest group has committed, by partition."""
        found: list[dict[int, int]] = []

        def answered() -> bool:
            offsets = self.topics.committed(INGEST_GROUP)
            found.extend([offsets] if offsets is not None else [])
            return bool(found)

        self.wait(answered, WORK_SECONDS, "Kafka answers")
        return found[-1]

    def wait_routing(self, router: Process) -> None:
        """Wait until the router says that its queries run."""

        def runs() -> bool:
            if not router.is_alive:
                raise Broken(f"`{router.name}` ended, exit code {router.exit_code}: {router.last_line}")
            since = datetime.now(UTC) - timedelta(seconds=FRESH_SECONDS)
            beat = {"_id": "router", "pid": router.pid, "state": "running", "at": {"$gt": since}}
            return self.database["heartbeats"].find_one(beat) is not None

        self.wait(runs, ROUTER_START_SECONDS, "the router runs")

    def wait_checkpoint(self, router: Process) -> None:
        """Wait until the router's checkpoint has what it has read by now."""

        def batches() -> int:
            beat = self.database["heartbeats"].find_one({"_id": "router", "pid": router.pid})
            return beat["batches"] if beat else 0

        goal = batches() + 2  # the next one may have begun before
        self.wait(lambda: batches() >= goal, WORK_SECONDS, "the router has written its checkpoint")

    def wait_routed(self, more: int = 1) -> None:
        """Wait until so many further faults are routed."""
        goal = len(self.routed.look()) + more
        self.wait(lambda: len(self.routed.look()) >= goal, WORK_SECONDS, f"{more} more faults are routed")

    def _require_alive(self) -> None:
        for process in self.processes:
            if process.exit_code and not process.killed and not process.may_fail:
                raise Broken(f"`{process.name}` ended by itself, exit code {process.exit_code}: {process.last_line}")

    # What the outcome notes.

    def promise(self, holds: object, otherwise: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.outcome.wrong.append(otherwise)

    def fault_ends(self) -> None:
        """From now on the recovery is measured."""
        self.fault_ended = time.monotonic()
        self.before = self.topics.committed(INGEST_GROUP) or {}

    def recovered(self, progress_seconds: float, caught_up_seconds: float | None = None) -> None:
        """Note a recovery that the row has measured itself."""
        self.outcome.progress_seconds = round(progress_seconds, 2)
        self.outcome.caught_up_seconds = round(caught_up_seconds or progress_seconds, 2)

    def expect_gone(self, kept: dict[int, int]) -> int:
        """Kafka is about to lose what ingest has not committed before these offsets; how many messages that is."""
        return self.history.expect_gone(self.committed(), kept)

    def close_clients(self) -> None:
        """Close this process's own connections."""
        self.routed.close()
        self.topics.close()
        if self._client is not None:
            self._client.close()
            self._client = None

    def close(self, *, last: bool = False) -> None:
        """End whatever the row has started, and remove what it has made.

        Args:
            last: is no other row to find the services in order?
        """
        if last:
            for process in self.processes:
                process.kill()
            return
        for load in self.loads:
            load.stop()
        for process in self.processes:
            process.kill()
            if any("Traceback (most recent call last)" in line for line in process.lines):
                self.outcome.wrong.append(f"`{process.name}` showed a stack trace: {process.last_line}")
            self.outcome.lines += [f"{process.name}: {line}" for line in process.lines[-LINES_KEPT:]]
        if self._stack is not None:
            inject.revive(self._stack)
            if self._client is not None:
                self._client.drop_database(self.settings.mongo_database)
            # The names of topics and groups are fixed: the next row begins with none.
            self.topics.delete(*TOPICS)
            for group in (INGEST_GROUP, FAULTS_GROUP):
                self.topics.forget_group(group)
        self.close_clients()
