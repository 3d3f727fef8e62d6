"""Half-open probes: claimed in the background, and waited for only so long.

A call to a half-open circuit needs a probe, of which the fleet has only a few at a time. The store
grants them, which may take longer than a call may be delayed. So the claim runs in the background,
and the call waits for it:

- half a second on a quiet circuit, where a probe is worth the wait;
- 4 ms on a busy one. If the answer comes later, the call is rejected, like those a moment before
  it, and the probe is kept for the next call, which will come within a moment.

Invariants:

- A probe that was granted is used by one call, or kept, or returned; never lost. A claim whose
  call waits no longer says which of them by :attr:`ProbeClaim.then`.
- What is kept has a second more of its lease than a call needs, and is kept for a second only.
  After a probe that was kept in vain, the next call waits for its own.
- A claim that is not begun holds nothing: where the background is ended first, nothing is asked.
- A store that is known to fail is not asked: the process grants itself probes by what it knows.
"""

from __future__ import annotations

import functools
import math
import os
from collections import deque
from typing import Literal

import anyio
from attrs import define, field

from gogoscope._core.clock import monotonic
from gogoscope.circuit_breakers.snapshot import Generation
from gogoscope.circuit_breakers.sync import CircuitSync, now_ms
from gogoscope.persistence.protocols.circuit_breakers import ProbeReply

CLAIM_SECONDS = 0.5
"""How long a call waits for a probe of a quiet circuit, and a claim for its answer."""
BUSY_SECONDS = 0.1
"""A circuit that rejected a call less than so many seconds ago is busy."""
BUSY_PATIENCE = 0.004
"""How many seconds a call waits for a probe of a busy circuit."""
KEPT_SECONDS = 1.0
"""For how many seconds a probe is kept."""


@define(eq=False)
class ProbeClaim:
    """A probe that is asked for.

    ``lease`` are the seconds for which a call needs it, ``lease_ms`` the milliseconds for which it
    is claimed. ``until`` is the time of the event loop at which it is too old to be kept.
    ``begun`` tells that the background has begun to ask, and ``reply`` what came of it, whereupon
    ``answered`` is fired. ``then`` says what becomes of a probe that is granted. ``generation`` is
    that of the circuit since the probe is kept.
    """

    nonce: str
    lease: float
    lease_ms: int
    until: float
    begun: bool = False
    reply: ProbeReply | None = None
    answered: anyio.Event = field(factory=anyio.Event)
    then: Literal["use", "keep", "return"] = "use"
    generation: Generation | None = None


@define(eq=False)
class ProbeClaims:
    """The probes of a circuit that one process asks for; shared by the scopes of an event loop.

    ``in_flight`` are the claims without an answer so far, ``kept`` the probes that wait for a call,
    the oldest first. The last kept in vain was ``wasted``, and no call waited for one since. The
    last call was rejected at ``rejected_ms``, by the wall clock.
    """

    in_flight: set[ProbeClaim] = field(factory=set)
    kept: deque[ProbeClaim] = field(factory=deque)
    wasted: bool = False
    rejected_ms: int = 0


