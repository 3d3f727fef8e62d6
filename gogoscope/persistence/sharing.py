"""Stores that are opened by URL: one for each URL and event loop, as long as anybody uses it.

So a scope that names a URL shares the store that ``open_persistence`` holds open.

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

from gogoscope.persistence.default import DefaultStore
from gogoscope.persistence.life import is_closed
from gogoscope.persistence.protocols.store import Store
from gogoscope.persistence.registry import load_opener
from gogoscope.persistence.url import PersistenceURL, redacted


@define(eq=False)
class _Shared:
    """An open store, or one that is being opened."""

    guard: anyio.Lock = field(factory=anyio.Lock)
    opener: AbstractAsyncContextManager[Store] | None = None
    store: Store | None = None
    users: int = 0


_stores: RunVar[dict[str, _Shared]] = RunVar("gogoscope.persistence.shared")


class SharedStore(AbstractAsyncContextManager[Store]):
    """Use the store of a URL for the length of a block, together with all who use the same URL.

    :param url: the URL, compared letter by letter
    """

    # _entered: what it has entered, the last one at the end, each with the stores of its event
    #   loop. The block may be left in another one, when that has ended.

    def __init__(self, url: str) -> None:
        self._url = url
        self._entered: list[tuple[dict[str, _Shared], _Shared]] = []

    async def __aenter__(self) -> Any:
        stores = _stores.get(None)
        if stores is None:
            _stores.set(stores := {})
        shared = stores.get(self._url)
        if shared is None or is_closed(shared.store):
            shared = stores[self._url] = _Shared()
        shared.users += 1
        try:
            async with shared.guard:
                if shared.opener is None:
                    url = PersistenceURL.parse(self._url)
                    opener = (await load_opener(url))(url)
                    shared.store = await opener.__aenter__()
                    shared.opener = opener
        except BaseException:
            # It may be open, if the user that opened it left while this one waited for the guard.
            with anyio.CancelScope(shield=True):
                await self._leave(stores, shared)
            raise
        self._entered.append((stores, shared))
        return shared.store

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._leave(*self._entered.pop())

    async def _leave(self, stores: dict[str, _Shared], shared: _Shared) -> None:
        shared.users -= 1
        if shared.users:
            return
        if stores.get(self._url) is shared:
            del stores[self._url]
        if shared.opener is not None:
            await shared.opener.__aexit__(None, None, None)


def open_persistence(url: str, *, default: bool = False) -> AbstractAsyncContextManager[Store]:
    """Open the store of a URL for the length of a block; one for the life of a program is enough.

    Scopes that name the same URL in the same event loop share it. Without ``async with``, call the
    ``aclose()`` of the store that ``await open_persistence(url).__aenter__()`` returns.

    :param url: ``memory:``, ``memory://name``, ``sqlite:///relative.db``,
        ``sqlite:////absolute.db``, ``dynamodb://table?region=...``, or another installed scheme;
        every backend takes the option ``key_prefix``
    :param default: whether the store is the default one of this process while the block is open:
        scopes without ``persistence`` use it, and so do circuit breakers and ``cached`` functions
        outside of scopes, for which it also runs what goes on in the background
    :returns: an async context manager of the open store. For type checkers it has all
        capabilities; a backend may lack one, which its documentation says.
    :raises InvalidURLError: if the URL or an option is malformed or unknown
    :raises ConfigurationError: on entry, if the process has another default store already
    :raises UnknownBackendError: if no installed backend has the scheme
    :raises BackendUnavailableError: if a package that the backend needs is not installed
    """
    if not isinstance(url, str):
        shown = redacted(repr(url))
        raise TypeError(f"url must be a str, got {shown} of type {type(url).__name__}")
    if not isinstance(default, bool):
        raise TypeError(f"default must be True or False, got {default!r}")
    shared = SharedStore(url)
    return DefaultStore(shared, redacted(repr(url))) if default else shared
