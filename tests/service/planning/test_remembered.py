"""Files are looked at once while they stay as they are."""

import os
from pathlib import Path

import pytest

from service.planning.remembered import Remembered


class Looks:
    """Counts the looks at a path, long after its files were written."""

    def __init__(self, path: Path, *, now: float = 4e9, sound: bool = True) -> None:
        self.path, self.count, self.sound = path, 0, sound
        self.remembered = Remembered(now=lambda: now)

    def look(self, what: str = "q") -> int:
        return self.remembered.look(what, str(self.path), self._inspect, lambda _: self.sound)

    def _inspect(self) -> int:
        self.count += 1
        return self.count


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("1")
    return tmp_path / "data"


def test_an_unchanged_folder_is_looked_at_once(folder: Path) -> None:
    looks = Looks(folder)
    assert [looks.look(), looks.look(), looks.look("another question")] == [1, 1, 2]


@pytest.mark.parametrize("change", ["content", "time", "another file", "removed"])
def test_any_change_means_another_look(folder: Path, change: str) -> None:
    looks = Looks(folder)
    looks.look()
    match change:
        case "content":
            (folder / "a").write_text("22")
        case "time":
            os.utime(folder / "a", (1, 1))
        case "another file":
            (folder / "b").write_text("1")
        case "removed":
            (folder / "a").unlink()
    assert looks.look() == 2


def test_what_is_new_has_a_fault_or_lies_elsewhere_is_not_remembered(folder: Path) -> None:
    fresh = Looks(folder, now=os.stat(folder / "a").st_mtime + 1)
    faulty = Looks(folder, sound=False)
    remote = Looks(Path("s3://bucket/data"))
    for looks in (fresh, faulty, remote):
        assert [looks.look(), looks.look()] == [1, 2]


def test_what_is_remembered_can_be_recalled_as_long_as_it_stays_as_it_is(folder: Path) -> None:
    looks = Looks(folder)
    assert looks.remembered.recall("q", str(folder)) is None
    looks.look()
    assert looks.remembered.recall("q", str(folder)) == 1
    (folder / "a").write_text("22")
    assert looks.remembered.recall("q", str(folder)) is None
    assert looks.count == 1
