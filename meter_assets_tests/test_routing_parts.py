"""The parts of the supervision that need no router: processes, messages, runs, and a sensor without MongoDB."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster._core.test_utils import create_run_for_test

from meter_assets.routing import observed
from meter_assets.routing.decision import Decision, Run, decide
from meter_assets.routing.job import progress_line
from meter_assets.routing.messages import MessageFile
from meter_assets.routing.observed import read_runs
from meter_assets.routing.process import find_router, kill_router
from meter_assets.routing.sensor import AWAY, carry_out, fault_routing_sensor
from meter_assets_tests.support import wait_for
from metering.settings import load_settings

SLEEP = "import time; time.sleep(600)"


@contextmanager
def sleeper(argument: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is seen under its command line, which an exec shows only a moment after Popen returns."""
    with subprocess.Popen([sys.executable, "-c", SLEEP, argument], start_new_session=True) as process:
        try:
            wait_for(lambda: psutil.Process(process.pid).cmdline()[-1:] == [argument], 10, "the command line is seen")
            yield process
        finally:
            process.kill()


def test_a_bound_child_ends_with_its_parent_however_that_ends():
    code = (
        "import signal, subprocess, sys; from runtime.child_process import bound_command\n"
        f"child = subprocess.Popen(bound_command([sys.executable, '-c', {SLEEP!r}], signal.SIGTERM))\n"
        "print(child.pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = psutil.Process(int(parent.stdout.readline()))
        wait_for(lambda: child.cmdline()[1:2] == ["-c"], 10, "the launcher has become the command")
        parent.kill()
    assert psutil.wait_procs([child], timeout=10)[1] == []


def test_a_router_is_found_by_its_heartbeat_and_killed_though_it_is_stopped():
    with sleeper("route") as process:
        begun = datetime.fromtimestamp(psutil.Process(process.pid).create_time(), UTC)
        process.send_signal(signal.SIGSTOP)
        found = find_router(socket.gethostname(), process.pid, begun + timedelta(seconds=3))
        assert found is not None
        kill_router(found)
        assert not psutil.pid_exists(process.pid)
        assert find_router(socket.gethostname(), process.pid, begun) is None


def test_another_process_with_the_router_s_pid_is_not_the_router():
    with sleeper("route") as younger, sleeper("other") as other:
        now = datetime.now(UTC)
        assert find_router(socket.gethostname(), younger.pid, now - timedelta(seconds=60)) is None
        assert find_router(socket.gethostname(), other.pid, now) is None
        assert find_router("another-machine", younger.pid, now) is None


class Handler:
    """Takes what a Dagster message handler would."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def handle_message(self, message: Any) -> None:
        """Keep it."""
        self.messages.append(message)


def test_messages_are_read_while_the_child_writes_them_and_broken_lines_are_left_out():
    reader, handler = MessageFile(), Handler()
    custom = {"method": "report_custom_message", "params": {"payload": {"progress": {"rows_in": 1}}}}
    log = {"method": "log", "params": {"message": "hello", "level": "INFO"}}
    with reader.read_messages(handler) as params:  # pyright: ignore[reportArgumentType]
        path = Path(params["path"])
        assert reader.poll() == []
        line = json.dumps(custom) + "\n"
        with path.open("a") as file:
            file.write(json.dumps(log) + "\n" + line + line[:10])
            file.flush()
            assert reader.poll() == [{"progress": {"rows_in": 1}}]
            file.write(line[10:] + '{"method": "repo\n' + line)
        assert reader.poll() == [{"progress": {"rows_in": 1}}] * 2
        assert handler.messages == [log]
    assert not path.exists()
    assert reader.poll() == []


def test_a_report_is_one_line_whether_or_not_all_is_known():
    report = {"rows_in": 12000, "faults_out": 34, "rows_per_second": 512.34, "lag": None}
    assert progress_line(report) == "12,000 readings in (512.3/s), 34 faults out, lag unknown"
    known = {**report, "lag": 1500, "latency_p50_ms": 40.2, "latency_p99_ms": 180.0, "latency_max_ms": 1900.0}
    assert progress_line(known).endswith("lag 1,500, latency p50 40 ms, p99 180 ms, max 1,900 ms")


@dg.op
def fails(context: dg.OpExecutionContext) -> None:
    """As the op does when the router fails."""
    raise dg.Failure("Kafka does not answer at kafka:9092. Start it", metadata={"exit_code": 75})


@dg.op
def raises(context: dg.OpExecutionContext) -> None:
    """As no op should."""
    raise ValueError("first line\nsecond line")


@pytest.mark.parametrize(
    ("op", "reason", "code"),
    [(fails, "Kafka does not answer at kafka:9092. Start it", 75), (raises, "ValueError: first line", None)],
)
def test_the_reason_of_a_failed_run_is_read_from_its_events(op, reason, code):
    job = dg.JobDefinition(name="fault_routing_job", graph_def=dg.GraphDefinition(name="g", node_defs=[op]))
    with dg.instance_for_test() as instance:
        job.execute_in_process(instance=instance, raise_on_error=False)
        (run,) = read_runs(instance)
    assert (run.status, run.reason, run.exit_code) == ("FAILURE", reason, code)
    assert run.ended_at is not None
    assert abs((datetime.now(UTC) - run.ended_at).total_seconds()) < 60
    assert abs((run.created_at - run.ended_at).total_seconds()) < 60


def test_a_run_that_nobody_can_stop_is_marked_failed_and_its_reason_comes_back():
    with dg.instance_for_test() as instance:
        stuck = create_run_for_test(instance, "fault_routing_job", status=dg.DagsterRunStatus.STARTED)
        (run,) = read_runs(instance)
        assert run.status == "STARTED"
        carry_out(instance, Decision("", give_up=((stuck.run_id, "its router is stuck"),)), None)
        (run,) = read_runs(instance)
        assert (run.status, run.reason) == ("FAILURE", "Its router is stuck")


def test_a_run_whose_process_was_killed_says_so():
    with dg.instance_for_test() as instance:
        killed = create_run_for_test(instance, "fault_routing_job", status=dg.DagsterRunStatus.STARTED)
        instance.report_run_failed(killed)  # as Dagster's code server does
        (run,) = read_runs(instance)
        assert run.reason == "the process of the run was killed"
        decision = decide([run], None, datetime.now(UTC))
    assert decision.start


def test_without_mongodb_the_tick_says_so_in_one_line(settings, monkeypatch):
    monkeypatch.setitem(os.environ, "METERS_MONGO_URI", "mongodb://127.0.0.1:1/?replicaSet=meters")
    load_settings.cache_clear()
    observed._database.cache_clear()
    try:
        with dg.instance_for_test() as instance, dg.build_sensor_context(instance=instance) as context:
            result = fault_routing_sensor(context)
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()
    assert isinstance(result, dg.SensorResult)
    assert result.cursor == AWAY
    assert not result.run_requests
    assert isinstance(result.skip_reason, dg.SkipReason)
    assert result.skip_reason.skip_message == (
        "MongoDB does not answer at 127.0.0.1:1. Start the local stack with `meters up` or set METERS_MONGO_URI"
    )


def test_an_active_run_hides_ended_ones_and_times_are_in_utc():
    with dg.instance_for_test() as instance:
        create_run_for_test(instance, "fault_routing_job", status=dg.DagsterRunStatus.CANCELED)
        create_run_for_test(instance, "another_job", status=dg.DagsterRunStatus.STARTED)
        assert [run.status for run in read_runs(instance)] == ["CANCELED"]
        create_run_for_test(instance, "fault_routing_job", status=dg.DagsterRunStatus.STARTING)
        (starting,) = read_runs(instance)
    assert isinstance(starting, Run)
    assert starting.status == "STARTING"
    assert abs((datetime.now(UTC) - starting.created_at).total_seconds()) < 60
