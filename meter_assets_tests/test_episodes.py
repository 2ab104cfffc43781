"""Fault episodes on a real MongoDB: whatever the order in which faults arrive, the same episodes, each told once."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from alerting import episodes
from alerting.episodes import clear_quiet_episodes, update_episodes
from meter_assets_tests.alert_support import NOW, fault, minutes, store
from metering.settings import Settings
from metering.store import ALERTS, FAULT_EPISODES, FAULTS, ensure_collections


class City:
    """A database with faults, and the sensor's two steps on it."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.cursor: datetime | None = None

    def look(self, now: datetime = NOW) -> dict[str, int]:
        """Bring episodes up to date and end quiet ones; returns the new alerts by kind."""
        progress = update_episodes(self.database, self.settings, self.cursor, now)
        self.cursor = progress.cursor
        return dict(progress.raised + clear_quiet_episodes(self.database, self.settings, now))

    @property
    def episodes(self) -> list[dict[str, Any]]:
        """All episodes, by meter and time."""
        return list(self.database[FAULT_EPISODES].find().sort([("device_id", 1), ("opened_at", 1)]))

    @property
    def alerts(self) -> list[str]:
        """Ids of all alerts."""
        return sorted(alert["_id"] for alert in self.database[ALERTS].find())


@pytest.fixture
def city(database: Settings) -> Iterator[City]:
    with MongoClient(database.mongo, tz_aware=True) as client:
        own = client[database.mongo_database]
        ensure_collections(own)
        yield City(own, database)


def test_consecutive_faults_are_one_episode_with_its_worst_and_latest(city: City):
    store(
        city.database,
        fault("e-1", NOW - minutes(30), rule="above_bound"),
        fault("e-1", NOW - minutes(20), rule="fault_sign", severity="critical", explanation="says -1"),
        fault("e-1", NOW - minutes(10), rule="above_bound", explanation="too much again"),
        fault("e-2", NOW - minutes(10)),
    )
    assert city.look() == {"episode_opened": 2}
    first, second = city.episodes
    assert first == {
        "_id": "e-1|2024-05-27T11:30:00Z",
        "device_id": "e-1",
        "meter_type": "electricity",
        "opened_at": NOW - minutes(30),
        "last_seen_at": NOW - minutes(10),
        "count": 3,
        "severity": "critical",
        "rules": ["above_bound", "fault_sign"],
        "explanation": "too much again",
        "announced_as": "e-1|2024-05-27T11:30:00Z",
        "state": "open",
        "cleared_at": None,
    }
    assert second["device_id"] == "e-2"
    assert city.look() == {}


def test_a_quiet_meter_clears_and_the_next_fault_opens_anew(city: City):
    store(city.database, fault("e-1", NOW))
    city.look()
    assert city.look(NOW + minutes(60)) == {}  # exactly the quiet time is not longer than it
    assert city.look(NOW + minutes(61)) == {"episode_cleared": 1}
    assert city.episodes[0]["state"] == "cleared"
    assert city.episodes[0]["cleared_at"] == NOW + minutes(60)
    later = NOW + minutes(90)
    store(city.database, fault("e-1", later, stored_at=later))
    assert city.look(later) == {"episode_opened": 1}
    assert [episode["state"] for episode in city.episodes] == ["cleared", "open"]


def test_a_late_fault_that_joins_two_episodes_tells_of_no_third(city: City):
    store(city.database, fault("e-1", NOW - minutes(100)), fault("e-1", NOW - minutes(10)))
    assert city.look() == {"episode_opened": 2, "episode_cleared": 1}
    store(city.database, fault("e-1", NOW - minutes(55), stored_at=NOW + minutes(1)))
    assert city.look(NOW + minutes(1)) == {}
    (joined,) = city.episodes
    assert (joined["_id"], joined["count"]) == ("e-1|2024-05-27T10:20:00Z", 3)
    # The second one was told to be open: its end is told, though the first one's was already.
    assert city.look(NOW + minutes(60)) == {"episode_cleared": 1}
    assert "episode_cleared|e-1|2024-05-27T11:50:00Z" in city.alerts


