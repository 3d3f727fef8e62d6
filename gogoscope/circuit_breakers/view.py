"""A circuit as one process sees it: what the store showed, and what came since."""

from __future__ import annotations

import math

from gogoscope._core.background import Observer
from gogoscope._core.clock import clock_here
from gogoscope.circuit_breakers.policy import CircuitPolicy
from gogoscope.circuit_breakers.snapshot import Era, Permit, Snapshot
from gogoscope.events import (
    CircuitStateChanged,
    CircuitStoreFailed,
    CircuitStoreRecovered,
    log_warning,
    notify,
)
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState, FailureReport
from gogoscope.persistence.rules import circuit_breakers as circuit_rules


class CircuitView:
    """Changes the snapshot of a circuit by the policy's rules, and tells of it.

    :param host: gets the events
    """

    __slots__ = ("host", "name", "policy", "snapshot")

    def __init__(
        self, policy: CircuitPolicy, name: str, snapshot: Snapshot, host: Observer
    ) -> None:
        self.policy = policy
        self.name = name
        self.snapshot = snapshot
        self.host = host

    def learn(self, stored: CircuitBreakerState) -> None:
        """Take over what the store showed, unless something newer was seen, and add our own."""
        snapshot = self.snapshot
        if stored.version < snapshot.stored.version:
            return
        snapshot.stored = stored
        state = stored
        if snapshot.succeeded_ms is not None and state.state == "closed":
            state = circuit_rules.cleared(state, now_ms())
        if snapshot.unsent:
            state = self.counted(state, snapshot.unsent)
        if not snapshot.verdicts:
            self.change(state)

    def change(self, state: CircuitBreakerState) -> None:
        """Make a state the one that calls are judged by."""
        snapshot = self.snapshot
        old, snapshot.state = snapshot.state.state, state
        snapshot.calm = state.state == "closed" and not state.failure_count
        if state.state != old:
            snapshot.permit = Permit(Era())
            if snapshot.rates is not None:
                snapshot.rates.clear()
            if state.state != "half-open":
                snapshot.kept.clear()
            if state.state == "closed":
                snapshot.unsent = 0
            if self.host.observed:
                self.host.emit(CircuitStateChanged(self.host.name, self.name, old, state.state))
            notify(self.policy.on_state_change, self.name, old, state.state)

    def counted(self, state: CircuitBreakerState, count: int) -> CircuitBreakerState:
        """Return a state with more failures counted as far as this process can tell."""
        # Alone with a store that fails, nobody else can confirm what this process sees.
        quorum = 1 if self.snapshot.store_failed else self.policy.quorum
        report = self.report(count, state.open_count, quorum)
        state, _ = circuit_rules.count_failures(state, now_ms(), report)
        return state

    def report(self, count: int, open_count: int, quorum: int) -> FailureReport:
        """Return what the store is told of failures."""
        return FailureReport(
            reporter=self.snapshot.reporter,
            count=count,
            threshold=self.policy.trips_at,
            open_ms=self.policy.open_ms(open_count),
            window_ms=self.policy.window_ms(),
            quorum=quorum,
        )

    def note_store_failed(self, error: Exception) -> None:
        """Guard locally from now on, and tell so once."""
        if not self.snapshot.store_failed:
            self.snapshot.store_failed = True
            log_warning(
                "the store of circuit %r failed; guarding it locally", self.name, error=error
            )
            if self.host.observed:
                self.host.emit(CircuitStoreFailed(self.host.name, self.name, error))

    def note_store_answered(self) -> None:
        """Guard together with the others again, and tell so once."""
        if self.snapshot.store_failed:
            self.snapshot.store_failed = False
            log_warning("the store of circuit %r answers again", self.name)
            if self.host.observed:
                self.host.emit(CircuitStoreRecovered(self.host.name, self.name))


def now_ms() -> int:
    """Return the wall clock in milliseconds."""
    return math.floor(clock_here().wall() * 1000)
