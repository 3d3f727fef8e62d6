"""Telling whether open files were removed or replaced, by their folder where that is sure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gogoscope.exceptions import PersistenceError
from gogoscope.stores.sqlite import identity
from gogoscope.stores.sqlite.identity import OLD_NS, OpenFiles

ENDS = ("", "-wal", "-shm")
AGES = pytest.mark.parametrize("age_ns", [2 * OLD_NS, 0, -2 * OLD_NS], ids=["old", "new", "ahead"])


class Folder:
    """A folder with the files of a database, and how old its time is."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.database = path / "store.db"
        for end in ENDS:
            Path(f"{self.database}{end}").touch()
        self._made_ns = path.stat().st_mtime_ns

    def grow_old(self, age_ns: int) -> None:
        os.utime(self.path, ns=(self._made_ns - age_ns, self._made_ns - age_ns))

    def refused(self, files: OpenFiles) -> bool:
        try:
            files.check()
        except PersistenceError:
            return True
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "folder")


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    looks: list[str] = []
    look = identity._identity

    def noted(path: str) -> object:
        looks.append(path)
        return look(path)

    monkeypatch.setattr(identity, "_identity", noted)
    return looks


@AGES
@pytest.mark.parametrize("end", ENDS)
def test_a_file_that_is_removed_or_replaced_is_refused_whatever_the_time_of_its_folder(
    folder: Folder, end: str, age_ns: int
) -> None:
    folder.grow_old(age_ns)
    files = OpenFiles(str(folder.database))
    assert not folder.refused(files)
    assert not folder.refused(files)
    path = Path(f"{folder.database}{end}")
    path.rename(folder.path / "away")
    assert folder.refused(files)
    path.touch()
    assert folder.refused(files)
    (folder.path / "away").replace(path)
    assert not folder.refused(files)


@AGES
def test_a_folder_that_is_renamed_is_refused(folder: Folder, age_ns: int) -> None:
    folder.grow_old(age_ns)
    files = OpenFiles(str(folder.database))
    assert not folder.refused(files)
    folder.path.rename(folder.path.parent / "elsewhere")
    assert folder.refused(files)
    Folder(folder.path).grow_old(age_ns)
    assert folder.refused(files)


def test_the_files_are_looked_at_only_when_their_folder_may_have_changed(
    folder: Folder, looked_at: list[str]
) -> None:
    folder.grow_old(2 * OLD_NS)
    files = OpenFiles(str(folder.database))
    looked_at.clear()
    for _ in range(5):
        files.check()
    assert len(looked_at) == 3
    (folder.path / "another file").touch()
    for _ in range(5):
        files.check()
    assert len(looked_at) == 3 + 5 * 3, "its time is new"


def test_files_in_two_folders_are_looked_at_each_time(
    folder: Folder, tmp_path: Path, looked_at: list[str]
) -> None:
    folder.grow_old(2 * OLD_NS)
    (tmp_path / "link.db").symlink_to(folder.database)
    files = OpenFiles(str(tmp_path / "link.db"))
    looked_at.clear()
    files.check()
    files.check()
    assert len(looked_at) == 6
    Path(f"{folder.database}-wal").unlink()
    assert folder.refused(files)
