"""The services as one whole: started side by side, stopped in reverse order, each by name for tests of failure."""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Any, Self

from local_stack.doctor import preflight
from local_stack.kafka import Kafka
from local_stack.mongo import Mongo
from local_stack.service import Service
from local_stack.spark import Spark
from local_stack.spark_cluster import SparkMaster, SparkWorker
from local_stack.state import Ownership, ServiceState, StackState
from local_stack.topology import keep_topology
from metering.errors import MetersError
from metering.settings import Settings

SERVICES = ("mongo", "kafka", "spark")

Report = Callable[[str], None]


def wanted_services(settings: Settings) -> tuple[str, ...]:
    """The kinds of services that this installation runs itself: those whose address is not set to another's."""
    elsewhere = {
        "mongo": settings.mongo_uri,
        "kafka": settings.kafka_bootstrap,
        "spark": settings.spark_remote or settings.spark_master,
    }
    return tuple(name for name in SERVICES if not elsewhere[name])


def make_services(
    settings: Settings, kinds: Sequence[str], arguments: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Service]:
    """Every process of these kinds of services, by name; each after those that it needs.

    Args:
        settings: how many there are, their ports and folders.
        kinds: of SERVICES.
        arguments: further command line arguments by the processes' kind.
    """
    cluster = [(SparkMaster, 1), (SparkWorker, settings.spark_workers)] if settings.spark_workers else []
    counts: dict[str, list[tuple[type[Service], int]]] = {
        "mongo": [(Mongo, settings.mongo_members)],
        "kafka": [(Kafka, settings.kafka_brokers)],
        "spark": [*cluster, (Spark, 1)],
    }
    made = [
        service(settings, (arguments or {}).get(service.kind, ()), number=number)
        for kind in kinds
        for service, count in counts[kind]
        for number in range(1, count + 1)
    ]
    return {service.name: service for service in made}


class LocalStack:
    """MongoDB, Kafka and Spark for as long as a `with` block lasts; `services` has every process by its name.

    Args:
        settings: ports, folders and memory.
        services: kinds of those to run; default: all that the settings do not place elsewhere.
        arguments: further command line arguments by kind, for tests that need a special server.
        supervised: does a background supervisor own it? Only told to others.
        report: gets a line when a service is usable.
    """

    def __init__(
        self,
        settings: Settings,
        services: Sequence[str] | None = None,
        *,
        arguments: Mapping[str, Sequence[str]] | None = None,
        supervised: bool = False,
        report: Report = lambda line: None,
    ) -> None:
        self._kinds = wanted_services(settings) if services is None else tuple(services)
        self.settings = settings
        self.services = make_services(settings, self._kinds, arguments)
        self._supervised = supervised
        self._report = report
        self._ownership: Ownership | None = None
        self._writing = threading.Lock()
        self._is_published = True

    def __enter__(self) -> Self:
        """Start everything."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.stop()

    def start(self) -> None:
        """Start all services in parallel and wait until every one is usable.

        Raises:
            MetersError: one cannot start; the others are stopped again.
        """
        self._ownership = Ownership(self.settings, supervised=self._supervised)
        try:
            preflight(self.settings, self._kinds)
            keep_topology(self.settings, self._kinds)
            for name in self.services:
                self.note(name, "starting")
            self.start_services(self.services, together=True)
            self._set_phase("up")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all services, last started first; nothing happens to what is stopped already."""
        if self._ownership is None:
            return
        self._set_phase("stopping")
        for name in reversed(self.services):
            self.stop_service(name)
        self._ownership.release()
        self._ownership = None

    def start_services(self, names: Collection[str], *, together: bool = False, keep_waiting: bool = False) -> None:
        """Start these services side by side, each once those that it needs are usable.

        Args:
            names: of the services.
            together: are the others not wanted when one cannot start?
            keep_waiting: see start_service.

        Raises:
            MetersError: one dies or is not usable in time.
        """
        starts: dict[str, Future[None]] = {}

        def start(name: str, needed: list[Future[None]]) -> None:
            for other in needed:
                other.result()
            self.start_service(name, keep_waiting=keep_waiting)

        with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
            for name in (name for name in self.services if name in names):
                needed = [starts[other] for other in self.services[name].needs if other in starts]
                starts[name] = pool.submit(start, name, needed)
            try:
                for done in as_completed(starts.values()):
                    done.result()
            except BaseException:
                if together:  # ends the other threads' waits
                    for name in names:
                        self.services[name].abandon()
                raise

    def start_service(self, name: str, *, keep_waiting: bool = False) -> None:
        """Start one service and wait until it is usable.

        Args:
            name: of the service.
            keep_waiting: wait for as long as the process runs: a server may have much to look through after a crash.

        Raises:
            MetersError: it dies or is not usable in time.
        """
        service = self.services[name]
        if not service.is_running:
            service.launch()
            self.note(name, "starting")
        while True:
            try:
                service.wait_ready()
                break
            except MetersError as error:
                if not keep_waiting or service.is_abandoned or not service.is_running:
                    raise
                self.note(name, "starting", error=str(error))
        self.note(name, "up")
        self._report(f"{service.title} {service.version} is up on {service.address}")

    def stop_service(self, name: str) -> None:
        """Stop one service in its orderly way."""
        self.services[name].stop()
        self.note(name, "stopped")

    def kill(self, name: str) -> None:
        """End one service as a power cut would: SIGKILL to its whole group."""
        self.services[name].kill()
        self.note(name, "stopped")

    def restart(self, name: str) -> None:
        """Stop one service and start it again."""
        self.stop_service(name)
        self.start_service(name)

    @property
    def state(self) -> StackState:
        """What others read about this stack."""
        if self._ownership is None:
            raise RuntimeError("the stack is not started")
        return self._ownership.state

    def note(self, name: str, state: str, *, error: str | None = None, **changes: Any) -> None:
        """Publish how a service is.

        Args:
            name: of the service.
            state: see ServiceState.
            error: why it is so; None leaves what was known, until the service is up or stopped.
            changes: further fields of ServiceState.
        """
        if self._ownership is None:
            return
        service = self.services[name]
        child = service.child
        with self._writing:
            entry = self.state.services.setdefault(name, ServiceState(state, service.address, str(service.log)))
            entry.state, entry.version, entry.title = state, service.version, service.title
            if error is not None or state in ("up", "stopped"):
                entry.error = error or ""
            entry.pid, entry.create_time = (child.pid, child.create_time) if child else (None, 0.0)
            for field, value in changes.items():
                setattr(entry, field, value)
            self._is_published = self._ownership.write()

    def publish(self) -> None:
        """Write the state again, if the disk did not take it."""
        with self._writing:
            if self._ownership and not self._is_published:
                self._is_published = self._ownership.write()

    def take_signals(self) -> None:
        """Publish that SIGUSR1 makes the owner try failed services at once."""
        with self._writing:
            self.state.retries_on_signal = True
            if self._ownership:
                self._is_published = self._ownership.write()

    def _set_phase(self, phase: str) -> None:
        with self._writing:
            self.state.phase = phase
            if self._ownership:
                self._is_published = self._ownership.write()
