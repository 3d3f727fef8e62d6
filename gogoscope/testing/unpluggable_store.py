"""A store that a test unplugs, slows down and plugs in again."""

from __future__ import annotations

import functools
import inspect
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from gogoscope._core.durations import seconds
from gogoscope.exceptions import Effect, StoreConnectionError
from gogoscope.persistence import LockHandle, LockProvider, Persistence, acquire_once
from gogoscope.persistence.bundle import capabilities

if TYPE_CHECKING:
    # For type checkers it can do all that a store can; what it really can is what its store can.
    from gogoscope.persistence import RecordStore as _AnyStore
else:
    _AnyStore = object


class UnpluggableStore(_AnyStore):
    """Any store, with an outage whenever a test wants one.

    It is passed wherever a store is: ``scope(persistence=UnpluggableStore(MemoryStore()))``. It has
    the capabilities of the store that it stands for. What does not concern outages, it leaves to
    that one. ``requests`` counts the requests by the names of their methods, those that fail
    included: ``store.requests["claim_lock"]``.

    :param store: an open store
    :raises TypeError: if that is no store
    """

    def __init__(self, store: object) -> None:
        if isinstance(store, Persistence):
            raise TypeError("store must be one store, got a bundle; wrap each of its stores")
        Persistence.of(store)
        self.requests: Counter[str] = Counter()
        self._store = store
        self._plugged_in = True
        self._delay = 0.0
        for protocol in capabilities().values():
            for name in (name for name in dir(protocol) if not name.startswith("_")):
                if (request := getattr(store, name, None)) is not None:
                    vars(self)[name] = self._standing_for(getattr(protocol, name), request)
        if (ping := getattr(store, "ping", None)) is not None:
            vars(self)["ping"] = self._asking("ping", ping)
        if isinstance(store, LockProvider):
            vars(self)["acquire"] = self._acquire  # its handles renew and release here, too

    def __repr__(self) -> str:
        if not self._plugged_in:
            return f"<UnpluggableStore of {self._store!r}, unplugged>"
        slow = f", slowed down by {self._delay:g} s" if self._delay else ""
        return f"<UnpluggableStore of {self._store!r}{slow}>"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            return getattr(self._store, name)

    def unplug(self) -> None:
        """Fail every request with a ``StoreConnectionError`` from now on.

        So do the requests in flight; they may have been carried out all the same.
        """
        self._plugged_in = False

    def slow_down(self, delay: float | timedelta) -> None:
        """Let every request take that much longer: half of it before it is carried out.

        :param delay: in seconds; ``math.inf`` for a store that never answers
        :raises TypeError: if it is no duration
        :raises ValueError: if it is negative
        """
        self._delay = seconds("delay", delay, zero=True, infinite=True)

    def plug_in(self) -> None:
        """Let every request from now on work as usual, and as fast as usual."""
        self._plugged_in = True
        self._delay = 0.0

    async def __aenter__(self) -> Self:
        store: Any = self._store
        await store.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        store: Any = self._store
        await store.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Close the store."""
        store: Any = self._store
        await store.aclose()

    async def _acquire(
        self, key: str, ttl: float | timedelta, owner: str | None = None
    ) -> LockHandle | None:
        return await acquire_once(self, key, ttl, owner)

    def _standing_for(self, declared: Any, request: Callable[..., Any]) -> Callable[..., Any]:
        """Return what takes the place of a request, or the method itself if it makes none."""
        if inspect.iscoroutinefunction(declared):
            return self._asking(declared.__name__, request)
        if str(declared.__annotations__["return"]).startswith("AsyncIterator"):
            return self._paging(declared.__name__, request)
        return request

    def _asking(self, name: str, request: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(request)
        async def ask(*args: Any, **kwargs: Any) -> Any:
            self.requests[name] += 1
            delay = self._delay / 2
            await self._wait(delay, asked=False)
            answer = await request(*args, **kwargs)
            await self._wait(delay, asked=True)
            return answer

        return ask

    def _paging(self, name: str, request: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(request)
        async def page(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            self.requests[name] += 1
            await self._wait(self._delay, asked=False)
            async for item in request(*args, **kwargs):
                self._check(asked=True)
                yield item

        return page

    async def _wait(self, delay: float, *, asked: bool) -> None:
        self._check(asked=asked)
        if delay == math.inf:
            await anyio.sleep_forever()
        elif delay:
            await anyio.sleep(delay)
            self._check(asked=asked)

    def _check(self, *, asked: bool) -> None:
        if not self._plugged_in:
            error = StoreConnectionError("the store is unplugged")
            error.effect = Effect.MAYBE_APPLIED if asked else Effect.NOT_SENT
            raise error
