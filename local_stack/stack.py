"""The services as one whole: started in parallel, stopped in reverse order, each by name for tests of failure."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from types import TracebackType
from typing import Self

from local_stack.checks import preflight
from local_stack.kafka import Kafka
from local_stack.mongo import Mongo
from local_stack.service import Service
from local_stack.spark import Spark
from local_stack.state import Ownership, ServiceState, StackState
from metering.settings import Settings

SERVICES: dict[str, type[Service]] = {service.name: service for service in (Mongo, Kafka, Spark)}

Report = Callable[[str], None]


def wanted_services(settings: Settings) -> tuple[str, ...]:
    """The services that this installation runs itself: those whose address is not set to another's."""
    elsewhere = {
        "mongo": settings.mongo_uri,
        "kafka": settings.kafka_bootstrap,
        "spark": settings.spark_remote or settings.spark_master,
    }
    return tuple(name for name in SERVICES if not elsewhere[name])


class LocalStack:
    """MongoDB, Kafka and Spark for as long as a `with` block lasts.

    Args:
        settings: ports, folders and memory.
        services: names of those to run; default: all that the settings do not place elsewhere.
        arguments: further command line arguments by service, for tests that need a special server.
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
        names = wanted_services(settings) if services is None else services
        self.settings = settings
        self.services = {name: SERVICES[name](settings, (arguments or {}).get(name, ())) for name in names}
        self._supervised = supervised
        self._report = report
        self._ownership: Ownership | None = None
        self._writing = threading.Lock()

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
        self._ownership = Ownership(self.settings.home, supervised=self._supervised)
        try:
            preflight(self.settings, tuple(self.services))
            for name in self.services:
                self.note(name, "starting")
            with ThreadPoolExecutor(max_workers=max(1, len(self.services))) as pool:
                starts = [pool.submit(self.start_service, name) for name in self.services]
                try:
                    for start in as_completed(starts):
                        start.result()
                except BaseException:
                    # The other threads wait for services that are not wanted any more: ending these ends the waits.
                    for service in self.services.values():
                        service.abandon()
                    raise
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

    def start_service(self, name: str) -> None:
        """Start one service and wait until it is usable.

        Raises:
            MetersError: it dies or is not usable in time.
        """
        service = self.services[name]
        if not service.is_running:
            service.launch()
            self.note(name, "starting")
        service.wait_ready()
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

    def note(self, name: str, state: str, *, error: str = "", restarts: int | None = None) -> None:
        """Publish how a service is."""
        if self._ownership is None:
            return
        service = self.services[name]
        child = service.child
        with self._writing:
            entry = self.state.services.setdefault(name, ServiceState(state, service.address, str(service.log)))
            entry.state, entry.error, entry.version = state, error, service.version
            entry.pid, entry.create_time = (child.pid, child.create_time) if child else (None, 0.0)
            entry.restarts = entry.restarts if restarts is None else restarts
            self._ownership.write()

    def _set_phase(self, phase: str) -> None:
        with self._writing:
            self.state.phase = phase
            if self._ownership:
                self._ownership.write()
