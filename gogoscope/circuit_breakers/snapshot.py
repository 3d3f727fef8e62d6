"""What one process knows of a circuit, and has not told the store yet."""

from __future__ import annotations

import math
import os
from collections import OrderedDict, deque
from typing import Literal
from weakref import WeakValueDictionary

import anyio
from attrs import define, field, frozen

from gogoscope._core.per_store import PerStore
from gogoscope.circuit_breakers.rates import RateWindow
from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    ProbeReply,
)

REMEMBERED = 1024


class Era:
    """The time between two changes of a circuit's state, known by its identity."""

    __slots__ = ()


@frozen(eq=False)
class Permit:
    """That a call may go through.

    ``era`` is when it was let through, ``began`` the time of the event loop if it matters,
    ``probe`` the nonce of a half-open probe.
    """

    era: Era
    began: float = 0.0
    probe: str | None = None


@define(eq=False)
class ProbeClaim:
    """A place of a half-open probe that is asked for, needed for ``lease`` seconds.

    ``reply`` is what came of it. ``then`` says what becomes of a place that is granted: it is for
    the caller to use, or, if that waits no more, to keep for the next call ``until`` a time of the
    event loop, or to give back.
    """

    nonce: str
    lease: float
    lease_ms: int
    until: float
    reply: ProbeReply | None = None
    answered: anyio.Event = field(factory=anyio.Event)
    then: Literal["use", "keep", "give back"] = "use"
    begun: bool = False


def _first_permit() -> Permit:
    return Permit(Era())


@define(eq=False)
class Snapshot:
    """What one process knows of a circuit, shared by all scopes of one event loop.

    ``state`` is the circuit by this process's best knowledge, ``stored`` as the store last showed
    it. ``permit`` is what a call through the closed circuit gets; it is replaced whenever the state
    changes, so that a call which began before the change is known by its era. ``calm`` says that
    the circuit is closed and counts no failure. The store was asked at ``asked_at`` and is to be
    asked again at ``ask_at``, both by the wall clock. ``unsent``, ``succeeded_ms`` and ``verdicts``
    wait to be sent; of ``local_probes`` the store never heard. ``claims`` are under way.
    ``kept`` are places of probes that were granted when no call waited for them any more, and
    ``wasted`` tells that no call took one; the last rejection was at ``rejected_ms``.
    """

    state: CircuitBreakerState = field(factory=CircuitBreakerState)
    stored: CircuitBreakerState = field(factory=CircuitBreakerState)
    permit: Permit = field(factory=_first_permit)
    calm: bool = True
    rates: RateWindow | None = None
    reporter: str = field(factory=lambda: os.urandom(6).hex())
    unsent: int = 0
    succeeded_ms: int | None = None
    verdicts: deque[tuple[str, bool | None, int]] = field(factory=deque)
    asked_at: float = math.inf
    ask_at: float = -math.inf
    first_read: anyio.Event | None = None
    sending: anyio.Event | None = None
    waiting_since: float = math.inf
    refreshing: bool = False
    claims: set[ProbeClaim] = field(factory=set)
    kept: deque[ProbeClaim] = field(factory=deque)
    wasted: bool = False
    rejected_ms: int = 0
    local_probes: set[str] = field(factory=set)
    store_failed: bool = False

    @property
    def asked(self) -> bool:
        """Whether the store was asked at all."""
        return self.asked_at != math.inf

    @property
    def dirty(self) -> bool:
        """Whether the store has not been told everything."""
        return bool(self.unsent or self.succeeded_ms is not None or self.verdicts)


class _Snapshots:
    """The snapshots of the circuits of one store: those in use, and those that were used last.

    Scopes that are gone in a moment find what earlier ones knew, and names that come only once are
    not kept for ever.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Snapshot] = WeakValueDictionary()
        self._last: OrderedDict[str, Snapshot] = OrderedDict()

    def of(self, name: str) -> Snapshot:
        snapshot = self._known.get(name)
        if snapshot is None:
            self._known[name] = snapshot = Snapshot()
        self._last[name] = snapshot
        self._last.move_to_end(name)
        if len(self._last) > REMEMBERED:
            self._last.popitem(last=False)
        return snapshot


_snapshots = PerStore("snapshots", _Snapshots)


def snapshot_of(store: CircuitBreakerStateProvider, name: str) -> Snapshot:
    """Return what the current event loop knows of a circuit.

    It lasts while anybody uses it, and until 1,024 others were used since, or the store is gone.
    """
    return _snapshots.of(store).of(name)
