"""A full disk is named, and what it has stopped goes on by itself once there is room again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from local_stack.state import live_state
from meter_assets_tests.support import meters, read_topic, settings_for, wait_for
from metering.disk import disk_of, full_disk_error, full_disk_line
from metering.settings import Settings

MOUNT = shutil.which("mount")

needs_mount = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0 or not MOUNT, reason="only root on Linux can mount a small disk"
)


def mount(folder: Path, megabytes: int) -> None:
    folder.mkdir(parents=True)
    answer = subprocess.run(
        [MOUNT or "", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], capture_output=True, text=True
    )
    if answer.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {answer.stderr.strip()}")


def unmount(folder: Path) -> None:
    subprocess.run([shutil.which("umount") or "umount", "-l", folder], check=False)


def fill(folder: Path) -> Path:
    """Take all of the disk; returns the file to delete."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 20)):
                pass
        except OSError:
            pass
    return filler


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Settings]:
    """An installation whose MongoDB and Kafka each have a small disk of their own, both up."""
    settings = settings_for(tmp_path / "home", spark_remote="sc://127.0.0.1:1", kafka_partitions=1)
    folders = [settings.home / "mongo" / "data", settings.home / "kafka" / "data"]
    try:
        mount(folders[0], 400)
        mount(folders[1], 120)
        up = meters(settings, "up", timeout_seconds=400)
        assert up.returncode == 0, up.stderr
        yield settings
    finally:
        meters(settings, "down")
        for folder in folders:
            unmount(folder)


def states(settings: Settings) -> dict[str, str]:
    state = live_state(settings.home)
    return {name: service.state for name, service in state.services.items()} if state else {}


def reason(settings: Settings, name: str) -> str:
    state = live_state(settings.home)
    return state.services[name].error if state else ""


@needs_mount
@pytest.mark.timeout(900)
def test_services_with_full_disks_name_them_and_come_back_when_there_is_room(small: Settings) -> None:
    sent = meters(small, "simulate", "--households", "2", "--interval", "1h", "--json")
    assert sent.returncode == 0, sent.stderr
    assert meters(small, "ingest", "--until-caught-up").returncode == 0
    messages = len(read_topic(small, "iot-meter"))
    with MongoClient(small.mongo) as client:
        stored = client[small.mongo_database]["iot-meter"].count_documents({})
    assert messages and stored

    fillers = [fill(small.home / name / "data") for name in ("kafka", "mongo")]
    kafka_folder = small.home / "kafka" / "data"
    # Whatever is written now fails; what matters is the line. MongoDB writes by itself.
    failed = meters(small, "simulate", "--households", "20", "--days", "9", timeout_seconds=400)
    assert failed.returncode == 1
    assert len(failed.stderr.strip().splitlines()) <= 2, failed.stderr
    assert "Traceback" not in failed.stderr
    for name in ("kafka", "mongo"):
        folder = small.home / name / "data"
        wait_for(
            lambda name=name, folder=folder: f"the disk of {folder}" in reason(small, name), 240, f"{name} says why"
        )
    status = meters(small, "status")
    assert status.returncode == 1
    assert f"the disk of {kafka_folder} is full: " in status.stderr
    assert " bytes free of 125.8 MB" in status.stderr
    doctor = meters(small, "doctor")
    assert f"the disk of {kafka_folder} is full" in doctor.stdout.lower()

    for filler in fillers:
        filler.unlink()
    wait_for(lambda: set(states(small).values()) == {"up"}, 400, "both are up by themselves")
    with MongoClient(small.mongo) as client:
        assert client[small.mongo_database]["iot-meter"].count_documents({}) == stored
    assert len(read_topic(small, "iot-meter")) >= messages
    again = meters(small, "simulate", "--households", "2", "--interval", "1h")
    assert again.returncode == 0, again.stderr
    assert meters(small, "ingest", "--until-caught-up").returncode == 0


@needs_mount
def test_the_disk_is_named_with_its_folder_and_free_bytes(tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    mount(lake, 64)
    try:
        settings = settings_for(tmp_path / "home", lake=str(lake))
        assert full_disk_error(settings) is None
        fill(lake)
        assert full_disk_line(settings) == f"the disk of {lake} is full: 0 bytes free of 67.1 MB"
        error = full_disk_error(settings)
        assert error and str(error) == (
            f"The disk of {lake} is full: 0 bytes free of 67.1 MB. Free some; what waits then goes on by itself"
        )
        assert disk_of(lake / "not" / "there" / "yet")  # the folder that would be made
    finally:
        unmount(lake)


@pytest.mark.parametrize(
    "text",
    [
        "java.io.IOException: No space left on device",
        "[UNKNOWN] IO error SQLSTATE: 58030",
        "java.lang.InternalError: a fault occurred in a recent unsafe memory access operation in compiled Java code",
        "OutOfDiskSpace: available disk space of 0 bytes is less than required minimum",
    ],
)
def test_an_error_of_a_full_disk_is_known_when_there_is_room_again(tmp_path: Path, text: str) -> None:
    """What failed has removed its own files before anybody looks."""
    settings = settings_for(tmp_path / "home")
    settings.home.mkdir()
    assert full_disk_line(settings) is None
    assert full_disk_line(settings, "connection refused") is None
    line = full_disk_line(settings, f"{text} {settings.home}/spark/tmp/blockmgr")
    assert line and line.startswith(f"the disk of {settings.home} was full; it has ")
