"""The router: faulty readings from iot-meter to the fault topics while they happen, with windows beside them.

Two queries in one Spark application of its own. The fault query runs in real-time mode: one message at a time, in
batches that last minutes and only serve to save its offsets. After a crash it repeats up to one batch of output, which
ingest recognises. The aggregates' query runs in micro-batches.
"""

import threading
from collections.abc import Callable
from contextlib import suppress

from pymongo.errors import PyMongoError

from metering.settings import Settings
from metering.store import ensure_collections
from runtime.database import connect
from runtime.mongo_errors import mongo_unavailable
from streaming.router.checkpoint import Place
from streaming.router.heartbeat import HeartbeatWriter
from streaming.router.old_windows import rename_old_windows
from streaming.router.progress import RouterProgress
from streaming.router.queries import new_aggregates
from streaming.router.restart_offsets import Report, RestartOffsets, both
from streaming.router.supervisor import Supervisor, no_report


class Router:
    """One router.

    Args:
        settings: where everything is.
        jars: Spark's connectors, comma-separated.
        aggregates: run the windows' query as well.
        run_id: the Dagster run that this belongs to, for the heartbeat.
        report: takes one line for each thing that a user must know.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        jars: str,
        aggregates: bool = True,
        run_id: str | None = None,
        report: Report = no_report,
    ) -> None:
        self._settings = settings
        self._jars = jars
        self._with_aggregates = aggregates
        self._run_id = run_id
        self._report = report
        self._stop = threading.Event()
        self.progress = RouterProgress()

    def stop(self) -> None:
        """Ask `run` to end the queries and return; for signal handlers and other threads."""
        self._stop.set()

    def run(self, on_progress: Callable[[RouterProgress], None] | None = None) -> RouterProgress:
        """Route until `stop`.

        Args:
            on_progress: called every few seconds once the queries run.

        Raises:
            MetersError: at the start: a service does not answer; later: a query cannot run in this installation.
            AlreadyRoutingError: another router holds the checkpoint.
        """
        settings = self._settings
        place = Place(settings.router_place)
        with place.locked():
            database = connect(settings)
            try:
                names = both(self._with_aggregates)
                restart_offsets = RestartOffsets(settings, place, database, queries=names, report=self._report)
                heartbeat = HeartbeatWriter(
                    database, checkpoint=settings.router_place, run_id=self._run_id, progress=self.progress
                )
                try:
                    ensure_collections(database)
                    rename_old_windows(database)
                    has_routed = heartbeat.last().get("checkpoint") == settings.router_place
                    bounds = restart_offsets.settle(has_routed=has_routed)
                    self.progress.lost = restart_offsets.lost()
                    heartbeat.send()
                except PyMongoError as error:
                    raise mongo_unavailable(settings, error) from None
                heartbeat.start()
                supervisor = Supervisor(
                    settings,
                    jars=self._jars,
                    place=place,
                    restart_offsets=restart_offsets,
                    names=names,
                    aggregates=new_aggregates(settings, database) if self._with_aggregates else None,
                    progress=self.progress,
                    stop=self._stop,
                    report=self._report,
                )
                try:
                    supervisor.run(len(bounds.first), on_progress)
                finally:
                    self.progress.state = "stopping"
                    heartbeat.end()
            finally:
                with suppress(PyMongoError):
                    database.client.close()
        return self.progress
