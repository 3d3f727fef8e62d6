"""Stores that scopes open by URL: one for each URL and event loop, as long as any scope uses it.

The first user opens the store, later ones join it, and the last one closes it. Invariants:

- A store is in ``_stores`` from before it is opened until its last user has left. Whoever comes
  after that opens another one, even while the old one is still closing.
- ``users`` counts everybody who has entered, those included who still wait for it to open. So a
  user that is cancelled while it opens the store leaves it to the others, who open it anew.
- ``guard`` lets one user at a time open it. ``opener`` is set once the store is open.

The last user may be another task than the one that opened the store, since no task outlives all of
them. What a backend registers has to allow for that.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import anyio
from anyio.lowlevel import RunVar
from attrs import define, field

from gogoscope.persistence.protocols.store import Store
from gogoscope.persistence.registry import open_persistence


@define(eq=False)
class _Shared:
    """An open store, or one that is being opened."""

    guard: anyio.Lock = field(factory=anyio.Lock)
    opener: AbstractAsyncContextManager[Store] | None = None
    store: Store | None = None
    users: int = 0


_stores: RunVar[dict[str, _Shared]] = RunVar("gogoscope.persistence.shared")


class SharedStore:
    """Use the store of a URL for the length of a block, together with all who use the same URL.

    :param url: the URL, compared letter by letter
    """

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> Any:
        stores = _stores.get(None)
        if stores is None:
            _stores.set(stores := {})
        shared = stores.get(self._url)
        if shared is None:
            shared = stores[self._url] = _Shared()
        shared.users += 1
        try:
            async with shared.guard:
                if shared.opener is None:
                    opener = open_persistence(self._url)
                    shared.store = await opener.__aenter__()
                    shared.opener = opener
        except BaseException:
            # It may be open, if the user that opened it left while this one waited for the guard.
            with anyio.CancelScope(shield=True):
                await self._leave(stores, shared)
            raise
        self._shared = shared
        return shared.store

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(_stores.get(), self._shared)

    async def _leave(self, stores: dict[str, _Shared], shared: _Shared) -> None:
        shared.users -= 1
        if shared.users:
            return
        del stores[self._url]
        if shared.opener is not None:
            await shared.opener.__aexit__(None, None, None)
