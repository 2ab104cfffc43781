"""The job whose run is the router: starts it, tells Dagster how it goes, and stops it in good order."""

import multiprocessing
import time
from typing import Any

import dagster as dg

from meter_assets.routing.decision import DRAIN_SECONDS
from meter_assets.routing.messages import MessageFile
from meter_assets.routing.process import RouterProcess
from meter_assets.sources import iot_abnormal_topic, iot_meter_topic
from metering.settings import load_settings

POLL_SECONDS = 0.5
TELL_SECONDS = 30
"""How often progress becomes events: a run of a week stays below 50,000 of them."""

READ_FIGURES = ("rows_in", "rows_per_second", "lag", "late_rows", "lost", "restarts")
ROUTED_FIGURES = ("faults_out", "latency_p50_ms", "latency_p99_ms", "latency_max_ms")


class ProgressReports:
    """Turns the router's reports into log lines and asset observations, not more often than every 30 s.

    Args:
        context: of the op.
    """

    def __init__(self, context: dg.OpExecutionContext) -> None:
        self._context = context
        self._told = float("-inf")
        self._latest: dict[str, Any] | None = None

    def take(self, messages: list[Any]) -> None:
        """Remember the last report among these, and tell it when it is time."""
        for message in messages:
            if isinstance(message, dict) and isinstance(message.get("progress"), dict):
                self._latest = message["progress"]
        if time.monotonic() - self._told >= TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Tell the last report, unless it is told."""
        progress, self._latest = self._latest, None
        if progress is None:
            return
        self._told = time.monotonic()
        self._context.log.info(progress_line(progress))
        for key, names in ((iot_meter_topic.key, READ_FIGURES), (iot_abnormal_topic.key, ROUTED_FIGURES)):
            figures = {name: progress[name] for name in names if progress.get(name) is not None}
            self._context.log_event(dg.AssetObservation(key, metadata=figures))
        # They are in the event log by now. The context keeps them for the op's end, which is weeks away.
        for _ in self._context.consume_events():
            pass


def progress_line(progress: dict[str, Any]) -> str:
    """A report in one line, for people."""
    lag = progress.get("lag")
    p50, p99, slowest = (progress.get(f"latency_{which}_ms") for which in ("p50", "p99", "max"))
    line = (
        f"{progress.get('rows_in', 0):,} readings in ({progress.get('rows_per_second', 0.0):,.1f}/s), "
        f"{progress.get('faults_out', 0):,} faults out, lag {'unknown' if lag is None else f'{lag:,}'}"
    )
    if p50 is None or p99 is None or slowest is None:
        return line
    return f"{line}, latency p50 {p50:,.0f} ms, p99 {p99:,.0f} ms, max {slowest:,.0f} ms"


@dg.op(
    description="Runs `meters route` until the run is terminated. Its figures are observations of the topics' assets.",
    config_schema={},  # left out, Dagster takes any configuration
)
def route_faults(context: dg.OpExecutionContext) -> None:
    """The router's whole life.

    Raises:
        Failure: the router failed, or the Dagster server that started this run is gone; the description says why.
    """
    messages, progress = MessageFile(), ProgressReports(context)
    with dg.open_pipes_session(
        context=context, context_injector=dg.PipesTempFileContextInjector(), message_reader=messages
    ) as session:
        router = RouterProcess(load_settings(), session.get_bootstrap_env_vars())
        lost_server = False
        try:
            context.log.info(f"The router is pid {router.pid}; it needs up to half a minute to start")
            while router.wait(POLL_SECONDS) is None:
                progress.take(messages.poll())
                if _server_is_gone():
                    lost_server = True
                    _stop(context, router, messages, progress)
        except dg.DagsterExecutionInterruptedError:
            _stop(context, router, messages, progress)
            if _is_given_up(context):
                raise dg.Failure("The sensor gave this run up", allow_retries=False) from None
            raise
        finally:
            router.kill()
            progress.take(messages.poll())
            progress.tell()
    if lost_server:
        raise dg.Failure("The Dagster server that started this run is gone", allow_retries=False)
    if reason := router.failure():
        raise dg.Failure(reason, metadata={"exit_code": router.exit_code or 0}, allow_retries=False)
    context.log.info("The router has ended in good order, without being asked by Dagster")


def _stop(
    context: dg.OpExecutionContext, router: RouterProcess, messages: MessageFile, progress: ProgressReports
) -> None:
    """Let the router drain; kill it when that takes too long."""
    context.log.info(f"Stopping the router; it may drain for {DRAIN_SECONDS} s")
    router.ask_to_end()
    deadline = time.monotonic() + DRAIN_SECONDS
    while router.wait(POLL_SECONDS) is None and time.monotonic() < deadline:
        progress.take(messages.poll())
    if router.exit_code is None:
        context.log.warning(f"The router did not end within {DRAIN_SECONDS} s and is killed")
        router.kill()
    elif router.exit_code == 0:
        context.log.info("The router has drained and ended")


def _server_is_gone() -> bool:
    """Has the code server ended? Then nobody can stop this run any more, neither in the UI nor the sensor."""
    server = multiprocessing.parent_process()
    return server is not None and not server.is_alive()


def _is_given_up(context: dg.OpExecutionContext) -> bool:
    run = context.instance.get_run_by_id(context.run_id)
    return run is not None and run.status == dg.DagsterRunStatus.FAILURE


@dg.job(
    name="fault_routing_job",
    description=(
        "Routes faulty readings from `iot-meter` to `iot-abnormal` as they come, until its run is terminated, which "
        "lets the router finish what it has begun. `fault_routing_sensor` keeps one run alive: turn that off first."
    ),
    # Before any daily run in the queue; and the sensor alone starts it again, because it knows when not to.
    tags={"dagster/priority": "10", "dagster/max_retries": "0"},
)
def fault_routing_job() -> None:
    """One op, which never ends by itself."""
    route_faults()
