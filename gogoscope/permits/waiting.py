"""One task that waits for a permit, and what it wants."""

from __future__ import annotations

import os
from collections.abc import Mapping

import anyio
from attrs import frozen

from gogoscope._core.background import Spawn
from gogoscope._core.clock import monotonic
from gogoscope.permits.leases import PermitLeases
from gogoscope.permits.wish import Wish
from gogoscope.persistence.lock_claims import new_claim
from gogoscope.persistence.lock_handle import LockHandle, Releaser
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.protocols.permits import PermitProvider


@frozen(eq=False)
class Wanted:
    """What is asked for: a permit, and what to tell people about its holder.

    ``spawn`` runs in the background what is left to do when the wait has ended. ``releaser`` is
    what the handle asks to free the permit.
    """

    wish: Wish
    metadata: Mapping[str, str]
    spawn: Spawn
    releaser: Releaser


class Waiter:
    """One task that waits."""

    # woken: set when the waiter shall look again; it makes a new one before each look.
    # asking: whether a claim of it is in flight.
    # promised: whether a handover to it is in flight.
    # reserved: whether the store may know of its turn.
    # gone: whether it has stopped waiting.
    # handle: the permit, once it has it.
    __slots__ = (
        "arrived",
        "asking",
        "gone",
        "handle",
        "leases",
        "promised",
        "reserved",
        "turn",
        "wanted",
        "woken",
    )

    def __init__(self, provider: PermitProvider, wanted: Wanted) -> None:
        self.wanted = wanted
        self.leases = PermitLeases(provider, wanted.wish)
        self.arrived = monotonic()
        self.turn = os.urandom(8).hex()
        self.woken = anyio.Event()
        self.asking = False
        self.promised = False
        self.reserved = False
        self.gone = False
        self.handle: LockHandle | None = None

    def new_claim(self) -> LockClaim:
        """Return a claim that was never sent."""
        wanted = self.wanted
        return new_claim(wanted.wish.lease, metadata=wanted.metadata, turn=self.turn)
