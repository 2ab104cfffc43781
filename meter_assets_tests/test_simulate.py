"""The simulator: what it makes up is plausible and repeatable, what its ledger says is what Kafka received."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from meter_assets_tests.support import read_topic
from metering.reading import parse_reading
from metering.registry import METERS, Meter
from metering.settings import READINGS_TOPIC, Settings
from runtime.database import connect
from streaming.kafka.clients import ensure_topics
from streaming.simulator.city import make_city
from streaming.simulator.options import SimulationOptions
from streaming.simulator.sent_ledger import Ledger, load_ledger, load_ledgers, merge_ledgers
from streaming.simulator.simulate import simulate_history, simulate_live

START = datetime(2024, 5, 1, tzinfo=UTC)
EVERYTHING = SimulationOptions(
    seed=7,
    interval_seconds=1800,
    days=3,
    until=date(2024, 5, 4),
    fault_rate=0.05,
    late_rate=0.03,
    out_of_order_rate=0.03,
    duplicate_rate=0.03,
    conflict_rate=0.03,
    garbage_rate=0.03,
)
Message = tuple[bytes, bytes]


def city(households: int) -> list[Meter]:
    return make_city(households=households, seed=1, interval_seconds=1800, installed_at=START)


@pytest.fixture
def topic() -> str:
    return f"simulate-{uuid.uuid4().hex[:12]}"


def received(settings: Settings, topic: str) -> list[Message]:
    """Everything on the topic now, each partition in its order."""
    return [(record.key, record.value) for record in read_topic(settings, topic)]


def recount(messages: list[Message], zone: ZoneInfo) -> dict[str, Any]:
    """A ledger's figures out of the raw bytes alone, without any code of the simulator."""
    counts: Counter[str] = Counter(messages=len(messages))
    first: dict[str, bytes] = {}
    newest: dict[str, datetime] = {}
    behind = 0
    for key, value in messages:
        try:
            reading = parse_reading(value)
        except ValidationError:
            counts["garbage"] += 1
            continue
        assert reading.device_id.encode() == key
        if reading.id not in first:
            first[reading.id] = value
            behind += reading.timestamp < newest.get(reading.device_id, reading.timestamp)
            newest[reading.device_id] = max(reading.timestamp, newest.get(reading.device_id, reading.timestamp))
        else:
            counts["duplicates" if first[reading.id] == value else "conflicts"] += 1
    counts["readings"] = len(first)
    by_device: dict[tuple[str, str, str], list[tuple[datetime, bool, int]]] = defaultdict(list)
    faults = set()
    for identity, value in first.items():
        fields = json.loads(value)
        kind = "electricity" if "usage_kwh" in fields else "water"
        faulty = -1 in (fields.get("usage_kwh"), fields.get("flow_rate"))
        instant = datetime.fromisoformat(fields["timestamp"])
        day = instant.astimezone(zone).date().isoformat()
        usage = round(fields["usage_kwh" if kind == "electricity" else "usage"] * 1000)
        by_device[day, kind, fields["device_id"]].append((instant, faulty, usage))
        if faulty:
            faults.add(identity)
    days: dict[str, Any] = {}
    for (day, kind, device), readings in by_device.items():
        runs = [len(list(run)) for faulty, run in groupby(faulty for _, faulty, _ in sorted(readings)) if faulty]
        days.setdefault(day, {}).setdefault(kind, {})[device] = {
            "readings": sum(not faulty for _, faulty, _ in readings),
            "faulty": sum(runs),
            "usage": sum(usage for _, faulty, usage in readings if not faulty) / 1000,
            "longest_fault_run": max(runs, default=0),
        }
    return {"counts": counts, "behind": behind, "faults": faults, "days": days}


def assert_ledger_is_what_kafka_has(ledger: Ledger, messages: list[Message], zone: ZoneInfo) -> None:
    said, found = ledger.to_json(), recount(messages, zone)
    for name in ("messages", "readings", "duplicates", "conflicts", "garbage"):
        assert said[name] == found["counts"][name], name
    assert said["messages"] == said["readings"] + said["duplicates"] + said["conflicts"] + said["garbage"]
    assert said["late"] + said["out_of_order"] == found["behind"]
    assert said["faults"] == len(said["fault_ids"])
    assert set(said["fault_ids"]) == found["faults"]
    assert {day: {kind: total["devices"] for kind, total in kinds.items()} for day, kinds in said["days"].items()} == (
        found["days"]
    )
    for day, kinds in said["days"].items():
        for kind, total in kinds.items():
            devices = found["days"][day][kind].values()
            assert total["readings"] == sum(device["readings"] for device in devices)
            assert total["faulty"] == sum(device["faulty"] for device in devices)
            assert round(total["usage"] * 1000) == sum(round(device["usage"] * 1000) for device in devices)


def registered(settings: Settings) -> int:
    database = connect(settings)
    with database.client:
        return database[METERS].count_documents({"source": "simulate"})


