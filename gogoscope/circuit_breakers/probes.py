"""Half-open probes: claimed in the background, while the call waits only a short time.

A call through a half-open circuit must be a probe. The fleet runs only a few at a time, and the
store grants them, which may take longer than a call may be delayed. So the claim runs in the
background, and the call waits for it:

- half a second if the circuit is quiet: a call now and then can wait for its probe;
- 4 ms if the circuit is busy. If the answer comes later than that, the call is rejected, as the
  calls just before it were. The probe is kept for the next call, which will come in a moment.

Invariants:

- A granted probe is used by one call, or kept, or returned; it is never lost. When the call of a
  claim stops waiting, it says in ``ProbeClaim.then`` what happens to a probe that comes later.
- A probe is kept for one second, and its lease is one second longer than a call needs. If no call
  uses it, it is returned, and the next call is treated as on a quiet circuit.
- A claim that has not begun holds nothing. If the background ends before that, no probe is lost.
- A store that is known to fail is not asked. The process then grants itself probes by what it
  knows of the circuit.
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
    """A claim for a probe.

    ``lease`` is how many seconds a call needs the probe, and ``lease_ms`` for how many milliseconds
    it is claimed. At ``until``, by the event loop's clock, it is too old to be kept. ``begun`` is
    true once the background has begun to ask; at the end it sets ``reply``, and ``answered``.
    ``then`` says what happens to the probe if it is granted. ``generation`` is the circuit's
    generation when the probe was kept.
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
    """The claims of one process for the probes of a circuit; shared by the scopes of an event loop.

    ``in_flight`` are the claims without an answer yet, and ``kept`` the probes that are kept for
    the next calls, the oldest first. ``wasted`` is true if a kept probe was not used, until the
    next call claims one. The last call was rejected at ``rejected_ms``, by the wall clock.
    """

    in_flight: set[ProbeClaim] = field(factory=set)
    kept: deque[ProbeClaim] = field(factory=deque)
    wasted: bool = False
    rejected_ms: int = 0


class Probes:
    """Claims the half-open probes of a circuit, and returns those that no call uses.

    :param sync: the circuit's snapshot and store
    :param claims: shared with the other scopes
    """

    __slots__ = ("_claims", "_sync")

    def __init__(self, sync: CircuitSync, claims: ProbeClaims) -> None:
        self._sync = sync
        self._claims = claims

    @property
    def in_flight(self) -> int:
        """How many claims have no answer yet."""
        return len(self._claims.in_flight)

    def note_rejected(self) -> None:
        """Note that a call is rejected: the circuit is busy for a moment."""
        self._claims.rejected_ms = now_ms()

    def take_kept(self, lease: float) -> ProbeClaim | None:
        """Return a kept probe that a call can use, or ``None``.

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
        """Return all kept probes to the fleet."""
        kept = self._claims.kept
        while kept:
            self._waste(kept.popleft())

    async def claim(self, lease: float) -> ProbeClaim:
        """Claim a probe, and wait for the answer as long as a call may wait.

        The claim that is returned has no reply if the answer takes longer. If this is cancelled,
        the probe is returned.

        :param lease: for how many seconds the call needs it
        """
        sync = self._sync
        busy = self._is_busy()
        # If the probe is kept first, the call must still have its whole lease.
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
        """Return whether the next call is likely to come in time to use a kept probe."""
        claims = self._claims
        wasted, claims.wasted = claims.wasted, False
        return not wasted and now_ms() - claims.rejected_ms <= BUSY_SECONDS * 1000

    def _leave(self, claim: ProbeClaim, then: Literal["keep", "return"]) -> None:
        """Stop waiting, and say what happens to the probe if it is granted."""
        claim.then = then
        if not claim.begun:  # It may never begin, if asyncio's own cancellation ends its task.
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
        if sync.snapshot.verdicts:  # One may return the very probe that is claimed here.
            await sync.flush()
        if not sync.contact.failed:
            reply = await sync.ask_for_probe(claim.nonce, claim.lease_ms, CLAIM_SECONDS)
            if reply is not None:
                return reply
        reply = sync.refusal()
        if claim.then == "use":
            reply = sync.claim_locally(claim.nonce, claim.lease_ms, local=False)
        if not reply.granted:  # The store may have granted it all the same.
            self._return(claim)
        return reply

    def _keep(self, claim: ProbeClaim) -> None:
        """Keep a probe for the next call, for at most ``KEPT_SECONDS``."""
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
        """Return a kept probe that no call used; the next call waits for a probe of its own.

        If the circuit has changed since, that has ended the probe, and it need not be returned.
        """
        if self._is_known(claim) or claim.generation is self._sync.snapshot.permit.generation:
            self._claims.wasted = True
            self._return(claim)

    def _return(self, claim: ProbeClaim) -> None:
        self._sync.note_verdict(claim.nonce, succeeded=None)
