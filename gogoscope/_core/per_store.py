"""State of one event loop and one store: lock queues, snapshots of circuits, outages.

The store is identified by its identity, never by equality: two stores may be equal and still be
different, and a store need not be hashable.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio.lowlevel import RunVar

T = TypeVar("T")


class PerStore(Generic[T]):
    """One value for each store and event loop, made when it is first used.

    It lives as long as the store. If the store allows no weak reference, the store is kept as long
    as the event loop runs, so that no other object gets its identity.

    :param name: names the variable of the event loop
    :param make: returns the first value for a store
    """

    def __init__(self, name: str, make: Callable[[], T]) -> None:
        self._make = make
        self._known: RunVar[dict[int, tuple[object, T]]] = RunVar(f"gogoscope.{name}")

    def of(self, store: object) -> T:
        """Return the value of a store in the running event loop."""
        known = self._known.get(None)
        if known is None:
            self._known.set(known := {})
        identity = id(store)
        found = known.get(identity)
        if found is None:
            found = known[identity] = (_kept(store, known, identity), self._make())
        return found[1]

    def all(self) -> list[T]:
        """Return the values of all stores in the running event loop."""
        return [value for _, value in (self._known.get(None) or {}).values()]


def _kept(store: object, known: dict[int, tuple[object, T]], identity: int) -> object:
    try:
        return weakref.ref(store, lambda _: known.pop(identity, None))
    except TypeError:
        return store