def test_the_ledger_is_what_kafka_received(database: Settings, topic: str) -> None:
    meters = city(15)
    ledger = simulate_history(meters, database, EVERYTHING, topic=topic)
    messages = received(database, topic)
    assert_ledger_is_what_kafka_has(ledger, messages, database.zone)
    assert ledger.complete
    assert ledger.readings == len(meters) * 3 * 48
    for count in (ledger.duplicates, ledger.conflicts, ledger.garbage, ledger.late, ledger.out_of_order):
        assert count == pytest.approx(0.03 * ledger.readings, rel=0.5)
    assert ledger.faults == pytest.approx(0.05 * ledger.readings, rel=0.5)
    # A recount that cannot tell one message more or less would prove nothing.
    for changed in (messages[1:], [*messages, messages[-1]]):
        with pytest.raises(AssertionError):
            assert_ledger_is_what_kafka_has(ledger, changed, database.zone)
    assert registered(database) == len(meters)
    path = ledger.save(database.home)
    assert load_ledger(path).to_json() == ledger.to_json()
    assert [path.name] == [file.name for file in path.parent.iterdir() if ledger.run_id in file.name]


@pytest.mark.parametrize(("until", "quarters"), [(date(2024, 4, 1), 92), (date(2024, 10, 28), 100)])
def test_a_local_day_of_another_length_is_sent_in_full(
    database: Settings, topic: str, until: date, quarters: int
) -> None:
    madrid = database.model_copy(update={"timezone": "Europe/Madrid"})
    ledger = simulate_history(city(2), madrid, SimulationOptions(until=until), topic=topic)
    assert_ledger_is_what_kafka_has(ledger, received(database, topic), madrid.zone)
    (day,) = ledger.days
    assert day == (until - timedelta(days=1)).isoformat()
    for devices in ledger.days[day].values():
        assert all(account.readings + account.faulty == quarters for account in devices.values())


def test_live_rounds_follow_the_history_in_one_ledger(database: Settings, topic: str) -> None:
    options = replace(EVERYTHING, days=1)
    ledger = simulate_history(city(5), database, options, topic=topic)
    done: list[int] = []
    simulate_live(
        city(5), database, options, topic=topic, ledger=ledger, rounds=3, on_progress=lambda _, n: done.append(n)
    )
    assert done == [1, 2, 3]
    assert ledger.readings == 10 * 48 + 10 * 3
    assert_ledger_is_what_kafka_has(ledger, received(database, topic), database.zone)


def test_a_stopped_history_is_in_the_ledger_with_what_was_sent(database: Settings, topic: str) -> None:
    stops = iter([False] * 20)
    ledger = simulate_history(city(5), database, EVERYTHING, topic=topic, stop=lambda: next(stops, True))
    assert ledger.interrupted and ledger.complete
    assert ledger.readings == 10 * 20
    assert_ledger_is_what_kafka_has(ledger, received(database, topic), database.zone)


def test_two_runs_add_up(database: Settings, topic: str) -> None:
    runs = [
        simulate_history(city(3), database, replace(EVERYTHING, days=1, until=until), topic=topic)
        for until in (date(2024, 5, 3), date(2024, 5, 4))
    ]
    for run in runs:
        run.save(database.home)
    saved = [ledger for ledger in load_ledgers(database.home) if ledger.run_id in {run.run_id for run in runs}]
    assert_ledger_is_what_kafka_has(merge_ledgers(saved), received(database, topic), database.zone)


# In a process of its own

RUN_COMMAND = """
import sys, typer
from meter_cli.simulate import simulate
app = typer.Typer()
app.command()(simulate)
app()
"""


def command(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN_COMMAND, *arguments],
        env={**os.environ, **settings.environment(), "PYTHONHASHSEED": "random"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_same_options_send_the_same_messages_in_the_same_order(database: Settings) -> None:
    runs = []
    for _ in range(2):
        topic = f"simulate-{uuid.uuid4().hex[:12]}"
        simulate_history(city(5), database, EVERYTHING, topic=topic)
        by_key = defaultdict(list)
        for key, value in received(database, topic):
            by_key[key].append(value)
        runs.append(by_key)
    assert runs[0] == runs[1]


def test_the_command_prints_its_ledger_and_saves_it(database: Settings) -> None:
    arguments = ["--households", "3", "--days", "2", "--interval", "1h", "--until", "2024-05-04", "--json"]
    process = command(database, *arguments)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    summary = json.loads(printed)
    assert summary["readings"] == 6 * 48
    assert load_ledger(Path(summary["file"])).summary() == {
        name: value for name, value in summary.items() if name != "file"
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_live_mode_in_order(database: Settings, number: signal.Signals) -> None:
    ensure_topics(database, READINGS_TOPIC)
    before = len(received(database, READINGS_TOPIC))
    process = command(database, "--households", "2", "--live", "--json", "--duplicate-rate", "0.5")
    assert process.stderr is not None
    # Only a signal ends this run: a line on its standard error says that it is in the midst of its rounds.
    while "first round" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    printed, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    summary = json.loads(printed)
    assert summary["complete"]
    assert summary["readings"] >= 4
    ledger = load_ledger(Path(summary["file"]))
    assert ledger.balanced
    assert len(received(database, READINGS_TOPIC)) - before == ledger.messages
