"""A circuit at work: which calls it lets through, and what it makes of how they end.

A call through a closed circuit looks only at the snapshot of it that the process keeps. What the
store must know is told in the background, by :class:`~gogoscope.circuit_link.CircuitLink`.
"""

from __future__ import annotations

import math
import time
from typing import Any

from gogoscope._core.clock import clock_here, monotonic
from gogoscope.circuit_breakers.probes import BUSY_SECONDS, ProbePlaces
from gogoscope.circuit_breakers.rates import RateWindow
from gogoscope.circuit_breakers.snapshot import Permit, ProbeClaim
from gogoscope.circuit_breakers.sync import CircuitLink
from gogoscope.circuit_breakers.view import now_ms
from gogoscope.events import CircuitCallRejected, CircuitProbeEnded, CircuitProbeStarted
from gogoscope.exceptions import CircuitOpenError
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.persistence.rules import circuit_breakers as circuit_rules

SHORTEST_PROBE_LEASE = 1.0


class Circuit:
    """One policy at work on one circuit of one store, for one scope or for the process.

    ``plain`` and ``timed`` are of the policy; the real monotonic clock past ``fresh_until`` means
    that a circuit which is ``lasting`` must be looked up and asked anew.

    :param link: what ties it to its store
    :param lasting: whether it is kept where no scope ends it
    """

    __slots__ = (
        "fresh_until",
        "lasting",
        "link",
        "name",
        "places",
        "plain",
        "policy",
        "snapshot",
        "timed",
    )

    def __init__(self, link: CircuitLink, *, lasting: bool = False) -> None:
        self.link = link
        self.places = ProbePlaces(link)
        self.lasting = lasting
        self.fresh_until = -math.inf
        self.name = link.name
        self.policy = link.policy
        self.plain = link.policy.plain
        self.timed = link.policy.slow_call is not None
        self.snapshot = link.snapshot

    def admit_now(self) -> Permit | None:
        """Let a call through a closed circuit; ``None`` if that needs :meth:`admit`."""
        snapshot = self.snapshot
        # The wall clock, since that of the event loop costs as much as all the rest; when it is
        # set back or forth, the store is asked early.
        now = clock_here().wall()
        if not snapshot.asked_at <= now < snapshot.ask_at:
            if not snapshot.asked:
                return None
            self.link.look_again()
        if not (snapshot.calm or snapshot.state.state == "closed"):
            return None
        if self.lasting:
            self.fresh_until = time.monotonic() + snapshot.ask_at - now
        return Permit(snapshot.permit.era, monotonic()) if self.timed else snapshot.permit

    async def admit(self, longest_call: float = 0.0) -> Permit:
        """Let a call through, as a half-open probe if need be.

        :param longest_call: seconds that the call may take, if that is known
        :raises CircuitOpenError: if it must not be made
        """
        while not self.snapshot.asked:
            await self.link.read_first()
        permit = self.admit_now()
        if permit is not None:
            return permit
        lease = max(SHORTEST_PROBE_LEASE, self.policy.reset_timeout, longest_call + 1)
        kept = self.places.take_kept(lease)
        if kept is not None:
            return self._probe(kept)
        self._reject_unless_probing()
        return await self._claim_probe(lease)

    def returned(self, permit: Permit, value: Any) -> None:
        """Note that a call gave a value; the policy says whether that is a failure."""
        if self.plain and self.snapshot.calm and permit.probe is None:
            return
        predicate = self.policy.record_result
        if predicate is not None:
            try:
                failed = predicate(value)
            except BaseException:
                self.abandoned(permit)
                raise
            if failed:
                self.failed(permit)
                return
        self._succeeded(permit)

    def raised(self, permit: Permit, error: Exception) -> None:
        """Note that a call raised an error; the policy says whether that is a failure."""
        try:
            counts = self.policy.counts(error)
        except BaseException:
            self.abandoned(permit)
            raise
        if counts:
            self.failed(permit)
        else:
            self.abandoned(permit)

    def failed(self, permit: Permit) -> None:
        """Note that a call failed. A call that began before the circuit changed is too late."""
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=False)
        elif permit.era is self.snapshot.permit.era:
            if self.policy.judges_rates:
                self._judge(permit, failed=True)
            else:
                self.link.note_failures(1)

    def abandoned(self, permit: Permit) -> None:
        """Note that a call says nothing of what was called; a probe gives its turn back."""
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=None)

    @property
    def store_failed(self) -> bool:
        """Whether the store failed when it was last asked."""
        return self.snapshot.store_failed

    async def finish(self, patience: float) -> None:
        """Tell the store what it does not know, at the end of the scope.

        It never raises for a store that fails.

        :param patience: the seconds that it may take
        """
        self.places.give_back_kept()
        await self.link.finish(patience)

    def _succeeded(self, permit: Permit) -> None:
        snapshot = self.snapshot
        if permit.probe is not None:
            self._settle(permit.probe, succeeded=not self._is_slow(permit))
        elif permit.era is not snapshot.permit.era:
            return
        elif self.policy.judges_rates:
            self._judge(permit, failed=False)
        elif snapshot.state.failure_count and self.policy.window is None:
            self.link.note_success()

    def _judge(self, permit: Permit, *, failed: bool) -> None:
        """Count a call of this process, and report its failures if their share is too high."""
        policy = self.policy
        window = self.snapshot.rates
        if window is None:
            assert policy.window is not None
            window = self.snapshot.rates = RateWindow(policy.window)
        window.add(monotonic(), failed=failed, slow=self._is_slow(permit))
        excess = window.excess(policy.minimum_calls, policy.failure_rate, policy.slow_rate)
        if excess:
            window.clear()
            self.link.note_failures(excess)

    def _is_slow(self, permit: Permit) -> bool:
        return self.timed and self.policy.is_slow(monotonic() - permit.began)

    def _settle(self, nonce: str, *, succeeded: bool | None) -> None:
        host = self.link.host
        if host.observed:
            host.emit(CircuitProbeEnded(host.name, self.name, succeeded))
        self.link.note_verdict(nonce, succeeded=succeeded)

    def _reject_unless_probing(self) -> None:
        """Raise if a probe would be refused by what is known here, which needs no request."""
        snapshot = self.snapshot
        state = snapshot.state
        time_ms = now_ms()
        if state.state == "forced-open":
            raise self._rejected(self.policy.refresh_interval)
        if state.state == "open" and (state.open_until_ms or 0) > time_ms:
            raise self._rejected(((state.open_until_ms or 0) - time_ms) / 1000)
        limit = self.policy.half_open_probes
        _, reply = circuit_rules.claim_probe(state, time_ms, "", 1, limit)
        if len(snapshot.claims) >= limit or not reply.granted:
            raise self._rejected(self._until_probes_end(state, time_ms))

    async def _claim_probe(self, lease: float) -> Permit:
        claim = await self.places.claim(lease)
        if claim.reply is None:
            raise self._rejected(BUSY_SECONDS)
        if claim.reply.granted:
            return self._probe(claim)
        if claim.reply.state.state == "closed":
            return Permit(self.snapshot.permit.era, monotonic() if self.timed else 0.0)
        raise self._rejected(self._until_probes_end(claim.reply.state, now_ms()))

    def _probe(self, claim: ProbeClaim) -> Permit:
        host = self.link.host
        if host.observed:
            host.emit(CircuitProbeStarted(host.name, self.name))
        began = monotonic() if self.timed else 0.0
        return Permit(self.snapshot.permit.era, began, claim.nonce)

    def _rejected(self, retry_after: float) -> CircuitOpenError:
        """Return the error of a call that is not made, and tell that it is not."""
        host = self.link.host
        self.snapshot.rejected_ms = now_ms()
        if host.observed:
            host.emit(CircuitCallRejected(host.name, self.name, retry_after))
        return CircuitOpenError(self.name, retry_after)

    def _until_probes_end(self, state: CircuitBreakerState, time_ms: int) -> float:
        ends = [*state.probes.values(), state.open_until_ms or 0]
        later = [end - time_ms for end in ends if end > time_ms]
        return min(later) / 1000 if later else self.policy.refresh_interval
