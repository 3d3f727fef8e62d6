"""The life of a store: opened, used where it was opened, closed, and opened again.

A connection belongs to the event loop and the process that opened it. Used elsewhere it may hang,
or fail in ways that nobody understands. So every store that has one asks its :class:`Life` before
each use, and all of them refuse alike. Stores in memory wait for nothing outside, so every event
loop may use them; they have none.

``_loop`` is the event loop that opened the store, ``None`` while the store is closed; ``_native``
is the same as asyncio or trio know it, and ``_process`` the process. A store whose connection was
made by its caller belongs to the event loop that uses it first.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from anyio.lowlevel import current_token

from gogoscope._core.cancellation import on_asyncio
from gogoscope._core.event_loop import EventLoop, running
from gogoscope.exceptions import Effect, PersistenceError, UnsupportedEventLoopError


class Life:
    """Whether a store is open, and where it may be used.

    :param store: what it is called in messages, such as ``the SQLite store 'app.db'``
    :param ready: whether it is open from the start, for whoever uses it first
    :param asyncio_for: the library for whose sake it can be opened on asyncio only, if there is one

    ``opening`` is another object after each opening. To close a store takes time, in which somebody
    else may close it, too, and open it again: whoever compares this ends no opening but its own.
    """

    __slots__ = (
        "_asyncio_for",
        "_loop",
        "_native",
        "_process",
        "_ready",
        "_store",
        "_thread",
        "opening",
    )

    def __init__(self, store: str, *, ready: bool = False, asyncio_for: str | None = None) -> None:
        self._store = store
        self._ready = ready
        self._asyncio_for = asyncio_for
        self._loop: EventLoop | None = None
        self._native: Any = None
        self._process = os.getpid()
        self._thread = ""
        self.opening = object()

    @property
    def open(self) -> bool:
        """Whether the store is open, here or elsewhere."""
        return self._loop is not None or self._ready

    def begin(self) -> None:
        """Note that the store is opened, or about to be, here.

        :raises PersistenceError: if it is open already
        :raises UnsupportedEventLoopError: if it can be opened on asyncio only, and this is not
        """
        if self._asyncio_for is not None and not on_asyncio():
            raise UnsupportedEventLoopError(
                f"{self._store} cannot be opened here: {self._asyncio_for} runs on asyncio only; "
                "run the program with anyio.run(main) on its asyncio backend"
            )
        if self._loop is not None:
            where = "" if self._loop.is_here() else f" in {self._where()}"
            raise _refused(f"{self._store} is open already{where}; close it first")
        self._loop = running()
        self._native = current_token().native_token
        self._process = os.getpid()
        self._thread = threading.current_thread().name
        self.opening = object()

    def end(self, opening: object = None) -> None:
        """Note that the store is closed; it may be opened again.

        :param opening: which opening ends, if another one may have followed it, which then lasts
        """
        if opening is None or opening is self.opening:
            self._loop = self._native = None

    def check(self) -> None:
        """Make sure that the store may be used here.

        :raises PersistenceError: if it is closed, or was opened by another process or event loop
        """
        loop = self._loop
        if loop is None:
            if not self._ready:
                raise _refused(
                    f"{self._store} is not open; use it inside 'async with', or open it again"
                )
            if self._process == os.getpid():
                self.begin()
                return
        if self._process != os.getpid():
            raise _refused(
                f"{self._store} was opened by process {self._process}, of which this one is a "
                "fork; open a store of its own here"
            )
        if loop is not None and not loop.is_here():
            raise _refused(
                f"{self._store} belongs to {self._where()}, and not to the one that runs here; "
                "open a store of its own here, or call from a worker thread of that event loop "
                "with anyio.from_thread.run"
            )

    def may_close(self) -> bool:
        """Return whether there is something to close that belongs to this process.

        :raises PersistenceError: if it belongs to another event loop, which still runs
        """
        if self._loop is None or self._process != os.getpid():
            return False
        if not self.orphaned:
            self.check()
        return True

    @property
    def orphaned(self) -> bool:
        """Whether the event loop that opened the store has ended."""
        return self._loop is not None and _has_ended(self._native)

    def _where(self) -> str:
        ended = ", which has ended" if _has_ended(self._native) else ""
        return f"the event loop {self._native!r} of thread {self._thread!r}{ended}"


def _refused(reason: str) -> PersistenceError:
    error = PersistenceError(reason)
    error.effect = Effect.NOT_SENT
    return error


def is_closed(store: object) -> bool:
    """Return whether a store says by its life that it is closed."""
    life = getattr(store, "_life", None)
    return isinstance(life, Life) and not life.open


def _has_ended(native: Any) -> bool:
    is_closed = getattr(native, "is_closed", None)
    if is_closed is not None:
        return bool(is_closed())
    try:
        native.run_sync_soon(_nothing)
    except RuntimeError:
        return True
    return False


def _nothing() -> None:
    return