def test_a_late_fault_that_moves_the_opening_is_not_told_again(city: City):
    store(city.database, fault("e-1", NOW - minutes(10)))
    assert city.look() == {"episode_opened": 1}
    store(city.database, fault("e-1", NOW - minutes(40), stored_at=NOW + minutes(1)))
    assert city.look(NOW + minutes(1)) == {}
    assert [episode["_id"] for episode in city.episodes] == ["e-1|2024-05-27T11:20:00Z"]
    assert city.look(NOW + minutes(61)) == {"episode_cleared": 1}
    assert len(city.alerts) == 2


def test_a_fault_stored_with_an_earlier_stamp_by_another_process_is_seen(city: City):
    store(city.database, fault("e-1", NOW - minutes(10), stored_at=NOW))
    city.look()
    store(city.database, fault("e-2", NOW - minutes(10), stored_at=NOW - timedelta(seconds=50)))
    assert city.look() == {"episode_opened": 1}


def test_what_has_settled_is_not_read_again(city: City):
    store(city.database, fault("e-1", NOW - minutes(10), stored_at=NOW - minutes(5)))
    city.look()
    assert city.cursor == NOW - minutes(5)
    city.database[FAULT_EPISODES].delete_many({})
    city.look()
    assert city.episodes == []


def test_a_replay_of_history_makes_episodes_and_no_alerts(city: City):
    long_ago = NOW - timedelta(days=400)
    store(city.database, *(fault("e-1", long_ago + minutes(90 * number)) for number in range(50)))
    assert city.look() == {}
    assert len(city.episodes) == 50
    assert {episode["state"] for episode in city.episodes} == {"cleared"}


def test_episodes_are_not_ended_while_faults_wait_unread(city: City, monkeypatch):
    """After an outage of the sensor the first slice would otherwise end what the next one continues."""
    monkeypatch.setattr(episodes, "SLICE_DOCUMENTS", 1)
    store(city.database, *(fault(f"e-{n}", NOW, stored_at=NOW - minutes(20 - n)) for n in range(5)))
    progress = update_episodes(city.database, city.settings, None, NOW, budget_seconds=0)
    assert (progress.caught_up, len(city.episodes)) == (False, 2)
    city.cursor = progress.cursor
    city.look()
    assert len(city.episodes) == 5


def expected_episodes(faults: list[dict[str, Any]], quiet: timedelta) -> list[tuple[str, datetime, datetime, int]]:
    """What the episodes are, worked out the simple way."""
    found = []
    for device in sorted({each["device_id"] for each in faults}):
        times = sorted({each["timestamp"] for each in faults if each["device_id"] == device})
        breaks = [0, *(n for n, (a, b) in enumerate(pairwise(times), 1) if b - a > quiet), len(times)]
        found += [(device, times[start], times[end - 1], end - start) for start, end in pairwise(breaks)]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_arrival_ends_in_the_same_episodes_told_once(city: City, seed: int, monkeypatch):
    monkeypatch.setattr(episodes, "METERS_AT_ONCE", 2)
    draw = random.Random(seed)
    times = {(f"e-{draw.randrange(4)}", NOW - minutes(draw.randrange(1200))) for _ in range(120)}
    faults = [fault(device, at) for device, at in times]
    draw.shuffle(faults)
    now = NOW
    while faults:
        now += minutes(2)  # so long that what was read before has settled, and is not read again
        part, faults = faults[:10], faults[10:]
        store(city.database, *({**each, "stored_at": now - timedelta(seconds=draw.randrange(50))} for each in part))
        city.look(now)
        city.look(now)
    expected = expected_episodes(list(city.database[FAULTS].find()), minutes(60))
    assert [(e["device_id"], e["opened_at"], e["last_seen_at"], e["count"]) for e in city.episodes] == expected
    for episode in city.episodes:  # whoever was told of it was told under one name that still stands for it
        assert f"episode_opened|{episode['announced_as']}" in city.alerts
        if episode["state"] == "cleared":
            assert f"episode_cleared|{episode['announced_as']}" in city.alerts
