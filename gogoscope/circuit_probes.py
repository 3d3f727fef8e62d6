"""The places of half-open probes: asked for in the background, and waited for only so long.

A call that comes to a busy circuit does not wait for a store that takes its time. It is rejected
like the one a moment before it, and the place is kept for the next, which is a moment away.
"""

from __future__ import annotations

import functools
import math
import os

import anyio

from gogoscope.circuit_link import CircuitLink
from gogoscope.circuit_snapshot import ProbeClaim
from gogoscope.circuit_view import now_ms
from gogoscope.persistence import circuit_rules
from gogoscope.persistence.protocols import ProbeReply

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
        """Give a place that was granted when nobody waited for it any more, if it is still good.

        :param lease: how long it is needed, in seconds
        """
        snapshot = self._link.snapshot
        while snapshot.kept:
            claim = snapshot.kept.popleft()
            if (
                now_ms() < claim.kept_until_ms
                and claim.lease >= lease
                and claim.nonce in snapshot.state.probes
            ):
                return claim
            self._give_back(claim)
        return None

    def give_back_kept(self) -> None:
        """Give back the places that no call has taken."""
        kept = self._link.snapshot.kept
        while kept:
            self._give_back(kept.popleft())

    async def claim(self, lease: float) -> ProbeClaim:
        """Ask for a place: of the store, or by what is known here while that fails.

        A store that is known to fail is not waited for. One that does not answer is, for half a
        second, and when the circuit is busy for no longer than a call may be delayed; then the
        claim has no reply.

        :param lease: how long the place is needed, in seconds
        """
        link = self._link
        snapshot = link.snapshot
        busy = now_ms() - snapshot.rejected_ms <= BUSY_SECONDS * 1000
        # The time for which it may be kept must not be missing in the end.
        lease_ms = math.ceil((lease + KEPT_SECONDS if busy else lease) * 1000)
        claim = ProbeClaim(os.urandom(8).hex(), lease, lease_ms)
        if link.store_is_slow():
            snapshot.local_probes.add(claim.nonce)
            claim.reply = self._claim_locally(claim)
            return claim
        snapshot.claims += 1
        link.spawn(functools.partial(self._ask, claim))
        if claim.reply is not None:  # as the memory of the process does, without a pause
            return claim
        try:
            with anyio.move_on_after(BUSY_PATIENCE if busy else CLAIM_SECONDS):
                await claim.answered.wait()
        except BaseException:
            claim.caller = "cancelled"
            if claim.reply is not None and claim.reply.granted:
                self._give_back(claim)
            raise
        claim.caller = "left"
        return claim

    async def _ask(self, claim: ProbeClaim) -> None:
        link = self._link
        snapshot = link.snapshot
        reply = ProbeReply(granted=False, state=snapshot.state)
        try:
            if snapshot.verdicts:  # a place that is given back may be the one that is asked for
                await link.flush()
            if snapshot.store_failed:
                reply = self._without_the_store(claim)
                return
            limit = link.policy.half_open_probes
            request = link.store.claim_probe(link.name, claim.nonce, claim.lease_ms, limit)
            reply = await link.bounded(request, CLAIM_SECONDS)
        except TimeoutError as error:
            # It may have been granted: there is no probe then, lest the fleet have too many.
            link.note_store_failed(error)
            self._give_back(claim)
        except Exception as error:  # noqa: BLE001 - no store error reaches a protected call
            link.note_store_failed(error)
            reply = self._without_the_store(claim)
        except BaseException:
            self._give_back(claim)
            raise
        else:
            link.note_store_answered()
            link.learn(reply.state)
            self._granted_late(claim, reply)
        finally:
            snapshot.claims -= 1
            claim.reply = reply
            claim.answered.set()

    def _without_the_store(self, claim: ProbeClaim) -> ProbeReply:
        if claim.caller == "waits":
            return self._claim_locally(claim)
        self._give_back(claim)
        return ProbeReply(granted=False, state=self._link.snapshot.state)

    def _granted_late(self, claim: ProbeClaim, reply: ProbeReply) -> None:
        """See to a place that nobody waits for."""
        if not reply.granted or claim.caller == "waits":
            return
        if claim.caller == "left":
            claim.kept_until_ms = now_ms() + math.floor(KEPT_SECONDS * 1000)
            self._link.snapshot.kept.append(claim)
        else:
            self._give_back(claim)

    def _claim_locally(self, claim: ProbeClaim) -> ProbeReply:
        link = self._link
        limit = link.policy.half_open_probes
        state = link.snapshot.state
        _, reply = circuit_rules.claim_probe(state, claim.nonce, claim.lease_ms, limit, now_ms())
        if reply.granted:
            link.change(reply.state)
        else:
            self._give_back(claim)
        return reply

    def _give_back(self, claim: ProbeClaim) -> None:
        self._link.note_verdict(claim.nonce, succeeded=None)