class Probes:
    """Gets the half-open probes of one circuit, and returns those that no call uses.

    :param sync: what ties the circuit to its store
    :param claims: what is shared with the other scopes
    """

    __slots__ = ("_claims", "_sync")

    def __init__(self, sync: CircuitSync, claims: ProbeClaims) -> None:
        self._sync = sync
        self._claims = claims

    @property
    def in_flight(self) -> int:
        """How many probes are asked for by now."""
        return len(self._claims.in_flight)

    def note_rejected(self) -> None:
        """Note that a call is rejected: the circuit is busy for a moment."""
        self._claims.rejected_ms = now_ms()

    def take_kept(self, lease: float) -> ProbeClaim | None:
        """Return a probe that is kept, if one is still good.

        :param lease: for how many seconds the call needs it
        """
        kept = self._claims.kept
        while kept:
            claim = kept.popleft()
            good = monotonic() < claim.until and self._is_known(claim)
            if good and claim.lease >= lease:
                return claim
            self._waste(claim)
        return None

    def return_kept(self) -> None:
        """Return the probes that no call has taken."""
        kept = self._claims.kept
        while kept:
            self._waste(kept.popleft())

    async def claim(self, lease: float) -> ProbeClaim:
        """Ask for a probe, and wait for it as long as a call may; then the claim has no reply.

        A cancellation returns the probe.

        :param lease: for how many seconds the call needs it
        """
        sync = self._sync
        busy = self._is_busy()
        # The time for which it may be kept must not be missing in the end.
        lease_ms = math.ceil((lease + KEPT_SECONDS if busy else lease) * 1000)
        claim = ProbeClaim(os.urandom(8).hex(), lease, lease_ms, monotonic() + KEPT_SECONDS)
        if sync.store_is_slow():
            claim.reply = sync.claim_locally(claim.nonce, lease_ms, local=True)
            return claim
        self._claims.in_flight.add(claim)
        if not sync.spawn(functools.partial(self._ask, claim)):
            await self._ask(claim)
        if claim.reply is not None:
            return claim
        try:
            with anyio.move_on_after(BUSY_PATIENCE if busy else CLAIM_SECONDS):
                await claim.answered.wait()
        except BaseException:
            self._leave(claim, "return")
            raise
        if claim.reply is None:
            self._leave(claim, "keep" if busy else "return")
        return claim

    def _is_busy(self) -> bool:
        """Return whether the next call will be here so soon that it can have the probe."""
        claims = self._claims
        wasted, claims.wasted = claims.wasted, False
        return not wasted and now_ms() - claims.rejected_ms <= BUSY_SECONDS * 1000

    def _leave(self, claim: ProbeClaim, then: Literal["keep", "return"]) -> None:
        """Wait no longer, and say what becomes of a probe that is granted."""
        claim.then = then
        if not claim.begun:  # and it never may, where asyncio itself cancels tasks
            self._claims.in_flight.discard(claim)
        elif claim.reply is not None and claim.reply.granted:
            self._return(claim)

    async def _ask(self, claim: ProbeClaim) -> None:
        claims = self._claims
        if claim not in claims.in_flight:
            return
        claim.begun = True
        reply = self._sync.refusal()
        try:
            reply = await self._answer(claim)
            if reply.granted and claim.then == "keep":
                self._keep(claim)
            elif reply.granted and claim.then == "return":
                self._return(claim)
        except BaseException:
            claims.wasted = claims.wasted or claim.then == "keep"
            self._return(claim)
            raise
        finally:
            claims.in_flight.discard(claim)
            claim.reply = reply
            claim.answered.set()

    async def _answer(self, claim: ProbeClaim) -> ProbeReply:
        sync = self._sync
        if sync.snapshot.verdicts:  # a probe that is returned may be the one that is asked for
            await sync.flush()
        if not sync.contact.failed:
            reply = await sync.ask_for_probe(claim.nonce, claim.lease_ms, CLAIM_SECONDS)
            if reply is not None:
                return reply
        reply = sync.refusal()
        if claim.then == "use":
            reply = sync.claim_locally(claim.nonce, claim.lease_ms, local=False)
        if not reply.granted:  # though the store may have granted it
            self._return(claim)
        return reply

    def _keep(self, claim: ProbeClaim) -> None:
        """Keep a probe for the next call, but no longer than it is good for one."""
        claim.generation = self._sync.snapshot.permit.generation
        self._claims.kept.append(claim)
        self._sync.spawn(functools.partial(self._keep_until_old, claim), brief=False)

    async def _keep_until_old(self, claim: ProbeClaim) -> None:
        await anyio.sleep_until(claim.until)
        kept = self._claims.kept
        if claim in kept:
            kept.remove(claim)
            self._waste(claim)

    def _is_known(self, claim: ProbeClaim) -> bool:
        return claim.nonce in self._sync.snapshot.state.probes

    def _waste(self, claim: ProbeClaim) -> None:
        """Return a probe that was kept in vain: the next call is to wait for its own.

        If the circuit changed meanwhile, that has ended the probe, and nothing is to be returned.
        """
        if self._is_known(claim) or claim.generation is self._sync.snapshot.permit.generation:
            self._claims.wasted = True
            self._return(claim)

    def _return(self, claim: ProbeClaim) -> None:
        self._sync.note_verdict(claim.nonce, succeeded=None)
