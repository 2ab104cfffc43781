"""Which of our folders is on a full disk, and the line that names it.

`full_disk_line(settings)` looks at the disks now; `full_disk_line(settings, text)` also reads the text of an error or a
line of a log: the disk may have room again, because the process that failed has removed its own files.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from metering.errors import MetersError
from metering.settings import Settings

MIN_FREE_BYTES = 16 * 1024 * 1024
"""A disk with less is full for us: a segment's index of Kafka and a journal of MongoDB take more at once."""

FULL_TEXT = re.compile(
    r"No space left on device|ENOSPC|OutOfDiskSpace|Disk quota exceeded|EDQUOT|disk is full|58030"
    r"|fault occurred in a recent unsafe memory access",
    re.IGNORECASE,
)
"""Names of a full disk: the system's, MongoDB's, SQLite's, Spark's SQLSTATE, and the JVM's for a mapped file."""


@dataclass(frozen=True)
class FullDisk:
    """A folder of ours whose disk takes no more."""

    folder: Path
    free_bytes: int
    total_bytes: int
    has_names: bool = True
    """False: there are bytes, and no inodes for further files."""

    def __str__(self) -> str:
        """Like `the disk of /data/kafka is full: 0 bytes free of 64.0 MB`."""
        left = f"{_size(self.free_bytes)} free of {_size(self.total_bytes)}"
        return f"the disk of {self.folder} is full: " + (left if self.has_names else f"no inode is free ({left})")


def disk_of(folder: Path) -> FullDisk | None:
    """The folder's disk, or that of its nearest parent that exists, when it is full."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    # Some file systems count no inodes, and some count no blocks: those are not full.
    has_names = not found.f_files or found.f_favail > 0
    if total and (free < min(MIN_FREE_BYTES, total // 4) or not has_names):
        return FullDisk(folder, free, total, has_names)
    return None


def our_folders(settings: Settings) -> list[Path]:
    """Every folder that this installation writes into, those of single services first."""
    home = settings.home
    services = sorted(folder for kind in ("mongo", "kafka", "spark") for folder in home.glob(f"{kind}*"))
    parts = [inner for folder in services for inner in (folder / "data", folder / "tmp", folder) if inner.exists()]
    places = [place for place in (settings.lake_path, settings.router_place) if "://" not in place]
    return [*parts, *map(Path, places), settings.dagster_home, home / "logs", home]


def full_disks(folders: Iterable[Path]) -> list[FullDisk]:
    """The full ones, each disk once."""
    found: dict[int, FullDisk] = {}
    for folder in folders:
        if full := disk_of(folder):
            found.setdefault(full.folder.stat().st_dev, full)
    return list(found.values())


def full_disk_line(settings: Settings, text: str = "", *, folders: Iterable[Path] | None = None) -> str | None:
    """Name the full disks of these folders (default: all of ours), as far as the system or the text knows of any."""
    looked_at = list(folders) if folders is not None else our_folders(settings)
    if full := full_disks(looked_at):
        return "; ".join(map(str, full))
    if not FULL_TEXT.search(text):
        return None
    # The one who met it gave its space back: name the folder in the text, else the one with the least room.
    named = [folder for folder in looked_at if str(folder) in text and folder.exists()]
    rooms = sorted((_free(folder), folder) for folder in named or looked_at if folder.exists())
    if not rooms:
        return None
    free, folder = rooms[0]
    total = os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize
    return f"the disk of {folder} was full; it has {_size(free)} free of {_size(total)} now"


def full_disk_error(settings: Settings, text: str = "") -> MetersError | None:
    """The error to show instead of one that a full disk has caused; None where none is to be seen."""
    if line := full_disk_line(settings, text):
        return MetersError(line[0].upper() + line[1:], fix="Free some; what waits then goes on by itself")
    return None


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _size(count: int) -> str:
    if count < 1_000_000:
        return f"{count:,} bytes"
    return f"{count / 1e6:,.1f} MB" if count < 1_000_000_000 else f"{count / 1e9:,.1f} GB"
