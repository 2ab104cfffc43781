"""The demo as a newcomer runs it, small; and that its checks can fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient

from local_stack import LocalStack
from local_stack.state import live_state
from meter_assets_tests.support import meters, settings_for, wait_for
from meter_cli.demo_checks import daily_numbers
from meter_cli.demo_faults import routed_faults
from metering.settings import Settings
from metering.store import FAULTS, READINGS
from streaming.simulator.options import SimulationOptions, history_window
from streaming.simulator.sent_ledger import load_ledgers

pytestmark = pytest.mark.timeout(600)  # two demos


@pytest.fixture
def own(stack: LocalStack) -> Iterator[Settings]:
    """An installation of the demo's own: the router routes whatever is on the topic, other tests' readings too."""
    home = Path(tempfile.mkdtemp(prefix="meters-"))
    settings = settings_for(home, spark_port=stack.settings.spark_port)
    with LocalStack(settings, services=("mongo", "kafka")):
        yield settings
    shutil.rmtree(home, ignore_errors=True)


def test_the_demo_agrees_with_the_simulator_twice_and_notices_a_wrong_figure(own: Settings):
    first, second = (
        meters(own, "demo", "--once", "--json", "--days", "2", "--households", "3", timeout_seconds=250) for _ in "12"
    )
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    summary = json.loads(first.stdout)
    assert summary["ok"]
    assert summary["problems"] == []
    assert summary["ingest"]["messages"] == summary["ledger"]["messages"]
    assert summary["faults"]["injected"] == summary["faults"]["routed"] > 0
    assert json.loads(second.stdout)["ingest"]["stored"] == 0

    ledger = next(each for each in load_ledgers(own.home) if each.run_id == summary["ledger"]["run_id"])
    day = date.fromisoformat(min(ledger.days))
    with MongoClient(own.mongo, tz_aware=True) as client:
        published = client[own.mongo_database]
        assert list(daily_numbers(ledger, published)) == []
        published["daily_consumption"].update_one({"_id": f"{day}|device|em1|electricity"}, {"$inc": {"readings": 1}})
        assert len(list(daily_numbers(ledger, published))) == 1

        start, end = history_window(own, SimulationOptions(days=2))
        assert list(routed_faults(ledger, published, start, end)) == []
        fault = published[FAULTS].find_one_and_delete({})
        assert fault is not None
        assert "not routed" in next(routed_faults(ledger, published, start, end))
        published[FAULTS].insert_one({**fault, "_id": f"{fault['_id']}x"})
        assert len(list(routed_faults(ledger, published, start, end))) == 2


@contextmanager
def live_demo(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    """A `meters demo` that has checked its past days and is live; killed at the end of the block if it still runs."""
    command = [Path(sys.executable).with_name("meters"), "demo", "--days", "1", "--households", "2"]
    with subprocess.Popen(
        command, env={**os.environ, **settings.environment()}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                if line.startswith("Ctrl-C"):
                    break
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.slow
def test_a_live_demo_starts_a_killed_mongod_again(tmp_path: Path):
    """MongoDB stayed down, and the demo ended with an error."""
    settings = settings_for(tmp_path / "home")
    with live_demo(settings) as process, MongoClient(settings.mongo) as client:
        state = live_state(settings.home)
        assert state and (pid := state.services["mongo"].pid)
        psutil.Process(pid).kill()

        def is_back() -> bool:
            state = live_state(settings.home)
            return state is not None and (state.services["mongo"].restarts, state.services["mongo"].state) == (1, "up")

        wait_for(lambda: is_back() or process.poll() is not None, 120, "MongoDB is back")
        readings = client[settings.mongo_database][READINGS]
        before = readings.estimated_document_count()
        wait_for(lambda: readings.estimated_document_count() > before, 120, "ingest stores again")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130  # as the shell says of Ctrl-C
    assert live_state(settings.home) is None
