"""What a row works with: its installation, its processes and loads, and the account of them at the end."""

import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import date
from typing import Any, TypeVar

from pymongo import MongoClient

from faults import inject
from faults.account import account, in_short, lost_places, source_of
from faults.figures import wrong_figures
from faults.load import Load, load_days
from faults.oracle import Place
from faults.processes import Process
from faults.row import Broken, Outcome, Row, Skip, State
from faults.topics import FAULTS_GROUP, INGEST_GROUP, TOPICS, Message, Topics
from local_stack import LocalStack
from metering.settings import DEAD_LETTERS_TOPIC, READINGS_TOPIC, Settings

T = TypeVar("T")

POLL_SECONDS = 0.1
WORK_SECONDS = 60
"""How long a row waits for the ordinary: a start, the first messages."""

RECOVER_SECONDS = 120
"""How long a recovery may take before it counts as none."""

LOAD_GOES_ON_SECONDS = 1.0
SETTLED_SECONDS = 90
STOP_SECONDS = 60


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
        self.seed = seed
        self.report = report
        self.outcome = Outcome(row)
        self.topics = Topics(settings.kafka)
        self._stack = stack
        self._client: MongoClient | None = None
        self._processes: list[Process] = []
        self._loads: list[Load] = []
        self._kept: dict[Place, Message] = {}
        self._eras: dict[str, int] = {}
        self._era = 0
        self._fault_ended = 0.0
        self._before: dict[int, int] = {}
        self._readable_from: dict[int, int] = {}
        self._lost: set[Place] = set()
        self._put_aside: set[tuple[int, int]] = set()

    # What rows use.

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

    def load(self, **options: Any) -> Load:
        """Begin to send; see load.Load."""
        load = Load(self.settings, **{"seed": self.seed, **options})
        self._loads.append(load)
        load.start()
        return load

    def meters(self, *arguments: str, **options: Any) -> Process:
        """Start a `meters` command; see processes.Process."""
        settings = options.pop("settings", self.settings)
        process = Process(settings, arguments, folder=self.folder, **options)
        self._processes.append(process)
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
            options["python"] = ("-m", "faults.steps", *trap)
        return self.meters("ingest", *arguments, "--json", **options)

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

    def committed(self) -> int:
        """How many messages the ingest group has committed."""
        found = self.wait(lambda: self.topics.committed(INGEST_GROUP) is not None, WORK_SECONDS, "Kafka answers")
        return sum((self.topics.committed(INGEST_GROUP) or {}).values()) if found else 0

    def promise(self, holds: object, otherwise: str) -> None:
        """Note what is wrong unless it holds."""
        if not holds:
            self.outcome.wrong.append(otherwise)

    def fault_ends(self) -> None:
        """From now on the recovery is measured."""
        self._fault_ended = time.monotonic()
        self._before = self.topics.committed(INGEST_GROUP) or {}

    def recovered(self, progress_seconds: float, caught_up_seconds: float | None = None) -> None:
        """Note a recovery that the row has measured itself."""
        self.outcome.progress_seconds = round(progress_seconds, 2)
        self.outcome.caught_up_seconds = round(caught_up_seconds or progress_seconds, 2)

    def keep_messages(self) -> None:
        """Remember what stands on iot-meter: Kafka is about to lose it."""
        self._note_era()
        for message in self.topics.read(READINGS_TOPIC, era=self._era, begin=self._readable_from):
            self._kept[message.era, message.partition, message.offset] = message

    def send_unreadable(self, send: Callable[[], object], *, from_offsets: dict[int, int] | None = None) -> None:
        """Have something sent, or done to the topic, that the suite itself must not read.

        Args:
            send: does it.
            from_offsets: where the unreadable begins by partition; default: the topic's present end.
        """
        self.keep_messages()
        begin = {tp.partition: at for tp, at in self.topics.ends(READINGS_TOPIC).items()} | (from_offsets or {})
        send()
        self._readable_from = {tp.partition: at for tp, at in self.topics.ends(READINGS_TOPIC).items()}
        places = [(number, at) for number, end in self._readable_from.items() for at in range(begin[number], end)]
        for number, at in places:
            self._kept.pop((self._era, number, at), None)
        self._put_aside.update(places)

    def expect_lost(self, offsets: dict[int, int]) -> int:
        """Kafka is about to lose what the group has not committed before these offsets; how many messages that is."""
        committed = self.topics.committed(INGEST_GROUP) or {}
        lost = {
            (era, partition, at)
            for era, partition, at in self._kept
            if era == self._era and committed.get(partition, 0) <= at < offsets[partition]
        }
        self._lost |= lost
        return len(lost)

    def wait_caught_up(self) -> None:
        """Wait until ingest has committed everything that is on the topic now."""
        self.wait(self.is_caught_up, WORK_SECONDS, "ingest has caught up")

    def is_caught_up(self) -> bool:
        """Has the group committed up to the present end?"""
        now = self.topics.committed(INGEST_GROUP) or {}
        return all(now.get(tp.partition, 0) >= end for tp, end in self.topics.ends(READINGS_TOPIC).items())

    def make_topic_again(self, partitions: int = 4) -> None:
        """Delete iot-meter, and make it again."""
        self.keep_messages()
        self.topics.delete(READINGS_TOPIC)
        self.topics.make(READINGS_TOPIC, partitions)
        self._era += 1
        self._note_era()

    def next_day(self) -> date:
        """A day behind those of the loads so far: a second load's readings are not the first one's again."""
        return load_days(len(self._loads))

    def topic_configs(self, topic: str, *names: str) -> dict[str, str]:
        """A topic's present configuration; dots are written as underscores."""
        found = self.topics.configuration(topic)
        return {name: found[name.replace("_", ".")] for name in names}

    def tolerate_end(self, line: str) -> None:
        """Running ingests may end with a line in which this pattern is found; another one starts then."""
        for process in self._processes:
            process.may_end_with = line

    def stop_loads(self) -> None:
        """Stop sending; everything sent is acknowledged then."""
        for load in self._loads:
            ledger = load.stop()
            if load.failure:
                self.outcome.lines.append(f"simulate: {load.failure}")
            elif not ledger.complete:
                self.outcome.wrong.append("the load did not come to its end")

    # The end of a row.

    def settle(self) -> None:
        """Let the load go on for a moment, stop it, and wait until ingest has committed everything."""
        if not self._fault_ended:
            self.fault_ends()
        goes_on_until = time.monotonic() + LOAD_GOES_ON_SECONDS
        deadline = self._fault_ended + RECOVER_SECONDS
        goal: dict[int, int] = {}
        while True:
            now = self.topics.committed(INGEST_GROUP)
            if now is not None and self.outcome.progress_seconds is None and self._is_progress(now):
                self.outcome.progress_seconds = round(time.monotonic() - self._fault_ended, 2)
            if not goal and time.monotonic() >= goes_on_until:
                self.stop_loads()
                self.keep_messages()
                goal = self._goal()
            if goal and now is not None and all(now.get(partition, 0) > at for partition, at in goal.items()):
                self.outcome.caught_up_seconds = round(time.monotonic() - self._fault_ended, 2)
                break
            if time.monotonic() > deadline:
                left = sum(max(0, at + 1 - (now or {}).get(partition, 0)) for partition, at in goal.items())
                self.outcome.wrong.append(f"{left:,} messages still wait {RECOVER_SECONDS} s after the fault")
                break
            self._keep_ingest_running()
            time.sleep(POLL_SECONDS)
        self._stop_processes()

    def _is_progress(self, now: dict[int, int]) -> bool:
        return any(at > self._before.get(partition, 0) for partition, at in now.items())

    def _goal(self) -> dict[int, int]:
        """The last message of each partition of today's topic."""
        goal: dict[int, int] = {}
        for era, partition, offset in self._kept:
            if era == self._era:
                goal[partition] = max(goal.get(partition, -1), offset)
        return goal

    def _keep_ingest_running(self) -> None:
        """Note an ingest that has ended by itself, and start another one, so that the account can be closed."""
        self._note_ended()
        if not any(process.is_alive and process.name.startswith("meters ingest") for process in self._processes):
            self.ingest()

    def _note_ended(self) -> None:
        for process in self._processes:
            code = process.exit_code
            if code and not process.killed and not process.may_fail:
                process.may_fail = True
                if process.may_end_with and re.search(process.may_end_with, process.last_line):
                    continue
                self.outcome.wrong.append(f"`{process.name}` ended by itself, exit code {code}: {process.last_line}")

    def _require_alive(self) -> None:
        ended = [process for process in self._processes if process.exit_code and not process.killed]
        for process in ended:
            if not process.may_fail:
                raise Broken(f"`{process.name}` ended by itself, exit code {process.exit_code}: {process.last_line}")

    def _stop_processes(self) -> None:
        self._note_ended()
        for process in self._processes:
            if process.is_alive:
                code = process.stop(STOP_SECONDS)
                self.promise(code == 0, f"`{process.name}` ended with exit code {code} on SIGTERM: {process.last_line}")

    def check(self) -> None:
        """Hold everything against the independent account, and note what is wrong."""
        outcome = self.outcome
        has_letters = bool(self.topics.partitions(DEAD_LETTERS_TOPIC))
        if has_letters:
            self.wait(
                lambda: self.topics.settled(DEAD_LETTERS_TOPIC), SETTLED_SECONDS, "dead-letter transactions are ended"
            )
        lost = lost_places(self.database, self._eras, "ingest")
        letters = self.topics.read(DEAD_LETTERS_TOPIC) if has_letters else []
        aside = {source_of(letter) for letter in letters} | {(partition, at) for _, partition, at in lost}
        unrecorded = self._put_aside - aside
        self.promise(not unrecorded, f"{len(unrecorded):,} unreadable messages are put aside and recorded nowhere")
        letters = [letter for letter in letters if source_of(letter) not in self._put_aside]
        found = account(self.database, list(self._kept.values()), letters, lost)
        outcome.produced, outcome.stored, outcome.duplicates = found.produced, found.stored, found.duplicates
        outcome.dead_letters, outcome.lost, outcome.put_aside = found.dead_letters, found.lost, len(self._put_aside)
        outcome.missing, outcome.doubled = len(found.missing), len(found.doubled)
        for problems in (found.missing, found.doubled, found.wrong):
            outcome.wrong += in_short(problems)
        foreign = {place for place in lost if place in self._kept} - self._lost
        self.promise(not foreign, f"{len(foreign):,} messages are recorded as lost, and could be read")
        self._check_ledgers()

    def check_figures(self, *days: date) -> None:
        """Hold the published figures of days against sums over the topic's messages."""
        self.keep_messages()
        compared, wrong = wrong_figures(self.database, list(self._kept.values()), days)
        self.outcome.figures = (self.outcome.figures or 0) + compared
        self.outcome.wrong_figures += len(wrong)
        self.outcome.wrong += in_short(wrong)

    def _check_ledgers(self) -> None:
        """The ledger, where it is complete, agrees with the topic: the load itself lost nothing."""
        ledgers = [load.ledger for load in self._loads]
        if ledgers and all(ledger.complete for ledger in ledgers):
            sent = sum(ledger.messages for ledger in ledgers)
            extra = len(self._kept) - sent
            self.promise(extra >= 0, f"{-extra:,} messages that Kafka acknowledged are not on iot-meter")

    def _note_era(self) -> None:
        self._eras.setdefault(self.topics.topic_id(READINGS_TOPIC), self._era)

    def close(self) -> None:
        """End whatever the row has started, and remove what it has made."""
        for load in self._loads:
            load.stop()
        for process in self._processes:
            process.kill()
            said = [f"{process.name}: {line}" for line in process.lines]
            if any("Traceback (most recent call last)" in line for line in process.lines):
                self.outcome.wrong.append(f"`{process.name}` showed a stack trace: {process.last_line}")
            self.outcome.lines += said[-3:]
        if self._stack is not None:
            inject.revive(self._stack)
        if self._client is not None:
            self._client.drop_database(self.settings.mongo_database)
            self._client.close()
        if self._stack is not None:
            self.clean_kafka()
        self.topics.close()
        if not self.outcome.wrong and not os.environ.get("METERS_FAULTS_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def clean_kafka(self) -> None:
        """Remove the platform's topics and groups: their names are fixed, and the next row begins with none."""
        self.topics.delete(*TOPICS)
        for group in (INGEST_GROUP, FAULTS_GROUP):
            self.topics.forget_group(group)


def run_row(case: Case) -> Outcome:
    """Break, recover, check; the outcome says how it went, also when the row itself came to no end."""
    started = time.monotonic()
    outcome = case.outcome
    try:
        case.row.run(case)
    except Skip as skip:
        outcome.state, outcome.reason = State.SKIPPED, str(skip)
    except Broken as broken:
        outcome.wrong.append(str(broken))
    finally:
        case.close()
    outcome.seconds = round(time.monotonic() - started, 1)
    if outcome.wrong:
        outcome.state = State.BROKEN
    return outcome
