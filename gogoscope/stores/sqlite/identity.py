"""Telling whether the files of a database are still those that were opened.

Whoever removes or replaces a file that is open makes two databases of it. A file is known by its
device and inode. But to look at three files takes longer than the SQL between two looks. Whatever
removes, renames or replaces a file changes the time of the folder that it is in. So as long as the
folders are the same, with the same times, the files are.

Invariants:

- The time of a folder is relied on only if it was old when it was read: the clock of a file system
  may stand still for some milliseconds, or seconds, and more than one change may have one time.
- A folder that cannot be relied on, since others change it all the time or its clock is ahead,
  costs a look at each of the files. So do files in two folders, since the database is a link.

``_files`` are the files as they were opened, and ``_seen`` is the folder as it was at the last look
at them; it is ``None`` where it cannot be relied on.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from gogoscope.exceptions import PersistenceError

OLD_NS = 3_000_000_000
"""How old the time of a folder must be: the coarsest clocks of file systems tick every 2 s."""


class OpenFiles:
    """The database, its write-ahead log and its shared memory, as they are now.

    :param path: the database
    """

    def __init__(self, path: str) -> None:
        self._path = path
        beside = os.path.realpath(path)
        self.database = str(Path(path).absolute())
        """Where the database is, whatever becomes of the current folder."""
        self._paths = (self.database, f"{beside}-wal", f"{beside}-shm")
        folders = {str(Path(path).parent) for path in self._paths}
        self._folder = folders.pop() if len(folders) == 1 else None
        self._seen: tuple[int, int, int] | None = None
        self._files = [_identity(path) for path in self._paths]

    def check(self) -> None:
        """Make sure that they are the same.

        :raises PersistenceError: if one was removed or replaced
        """
        folder = None
        if self._folder is not None:
            try:
                status = os.stat(self._folder)  # noqa: PTH116 - at each use, so the fast way
            except OSError:
                self._seen = None
            else:
                folder = (status.st_mtime_ns, status.st_ino, status.st_dev)
                if folder == self._seen:
                    return
        if [_identity(path) for path in self._paths] != self._files:
            raise self._replaced()
        is_old = folder is not None and folder[0] < time.time_ns() - OLD_NS
        self._seen = folder if is_old else None

    def check_database(self) -> None:
        """Make sure that the database is the same, whatever became of the two beside it.

        :raises PersistenceError: if it was removed or replaced
        """
        if _identity(self.database) != self._files[0]:
            raise self._replaced()

    def _replaced(self) -> PersistenceError:
        return PersistenceError(
            f"a file of the SQLite store {self._path!r} was removed or replaced while it was open, "
            "so that others may hold the same locks; close the store and open it again"
        )


def _identity(path: str) -> tuple[int, int] | None:
    """Return the device and the inode of a file, if there is one."""
    try:
        status = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return None
    return status.st_dev, status.st_ino
