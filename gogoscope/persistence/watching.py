"""Being told by a store that what one waits for may be there: a hint, on which nobody relies.

Whoever waits for a lease asks the store again and again, after pauses that grow. A store that can
tell of a change lets it ask at once. Hints may come late, more than once, or never: then the pauses
are as long as they are without them, and that is all that it costs.

What is told is not every change, but one after which it makes sense to look: a lease that was
released, a run that has ended (``awaited`` of the kind of record). Renewals and handovers wake
nobody.

A server tells through an :class:`Ear`, a connection of its own on which it speaks unasked. A
:class:`Listener` opens one when the first one waits, and closes it when nobody has waited for
``LINGER_SECONDS``. Invariants:

- Neither :meth:`Listener.add` nor what stops it makes a request: who waits never waits for that,
  and a wait that is cancelled leaves nothing behind but a name, for ``LINGER_SECONDS``.
- There is one task and one connection for each store, however many wait.
- Whatever fails, those who wait are not told.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from typing import Protocol, runtime_checkable

import anyio

from gogoscope._core.clock import monotonic
from gogoscope._core.detached import Detached
from gogoscope._core.jitter import jittered

LINGER_SECONDS = 10.0
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0

Changed = Callable[[], object]
"""Is called, in the event loop of whoever waits, when it makes sense to look; raises nothing."""
Stop = Callable[[], object]
"""Ends that; raises nothing."""


def never_told() -> None:
    """Do nothing: what ends the wait for hints that never come."""


@runtime_checkable
class _Tells(Protocol):
    def _watch(self, kind: str, key: str, changed: Changed) -> Stop: ...


def watch(store: object, kind: str, key: str, changed: Changed) -> Stop:
    """Call ``changed`` when it makes sense to look at a record of a store, if the store tells.

    :param kind: the name of the record's kind
    :param key: its key, without the prefix of the store
    :returns: what ends it
    """
    return store._watch(kind, key, changed) if isinstance(store, _Tells) else never_told


class Watchers:
    """Who is to be told of what, by name."""

    def __init__(self) -> None:
        self._calls: dict[str, list[Changed]] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, name: str, changed: Changed) -> Stop:
        """Tell somebody, too, until the function that this returns is called; once is enough."""
        calls = self._calls.setdefault(name, [])
        calls.append(changed)

        def stop() -> None:
            if changed in calls:
                calls.remove(changed)
            if not calls and self._calls.get(name) is calls:
                del self._calls[name]

        return stop

    def tell(self, name: str) -> None:
        """Tell all who watch a name."""
        for changed in tuple(self._calls.get(name, ())):
            changed()


class Ear(Protocol):
    """A connection on which a server tells of changes."""

    async def add(self, names: Iterable[str]) -> None:
        """Have it tell of these names, too."""
        ...

    async def drop(self, names: Iterable[str]) -> None:
        """Have it no longer tell of these names."""
        ...

    async def hear(self) -> Iterable[str]:
        """Wait until it tells of something; return the names. It may be cancelled."""
        ...

    async def close(self) -> None:
        """Close it, without waiting for the server."""
        ...


class Listener(Watchers):
    """Those who wait for what one server tells.

    :param open_ear: connects; returns ``None`` if the server cannot tell of anything
    """

    # _heard: the names of which the server tells.
    # _hearing: cancelling it lets the task look for new names.
    # _running: whether the task runs.
    # _deaf: whether the server cannot tell of anything.

    def __init__(self, open_ear: Callable[[], Awaitable[Ear | None]]) -> None:
        super().__init__()
        self._open_ear = open_ear
        self._background = Detached()
        self._heard: set[str] = set()
        self._hearing: anyio.CancelScope | None = None
        self._running = self._deaf = False

    def add(self, name: str, changed: Changed) -> Stop:
        """Tell somebody, too; the connection is made in the background, if there is none."""
        stop = super().add(name, changed)
        if not self._running and not self._deaf:
            # In a context of its own: that of whoever waits would be kept with its scopes.
            self._running = Context().run(self._background.start, self._run, False)
        elif name not in self._heard and self._hearing is not None:
            self._hearing.cancel()
        return stop

    async def close(self, *, orphaned: bool = False) -> None:
        """Close the connection; whoever still waits is not told of anything until it comes again.

        It is shielded, and takes no longer than to cancel what waits for the server.

        :param orphaned: whether the event loop of the connection has ended, and the task with it
        """
        background, self._background = self._background, Detached()
        if not orphaned:
            with anyio.CancelScope(shield=True):
                await background.end(0)
        self._running = self._deaf = False
        self._heard = set()

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while self:
                try:
                    ear = await self._open_ear()
                    if ear is None:
                        self._deaf = True
                        return
                    try:
                        await self._listen(ear)
                    finally:
                        await ear.close()
                except Exception:  # noqa: BLE001 - nobody relies on it, and requests fail by themselves
                    await anyio.sleep(jittered(pause))
                    pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            self._running, self._heard = False, set()

    async def _listen(self, ear: Ear) -> None:
        """Tell of what is heard until nobody has waited for a while."""
        self._heard = heard = set[str]()
        tidy_at = monotonic() + LINGER_SECONDS
        while True:
            if new := self._calls.keys() - heard:
                await ear.add(new)
                heard |= new
                continue
            with anyio.move_on_after(tidy_at - monotonic()) as self._hearing:
                for name in await ear.hear():
                    self.tell(name)
            self._hearing = None
            if monotonic() >= tidy_at:
                tidy_at = monotonic() + LINGER_SECONDS
                if gone := heard - self._calls.keys():
                    await ear.drop(gone)
                    heard -= gone
                elif not heard:
                    return
