"""A full disk is named, and what it has stopped goes on by itself once there is room again."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient

from local_stack.state import live_state
from meter_assets_tests.support import meters, read_topic, settings_for, wait_for
from metering.settings import Settings
from runtime.full_disk import disk_of, full_disk_error, full_disk_line

pytestmark = pytest.mark.slow

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


class Filler:
    """A file that takes all of a disk, and what others give back as well, until it is removed."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "filler"
        self._end = threading.Event()
        self.fill()
        self._thread = threading.Thread(target=self._keep_full)
        self._thread.start()

    def fill(self) -> None:
        """Append until the disk takes no more."""
        with self._file.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(1 << 16)):
                pass

    def _keep_full(self) -> None:
        while not self._end.wait(0.05):
            self.fill()

    def remove(self) -> None:
        """Give the room back."""
        self._end.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)


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

    folders = {name: small.home / name / "data" for name in ("kafka", "mongo")}
    fillers = [Filler(folder) for folder in folders.values()]
    try:
        # What is written now fails, and ends in one line.
        failed = meters(small, "simulate", "--households", "20", "--days", "9", timeout_seconds=400)
        assert failed.returncode == 1
        assert "Traceback" not in failed.stderr
        assert failed.stderr.strip().splitlines()[-1].startswith("error: ")
        for name, folder in folders.items():
            named = f"the disk of {folder} is full: "
            wait_for(lambda name=name, named=named: named in reason(small, name), 240, f"{name} says why")
        status = meters(small, "status")
        assert status.returncode == 1
        assert f"the disk of {folders['kafka']} is full: 0 bytes free of 125.8 MB" in status.stderr
        assert f"the disk of {folders['mongo']} is full: 0 bytes free of 419.4 MB" in status.stderr
        doctor = meters(small, "doctor")
        assert f"disk of {folders['kafka']} is full" in doctor.stdout
    finally:
        for filler in fillers:
            filler.remove()

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
        filler = Filler(lake)
        filler.remove()
        assert full_disk_error(settings) is None
        filler.fill()
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
