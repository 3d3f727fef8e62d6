"""What one event loop keeps for a store: queues of locks, snapshots of circuits, outages.

It is found by the identity of the store, never by its equality: two stores may be equal and still
be two, and a store need not have a hash.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio.lowlevel import RunVar

T = TypeVar("T")


class PerStore(Generic[T]):
    """One value for each store and event loop, made when it is first asked for.

    It lives as long as the store. Where no weak reference to the store can be made, the store is
    kept for as long as the event loop, lest another object be given its identity.

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
