"""Folders that change places while somebody reads."""

import threading
from pathlib import Path

import pytest

from meter_assets.lake import swap as module
from meter_assets.lake.swap import exchange

ROUNDS = 2_000


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("staged", "day"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.parquet").touch()
    return tmp_path / "staged", tmp_path / "day"


def test_a_reader_sees_the_old_day_or_the_new_one(folders: tuple[Path, Path]):
    staged, day = folders
    done = threading.Event()
    seen: set[tuple[str, ...]] = set()

    def read() -> None:
        while not done.is_set():
            try:
                seen.add(tuple(file.name for file in day.iterdir()))
            except FileNotFoundError:
                seen.add(("nothing",))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(ROUNDS):
        exchange(staged, day)
    done.set()
    reader.join()
    assert seen == {("staged.parquet",), ("day.parquet",)}


def test_where_one_step_is_not_to_be_had_two_do(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    staged, day = folders
    monkeypatch.setattr(module, "RENAME_EXCHANGE", 1 << 10)  # a flag that no kernel knows
    exchange(staged, day)
    assert [file.name for file in day.iterdir()] == ["staged.parquet"]
    assert [file.name for file in staged.iterdir()] == ["day.parquet"]


def test_a_folder_that_is_not_there_is_an_error(folders: tuple[Path, Path]):
    staged, day = folders
    with pytest.raises(FileNotFoundError):
        exchange(staged, day.with_name("another"))
    assert staged.exists()
