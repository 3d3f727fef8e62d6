"""From a URL to an open store, through entry points.

A backend registers, under the scheme of its URLs, a function that opens a store. Only the backend
that a URL names is imported, so that a program pays for no other. To import one, and to look for
it, takes so long that an event loop leaves it to a worker thread.

Mutable state: ``_imported`` are the schemes whose backends this process has imported.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.metadata import EntryPoints, entry_points
from typing import Any

import anyio
import anyio.to_thread

from gogoscope._core.clock import current_clock
from gogoscope.exceptions import (
    AmbiguousBackendError,
    BackendUnavailableError,
    UnknownBackendError,
)
from gogoscope.persistence.url import PersistenceURL

ENTRY_POINT_GROUP = "gogoscope.persistence"

Opener = Callable[[PersistenceURL], AbstractAsyncContextManager[Any]]
"""What a backend registers: it returns an async context manager of the store of a URL.

Scopes share the store, and the last one to end closes it. So the context manager may be left in
another task of the event loop than it was entered in, and must hold nothing that belongs to a task:
no task group, cancel scope or timeout around its ``yield``, and no context variable to be reset.
"""


def find_opener(url: PersistenceURL) -> Opener:
    """Load the backend that is registered for a URL's scheme, and no other.

    :raises UnknownBackendError: if none is; the message lists those that are
    :raises AmbiguousBackendError: if two distributions register it with different values
    :raises BackendUnavailableError: if the backend cannot be imported
    """
    installed = _installed(entry_points, tuple(sys.path))
    matching = {point.value: point for point in installed if point.name == url.scheme}
    if not matching:
        listing = ", ".join(sorted({point.name for point in installed})) or "none"
        raise UnknownBackendError(
            f"no backend is registered for the scheme {url.scheme!r} of {str(url)!r}; "
            f"installed are: {listing}"
        )
    if len(matching) > 1:
        claims = " and ".join(
            f"{point.dist.name if point.dist else 'an unnamed distribution'} ({value})"
            for value, point in sorted(matching.items())
        )
        raise AmbiguousBackendError(f"the scheme {url.scheme!r} is registered by {claims}")
    (point,) = matching.values()
    try:
        opener: Opener = point.load()
    except ImportError as error:
        raise BackendUnavailableError(
            f"the backend {point.value!r} of scheme {url.scheme!r} cannot be imported: {error}"
        ) from error
    _imported.add(url.scheme)
    return opener


async def load_opener(url: PersistenceURL) -> Opener:
    """Do what :func:`find_opener` does, and leave the event loop its time meanwhile.

    In virtual time nobody waits for that, and time must not pass while a thread works.
    """
    if url.scheme in _imported or current_clock.simulated:  # type: ignore[attr-defined]
        return find_opener(url)
    alone = anyio.CapacityLimiter(1)  # others may hold all threads until the store is open
    find = partial(find_opener, url)
    return await anyio.to_thread.run_sync(find, abandon_on_cancel=True, limiter=alone)


_imported: set[str] = set()


@functools.lru_cache(maxsize=4)
def _installed(find: Callable[..., EntryPoints], path: tuple[str, ...]) -> EntryPoints:
    # It reads a file of every distribution on the path, which takes milliseconds.
    return find(group=ENTRY_POINT_GROUP)
