"""What one process knows of a circuit, and has not told the store yet."""

from __future__ import annotations

import math
import os
from collections import deque
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import RunVar
from attrs import define, field, frozen

from gogoscope.persistence.protocols import CircuitBreakerState, CircuitBreakerStateProvider


@frozen(eq=False)
class Permit:
    """That a call may go through; ``probe`` is the nonce of a half-open probe."""

    probe: str | None = None


@define(eq=False)
class Snapshot:
    """What one process knows of a circuit, shared by all scopes of one event loop.

    ``state`` is the circuit by this process's best knowledge, ``stored`` as the store last showed
    it. ``permit`` is replaced whenever the state changes, so that a call which began before the
    change is known by its permit. ``unsent``, ``succeeded_ms`` and ``verdicts`` wait to be sent.
    """

    state: CircuitBreakerState = field(factory=CircuitBreakerState)
    stored: CircuitBreakerState = field(factory=CircuitBreakerState)
    permit: Permit = field(factory=Permit)
    reporter: str = field(factory=lambda: os.urandom(6).hex())
    unsent: int = 0
    succeeded_ms: int | None = None
    verdicts: deque[tuple[str, bool | None, int]] = field(factory=deque)
    asked_at: float = -math.inf
    first_read: anyio.Event | None = None
    sending: anyio.Event | None = None
    claims: int = 0
    store_failed: bool = False

    @property
    def dirty(self) -> bool:
        """Whether the store has not been told everything."""
        return bool(self.unsent or self.succeeded_ms is not None or self.verdicts)


_snapshots: RunVar[WeakKeyDictionary[object, dict[str, Snapshot]]] = RunVar("gogoscope.snapshots")


def snapshot_of(store: CircuitBreakerStateProvider, name: str) -> Snapshot:
    """Give what the current event loop knows of a circuit; it lives as long as the store."""
    snapshots = _snapshots.get(None)
    if snapshots is None:
        _snapshots.set(snapshots := WeakKeyDictionary())
    return snapshots.setdefault(store, {}).setdefault(name, Snapshot())
