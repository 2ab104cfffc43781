"""The supervisor never leaves a person alone: what fails is reported, tried for ever, and started by `meters up`."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from dagster import DagsterInstance
from pydantic import SecretStr
from pymongo import MongoClient

from local_stack.state import live_state
from local_stack.supervisor import LONGEST_PAUSE_SECONDS, MAX_QUICK_RESTARTS, pause_seconds
from meter_assets_tests.alert_support import SECRET, receiving
from meter_assets_tests.support import meters, settings_for, wait_for
from meter_assets_tests.test_alert_sensor import Daemon, use
from metering.settings import Settings, load_settings
from metering.store import ALERTS

pytestmark = pytest.mark.slow

ONLY_MONGO = {"kafka_bootstrap": "127.0.0.1:1", "spark_remote": "sc://127.0.0.1:1"}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Settings]:
    """An installation of the test's own, whose MongoDB is up."""
    settings = settings_for(tmp_path / "home", **ONLY_MONGO)
    answer = meters(settings, "up")
    assert answer.returncode == 0, answer.stderr
    yield settings
    meters(settings, "down")


def mongo_state(settings: Settings) -> str:
    state = live_state(settings.home)
    return state.services["mongo"].state if state else ""


def crash(settings: Settings) -> None:
    state = live_state(settings.home)
    assert state and (pid := state.services["mongo"].pid)
    psutil.Process(pid).kill()


@pytest.fixture
def broken(running: Settings) -> Callable[[], None]:
    """MongoDB's data folder is a file, so that mongod cannot start; call it to repair that."""
    data = running.home / "mongo" / "data"
    kept = data.with_name("kept")
    crash(running)
    data.rename(kept)
    data.write_text("")

    def repair() -> None:
        data.unlink()
        kept.rename(data)

    return repair


@pytest.mark.timeout(600)
def test_a_failed_service_is_reported_everywhere_and_started_again(
    running: Settings, broken: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After six crashes nothing but down and up helped, and nothing said so."""
    wait_for(lambda: mongo_state(running) == "failed", 120, "MongoDB counts as failed")

    status = meters(running, "status")
    assert status.returncode == 1
    assert "The local stack's MongoDB fails: MongoDB cannot be started" in status.stderr
    assert "Start them: meters up" not in status.stderr
    doctor = meters(running, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(doctor.stdout)["checks"]}
    assert (doctor.returncode, checks["services"]["ok"]) == (1, False)
    assert "MongoDB fails" in checks["services"]["detail"]
    late = meters(running, "late")
    assert late.returncode == 1
    assert "MongoDB does not answer" in late.stderr and "File exists" in late.stderr and "mongo.log" in late.stderr
    up = meters(running, "up")
    assert up.returncode == 1
    assert "MongoDB cannot be started" in up.stderr.splitlines()[-1]
    assert "up already" not in up.stderr

    with receiving() as (url, receiver), DagsterInstance.ephemeral() as instance:
        changes = {"alert_channels": "webhook", "webhook_url": SecretStr(url), "webhook_secret": SecretStr(SECRET)}
        use(running.model_copy(update=changes), monkeypatch)
        daemon = Daemon(instance)
        assert "MongoDB does not answer" in daemon.tick()
        daemon.tick()
        assert [alert.split("|")[:2] for alert in receiver.ids] == [["service_failed", "mongo"]]
        broken()
        wait_for(lambda: mongo_state(running) == "up", LONGEST_PAUSE_SECONDS, "MongoDB starts by itself")
        daemon.tick()
        assert len(receiver.ids) == 1  # it is stored as sent, and not sent again
        with MongoClient(running.mongo, tz_aware=True) as client:
            [alert] = client[running.mongo_database][ALERTS].find({"kind": "service_failed"})
        assert (alert["_id"], alert["channels"]["webhook"]["state"]) == (receiver.ids[0], "sent")
    monkeypatch.undo()
    load_settings.cache_clear()

    # It has not been up for long: one more crash, and it waits for a minute or more. `meters up` does not.
    crash(running)
    wait_for(lambda: mongo_state(running) == "failed", 30, "MongoDB counts as failed again")
    up = meters(running, "up")
    assert up.returncode == 0, up.stderr
    assert mongo_state(running) == "up"
    assert meters(running, "up").stderr.startswith("The local stack is up already")


def test_a_service_that_hangs_is_no_service_that_is_up(running: Settings) -> None:
    """The kernel takes connections for a stopped process, too."""
    state = live_state(running.home)
    assert state and (pid := state.services["mongo"].pid)
    psutil.Process(pid).send_signal(signal.SIGSTOP)
    try:
        status = meters(running, "status", "--json")
        assert json.loads(status.stdout)["services"]["mongo"]["state"] == "unreachable"
        up = meters(running, "up")
        assert (up.returncode, "does not answer" in up.stderr) == (1, True)
    finally:
        psutil.Process(pid).send_signal(signal.SIGCONT)


def test_pauses_grow_and_never_end() -> None:
    pauses = [pause_seconds(crashes) for crashes in range(1, 10_000)]
    assert pauses[:6] == [0.5, 1, 2, 4, 8, 16]
    assert pauses == sorted(pauses)
    assert max(pauses) == pauses[MAX_QUICK_RESTARTS + 5] == LONGEST_PAUSE_SECONDS
