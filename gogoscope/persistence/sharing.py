"""Stores that scopes open by URL: one for each URL and event loop, as long as any scope uses it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import anyio
from anyio.lowlevel import RunVar
from attrs import define, field

from gogoscope.persistence.registry import open_persistence


@define(eq=False)
class _Shared:
    """An open store, or one that is being opened, and how many use it."""

    guard: anyio.Lock = field(factory=anyio.Lock)
    opener: AbstractAsyncContextManager[Any] | None = None
    store: Any = None
    users: int = 0


_stores: RunVar[dict[str, _Shared]] = RunVar("gogoscope.persistence.shared")


class SharedStore:
    """Use the store of a URL for the length of a block, together with whoever names the same URL.

    The last user closes it, which may be another task than the one that opened it: no task that
    outlives all of them is there to do both. What a backend registers has to allow for that.
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
            # It may be open: whoever opened it may have left while this one waited for its turn.
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
        # Whoever comes from now on opens another one.
        del stores[self._url]
        if shared.opener is not None:
            await shared.opener.__aexit__(None, None, None)
