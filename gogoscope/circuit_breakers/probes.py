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
- A probe is kept for one second. If no call uses it, it is returned, and the next call is treated
  as on a quiet circuit.
- The lease of a probe is renewed as long as its call runs, however long that is. Where there is no
  background to do so, it is renewed before this process claims another probe.
- A claim that has not begun holds nothing. If the background ends before that, no probe is lost.
- A store that is known to fail is not asked. The process then grants itself probes by what it
  knows of the circuit.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from typing import Literal

import anyio
from attrs import define, field

from gogoscope._core.clock import monotonic
from gogoscope.circuit_breakers.snapshot import Generation
from gogoscope.circuit_breakers.sync import STORE_SECONDS, CircuitSync, now_ms
from gogoscope.circuit_breakers.times import over
from gogoscope.persistence.protocols.circuit_breakers import ProbeReply
from gogoscope.persistence.urgency import urgently

CLAIM_SECONDS = 0.49
"""How long a claim waits for its answer."""
QUIET_PATIENCE = 0.5
"""How many seconds a call waits for a probe of a quiet circuit: until its claim has an answer."""
BUSY_SECONDS = 0.1
"""A circuit that rejected a call less than so many seconds ago is busy."""
BUSY_PATIENCE = 0.004
"""How many seconds a call waits for a probe of a busy circuit."""
KEPT_SECONDS = 1.0
"""For how many seconds a probe is kept."""
RENEWED_ONLY = 0
"""The limit of probes of a claim that renews: one that has lost its place gets no other one."""
RENEWALS_PER_LEASE = 3
"""How often a lease is renewed before it would end."""


