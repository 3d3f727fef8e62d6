"""The places of half-open probes: asked for in the background, and waited for only so long.

A call that comes to a busy circuit does not wait for a store that takes its time. It is rejected
like the one a moment before it, and the place is kept for the next, which is a moment away.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Literal

import anyio

from gogoscope._core.clock import monotonic
from gogoscope.circuit_breakers.snapshot import ProbeClaim
from gogoscope.circuit_breakers.sync import CircuitLink
from gogoscope.circuit_breakers.view import now_ms
from gogoscope.persistence.protocols.circuit_breakers import ProbeReply
from gogoscope.persistence.rules import circuit_breakers as circuit_rules

CLAIM_SECONDS = 0.5
BUSY_SECONDS = 0.1
"""A circuit that rejected a call less than so many seconds ago is busy."""
BUSY_PATIENCE = 0.004
KEPT_SECONDS = 1.0


class ProbePlaces:
    """Gets the places of half-open probes of one circuit, and gives them back.

    :param link: what ties the circuit to its store
    """

    __slots__ = ("_link",)

    def __init__(self, link: CircuitLink) -> None:
        self._link = link

    def take_kept(self, lease: float) -> ProbeClaim | None:
        """Return a place that was granted when nobody waited for it any more, if it is still good.

        :param lease: how long it is needed, in seconds
        """
        snapshot = self._link.snapshot
        while snapshot.kept:
            claim = snapshot.kept.popleft()
            good = monotonic() < claim.until and claim.nonce in snapshot.state.probes
            if good and claim.lease >= lease:
                return claim
            self._waste(claim)
        return None

    def give_back_kept(self) -> None:
        """Give back the places that no call has taken."""
        kept = self._link.snapshot.kept
        while kept:
            self._waste(kept.popleft())

    async def claim(self, lease: float) -> ProbeClaim:
        """Ask for a place: of the store, or by what is known here while that fails.

        A store that is known to fail is not waited for. One that does not answer is, for half a
        second, and when the circuit is busy for no longer than a call may be delayed; then the
        claim has no reply.

        :param lease: how long the place is needed, in seconds
        """
        link = self._link
        busy = self._is_busy()
        # The time for which it may be kept must not be missing in the end.
        lease_ms = math.ceil((lease + KEPT_SECONDS if busy else lease) * 1000)
        claim = ProbeClaim(os.urandom(8).hex(), lease, lease_ms, monotonic() + KEPT_SECONDS)
        if link.store_is_slow():
            link.snapshot.local_probes.add(claim.nonce)
            claim.reply = self._claim_locally(claim)
            return claim
        link.snapshot.claims.add(claim)
        if not link.spawn(functools.partial(self._ask, claim)):
            await self._ask(claim)
        if claim.reply is not None:
            return claim
        try:
            with anyio.move_on_after(BUSY_PATIENCE if busy else CLAIM_SECONDS):
                await claim.answered.wait()
        except BaseException:
            self._leave(claim, "give back")
            raise
        if claim.reply is None:
            self._leave(claim, "keep" if busy else "give back")
        return claim

    def _is_busy(self) -> bool:
        """Return whether the next call will be here so soon that it can have the place."""
        snapshot = self._link.snapshot
        wasted, snapshot.wasted = snapshot.wasted, False
        return not wasted and now_ms() - snapshot.rejected_ms <= BUSY_SECONDS * 1000

    def _leave(self, claim: ProbeClaim, then: Literal["keep", "give back"]) -> None:
        """Wait no more, and say what becomes of a place that is granted."""
        claim.then = then
        if not claim.begun:  # and it never may, where asyncio itself cancels tasks
            self._link.snapshot.claims.discard(claim)
        elif claim.reply is not None and claim.reply.granted:
            self._give_back(claim)

    async def _ask(self, claim: ProbeClaim) -> None:
        snapshot = self._link.snapshot
        if claim not in snapshot.claims:
            return
        claim.begun = True
        reply = self._refusal()
        try:
            reply = await self._answer(claim)
            if reply.granted and claim.then == "keep":
                self._keep(claim)
            elif reply.granted and claim.then == "give back":
                self._give_back(claim)
        except BaseException:
            snapshot.wasted = snapshot.wasted or claim.then == "keep"
            self._give_back(claim)
            raise
        finally:
            snapshot.claims.discard(claim)
            claim.reply = reply
            claim.answered.set()

    def _keep(self, claim: ProbeClaim) -> None:
        """Keep a place for the next call, but no longer than it is good for one."""
        self._link.snapshot.kept.append(claim)
        self._link.spawn(functools.partial(self._keep_until_old, claim), brief=False)

    async def _keep_until_old(self, claim: ProbeClaim) -> None:
        await anyio.sleep_until(claim.until)
        kept = self._link.snapshot.kept
        if claim in kept:
            kept.remove(claim)
            self._waste(claim)

    async def _answer(self, claim: ProbeClaim) -> ProbeReply:
        link = self._link
        if link.snapshot.verdicts:  # a place that is given back may be the one that is asked for
            await link.flush()
        if link.snapshot.store_failed:
            return self._without_the_store(claim)
        limit = link.policy.half_open_probes
        try:
            request = link.store.claim_probe(link.name, claim.nonce, claim.lease_ms, limit)
            reply = await link.bounded(request, CLAIM_SECONDS)
        except TimeoutError as error:
            # It may have been granted: there is no probe then, lest the fleet have too many.
            link.note_store_failed(error)
            self._give_back(claim)
            return self._refusal()
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            link.note_store_failed(error)
            return self._without_the_store(claim)
        link.note_store_answered()
        link.learn(reply.state)
        return reply

    def _refusal(self) -> ProbeReply:
        return ProbeReply(granted=False, state=self._link.snapshot.state)

    def _without_the_store(self, claim: ProbeClaim) -> ProbeReply:
        if claim.then == "use":
            return self._claim_locally(claim)
        self._give_back(claim)
        return self._refusal()

    def _claim_locally(self, claim: ProbeClaim) -> ProbeReply:
        link = self._link
        limit = link.policy.half_open_probes
        state = link.snapshot.state
        _, reply = circuit_rules.claim_probe(state, now_ms(), claim.nonce, claim.lease_ms, limit)
        if reply.granted:
            link.change(reply.state)
        else:
            self._give_back(claim)
        return reply

    def _waste(self, claim: ProbeClaim) -> None:
        """Give back a place that was kept in vain: the next call is to wait for its own."""
        self._link.snapshot.wasted = True
        self._give_back(claim)

    def _give_back(self, claim: ProbeClaim) -> None:
        self._link.note_verdict(claim.nonce, succeeded=None)
