"""The default store of a process: what is used where no store is named.

It is there while a block ``async with open_persistence(url, default=True)`` is open. Scopes without
a store of their own use it, and so do circuit breakers and ``cached`` functions outside of scopes,
for which it also runs what goes on in the background. Invariants:

- ``_open`` holds the default store from before it is opened until after it was closed, so that a
  second one is refused at once.
- Its background works in the event loop that opened it, and so do circuit breakers and ``cached``
  functions. Scopes of other event loops use it, too, and are refused by the store, unless it is in
  memory: if they fell back to memory instead, their locks would exclude nobody.
- A process that is forked meanwhile finds the store of its parent (``_inherited``), which refuses
  it, until it has a default store of its own: memory instead would again exclude nobody.
- The background belongs to no task, so the block may be left in another task than entered it. At
  its end, work that is brief has a moment to finish; then everything is cancelled, and every
  capability settles, before the store is closed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TypeVar

import anyio

from gogoscope._core.background import Home, ProcessObserver, Service
from gogoscope._core.cancellation import finish
from gogoscope._core.detached import Detached
from gogoscope._core.event_loop import EventLoop, running
from gogoscope._core.forks import after_fork
from gogoscope._core.groups import run_all
from gogoscope.events import OnEvent
from gogoscope.exceptions import ConfigurationError
from gogoscope.persistence.bundle import Persistence
from gogoscope.persistence.protocols.store import Store

S = TypeVar("S", bound=Service)

BRIEF_SECONDS = 1.0
"""How long the end of the block waits for brief background work."""


class DefaultHome(ProcessObserver):
    """The :class:`~gogoscope._core.background.Home` of what is used outside of scopes."""

    __slots__ = ("_attached", "_bundle", "_detached", "_loop", "_process", "id", "on_event")

    def __init__(self, store: object) -> None:
        self.on_event: OnEvent | None = None
        self.id = 0
        self._bundle = Persistence.of(store)
        self._loop: EventLoop = running()
        self._process = os.getpid()
        self._attached: dict[type[Service], Service] = {}
        self._detached = Detached()

    def is_here(self) -> bool:
        """Return whether the event loop that opened the store runs the caller."""
        return self._process == os.getpid() and self._loop.is_here()

    def check_open(self) -> None:
        """Do nothing: it is open as long as it can be found."""

    def check_here(self) -> None:
        """Make sure that the event loop that opened the store runs the caller.

        :raises RuntimeError: in another thread or event loop
        """
        if not self.is_here():
            raise RuntimeError("the default store belongs to another event loop")

    def store(self) -> Persistence:
        """Return the open store."""
        return self._bundle

    def attach(self, kind: type[S], make: Callable[[Home], S]) -> S:
        """Return the only service of a kind, made when it is first used."""
        service = self._attached.get(kind)
        if not isinstance(service, kind):
            service = self._attached[kind] = make(self)
        return service

    def spawn(self, work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
        """Run something in the background.

        :param brief: whether the end of the block waits a moment for it to finish by itself
        :returns: ``False`` if nothing is run: in another event loop, or after the block
        """
        return self.is_here() and self._detached.start(work, brief)

    async def end(self) -> None:
        """Let the store know everything; bounded and shielded."""
        with anyio.CancelScope(shield=True):
            services = list(self._attached.values())
            bounds = [service.begin_end() for service in services]
            await self._detached.end(min([BRIEF_SECONDS, *bounds]))
            await run_all([service.settle for service in services])


class DefaultStore(AbstractAsyncContextManager[Store]):
    """Make a store the default one of this process for the length of a block.

    :param opening: opens and closes the store
    :param url: what it is called in messages
    """

    def __init__(self, opening: AbstractAsyncContextManager[Store], url: str) -> None:
        self._opening = opening
        self._url = url
        self._home: DefaultHome | None = None

    async def __aenter__(self) -> Store:
        _claim(self)
        try:
            store = await self._opening.__aenter__()
            try:
                self._home = DefaultHome(store)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._opening.__aexit__(None, None, None)
                raise
        except BaseException:
            _release(self)
            raise
        _tell()
        return store

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        home, self._home = self._home, None
        _tell()
        try:
            if home is not None:
                await finish(home.end, math.inf)  # it has bounds of its own
        finally:
            try:
                await self._opening.__aexit__(exc_type, exc, traceback)
            finally:
                _release(self)

    @property
    def home(self) -> DefaultHome | None:
        """What uses the store outside of scopes, while it is open."""
        return self._home

    def __repr__(self) -> str:
        return f"<the default store {self._url}>"


_open: list[DefaultStore] = []
_inherited: list[DefaultStore] = []
_changed: list[Callable[[], object]] = []


def default_home() -> DefaultHome | None:
    """Return the open default store of this process, whichever event loop opened it.

    In a forked process without one it is that of its parent, which refuses to be used.
    """
    stores = _open or _inherited
    return stores[0].home if stores else None


def default_home_here() -> DefaultHome | None:
    """Return the default store if the event loop that runs the caller opened it."""
    home = default_home()
    return home if home is not None and home.is_here() else None


def run_in_default(work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
    """Run something in the background of the default store, if there is one in this event loop."""
    home = default_home()
    return home is not None and home.spawn(work, brief=brief)


def on_change(call: Callable[[], object]) -> None:
    """Call a function whenever a default store begins or ends."""
    _changed.append(call)


def _claim(store: DefaultStore) -> None:
    _open.append(store)  # first, since another thread may do the same
    if (first := _open[0]) is not store or _open.count(store) > 1:
        _open.remove(store)
        raise ConfigurationError(
            f"this process has {first!r} already; open others without default=True"
        )
    _inherited.clear()


def _release(store: DefaultStore) -> None:
    if store in _open:  # in a forked process it is not
        _open.remove(store)


def _tell() -> None:
    for call in _changed:
        call()


def _inherit() -> None:
    if _open:
        _inherited[:] = _open
        _open.clear()


after_fork(_inherit)