@define(eq=False)
class ProbeClaim:
    """A claim for a probe.

    It is claimed for ``lease_ms`` milliseconds. At ``until``, on the clock of ``monotonic()``, it
    is too old to be kept. ``begun`` is true once the background has begun to ask; at the end it
    sets ``reply``, and ``answered``. ``then`` says what happens to the probe if it is granted.
    ``generation`` is the circuit's generation when the probe was kept.
    """

    nonce: str
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
    the next calls, the oldest first. ``running`` are the nonces of probes whose calls run, each
    with an event for the end of the call if it is renewed in the background. ``wasted`` is true if
    a kept probe was not used, until the next call claims one. The last call was rejected at
    ``rejected_ms``, by a clock that nobody sets.
    """

    in_flight: set[ProbeClaim] = field(factory=set)
    kept: deque[ProbeClaim] = field(factory=deque)
    running: dict[str, anyio.Event | None] = field(factory=dict)
    wasted: bool = False
    rejected_ms: int = 0


class Probes:
    """Claims the half-open probes of a circuit, and returns those that no call uses.

    :param sync: the circuit's snapshot and store
    :param claims: shared with the other scopes
    """

    __slots__ = ("_claims", "_lease_ms", "_sync")

    def __init__(self, sync: CircuitSync, claims: ProbeClaims) -> None:
        self._sync = sync
        self._claims = claims
        self._lease_ms = round(sync.policy._lease * 1000)

    @property
    def in_flight(self) -> int:
        """How many claims have no answer yet."""
        return len(self._claims.in_flight)

    @property
    def any(self) -> bool:
        """Whether a probe is claimed, kept or at work."""
        claims = self._claims
        return bool(claims.in_flight or claims.kept or claims.running)

    def note_rejected(self) -> None:
        """Note that a call is rejected: the circuit is busy for a moment."""
        self._claims.rejected_ms = now_ms()

    def take_kept(self) -> ProbeClaim | None:
        """Return a kept probe that a call can use, or ``None``."""
        kept = self._claims.kept
        while kept:
            claim = kept.popleft()
            if monotonic() < claim.until and self._is_known(claim):
                return claim
            self._waste(claim)
        return None

    def renew_while_running(self, claim: ProbeClaim) -> None:
        """Renew the lease of a probe until :meth:`ended`."""
        if claim.nonce in self._sync.snapshot.local_probes:
            return
        ended = anyio.Event()
        renew = functools.partial(self._keep_alive, claim.nonce, ended)
        self._claims.running[claim.nonce] = ended if self._sync.spawn(renew, brief=False) else None

    def ended(self, nonce: str) -> None:
        """Note that the call of a probe has ended."""
        call = self._claims.running.pop(nonce, None)
        if call is not None:
            call.set()

    def return_kept(self) -> None:
        """Return all kept probes to the fleet."""
        kept = self._claims.kept
        while kept:
            self._waste(kept.popleft())

    async def claim(self) -> ProbeClaim:
        """Claim a probe, and wait for the answer as long as a call may wait.

        The claim that is returned has no reply if the answer takes longer. If this is cancelled,
        the probe is returned.
        """
        sync = self._sync
        for nonce in [nonce for nonce, ended in self._claims.running.items() if ended is None]:
            await self._renew(nonce)
        busy = self._is_busy()
        lease_ms = self._lease_ms + (round(KEPT_SECONDS * 1000) if busy else 0)
        claim = ProbeClaim(os.urandom(8).hex(), lease_ms, monotonic() + KEPT_SECONDS)
        if sync.contact.is_slow:
            claim.reply = sync.claim_locally(claim.nonce, lease_ms, local=True)
            return claim
        self._claims.in_flight.add(claim)
        if not sync.spawn(functools.partial(self._ask, claim)):
            await self._ask(claim)
        if claim.reply is not None:
            return claim
        try:
            with anyio.move_on_after(BUSY_PATIENCE if busy else QUIET_PATIENCE):
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
            reply = await self._ask_store(claim)
            if reply is not None:
                return reply
        reply = sync.refusal()
        if claim.then == "use":
            reply = sync.claim_locally(claim.nonce, claim.lease_ms, local=False)
        if not reply.granted:  # The store may have granted it all the same.
            self._return(claim)
        return reply

    async def _ask_store(self, claim: ProbeClaim) -> ProbeReply | None:
        """Claim a probe of the store; return ``None`` if it failed, and the caller is to decide."""
        sync = self._sync
        try:
            reply = await sync.contact.bounded(self._claim(claim), CLAIM_SECONDS)
        except TimeoutError as error:
            # The store may have granted it. To use it could mean one probe too many.
            sync.note_failed(error)
            sync.note_verdict(claim.nonce, succeeded=None)
            return sync.refusal()
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            sync.note_failed(error)
            return None
        sync.note_answered()
        return reply

    async def _claim(self, claim: ProbeClaim) -> ProbeReply:
        """Claim a probe; if it is refused, say what this process has waited for by its own clock.

        The wall clocks of the store and of those who wrote the times may have been set since.
        """
        sync, nonce, lease_ms = self._sync, claim.nonce, claim.lease_ms
        limit = sync.policy.half_open_probes
        reply = await sync.store.claim_probe(sync.name, nonce, lease_ms, limit)
        sync.learn(reply.state)
        learned = sync.policy._limited(sync.snapshot.learned)
        seen = None if reply.granted else over(sync.snapshot.stored, learned, now_ms())
        if seen is not None:
            reply = await sync.store.claim_probe(sync.name, nonce, lease_ms, limit, seen)
            sync.learn(reply.state)
        return reply

    async def _renew(self, nonce: str) -> None:
        """Renew the lease of a probe, unless the circuit knows it no more."""
        sync = self._sync
        if nonce not in sync.snapshot.learned.probes:
            return
        request = urgently(
            sync.store.claim_probe(sync.name, nonce, self._lease_ms, RENEWED_ONLY),
            lease=self._lease_ms / 1000,
        )
        try:
            reply = await sync.contact.bounded(request, STORE_SECONDS)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            sync.note_failed(error)
            return
        sync.note_answered()
        sync.learn(reply.state)

    def _keep(self, claim: ProbeClaim) -> None:
        """Keep a probe for the next call, for at most ``KEPT_SECONDS``."""
        claim.generation = self._sync.snapshot.permit.generation
        self._claims.kept.append(claim)
        if not self._sync.spawn(functools.partial(self._keep_until_old, claim), brief=False):
            self._claims.kept.remove(claim)
            self._return(claim)

    async def _keep_until_old(self, claim: ProbeClaim) -> None:
        await anyio.sleep(max(0.0, claim.until - monotonic()))
        kept = self._claims.kept
        if claim in kept:
            kept.remove(claim)
            self._waste(claim)

    async def _keep_alive(self, nonce: str, ended: anyio.Event) -> None:
        """Renew a lease until the call of the probe has ended, or the circuit knows it no more."""
        while self._sync.snapshot.learned.probes.get(nonce) is not None:
            with anyio.move_on_after(self._lease_ms / 1000 / RENEWALS_PER_LEASE):
                await ended.wait()
                return
            await self._renew(nonce)

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
