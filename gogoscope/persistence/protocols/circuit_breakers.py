"""What a store can do for circuit breakers; part of :mod:`gogoscope.persistence.protocols`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, runtime_checkable

from attrs import field, frozen

CircuitState = Literal["closed", "open", "half-open", "forced-open"]

DEFAULT_OPEN_MS = 30_000
"""How long ``record_failure`` opens a circuit, in milliseconds."""


@frozen
class CircuitBreakerState:
    """A circuit as it is stored.

    ``since_ms`` is when it came into its state, ``None`` if it was never in another one.
    ``reporters`` are the processes that reported failures since the count began, each with the
    time of its last report. ``probes`` are the half-open probes in flight, each with the end of
    its lease.
    """

    state: CircuitState = "closed"
    failure_count: int = 0
    last_failure_ms: int | None = None
    last_success_ms: int | None = None
    open_until_ms: int | None = None
    open_count: int = 0
    success_count: int = 0
    window_start_ms: int = 0
    reporters: Mapping[str, int] = field(factory=dict)
    probes: Mapping[str, int] = field(factory=dict)
    since_ms: int | None = None
    version: int = 0

    @property
    def next_probe_ms(self) -> int | None:
        """When the next probe may run at the latest; ``None`` if it may at once or never."""
        if self.state == "open":
            return self.open_until_ms
        return min(self.probes.values(), default=None) if self.state == "half-open" else None


@frozen
class FailureReport:
    """Failures of one process, to be counted in one write, and when they open the circuit.

    ``count`` failures of the process ``reporter``. The circuit opens for ``open_ms`` at
    ``threshold`` failures that ``quorum`` processes reported within ``window_ms``, or in a row if
    that is ``None``. The process has seen the window that began at ``seen_window_ms`` for as long
    as a window lasts, by a clock that nobody sets: it is over, whatever the store's clock says.
    """

    reporter: str
    count: int
    threshold: int
    open_ms: int
    window_ms: int | None = None
    quorum: int = 1
    seen_window_ms: int | None = None


@frozen
class ProbeReply:
    """Whether a half-open probe may run, and the circuit as it now is."""

    granted: bool
    state: CircuitBreakerState


@runtime_checkable
class CircuitBreakerStateProvider(Protocol):
    """Keeps the state of circuit breakers."""

    async def get_state(self, key: str) -> CircuitBreakerState | None:
        """Return a circuit's state, or ``None`` if nothing was ever recorded."""
        ...

    async def set_state(self, key: str, state: CircuitBreakerState) -> None:
        """Replace a circuit's state, whatever it was; ``version`` is ignored and grows."""
        ...

    async def record_failure(self, key: str, max_failures: int) -> int:
        """Count one failure, open the circuit at the maximum, and return the count."""
        ...

    async def record_success(self, key: str) -> None:
        """Record a success: clear the failures of a closed circuit, or close one that may probe.

        A circuit that is open and whose time is not over stays open: the success is a late one.
        """
        ...

    async def count_failures(self, key: str, report: FailureReport) -> CircuitBreakerState:
        """Count failures, and open the circuit when they reach threshold and quorum.

        Failures that arrive when the circuit is not closed are late and are dropped.
        """
        ...

    async def claim_probe(
        self,
        key: str,
        nonce: str,
        lease_ms: int,
        limit: int,
        seen: CircuitBreakerState | None = None,
    ) -> ProbeReply:
        """Ask for one of at most ``limit`` probes of a circuit whose open time is over.

        The probe must settle within ``lease_ms``; after that another one may take its permit. To
        claim it again with the same nonce renews it; with a limit of 0 nothing else happens, so a
        probe that has lost its permit gets no other one. A lease that lasts longer than twice
        ``lease_ms`` from now is from a clock that was set back, and counts as expired.

        :param seen: what the caller has waited for, by a clock that nobody sets: the open time
            and the leases in it are over, if they are still the same, whatever the wall clock says
        """
        ...

    async def settle_probe(
        self, key: str, nonce: str, *, succeeded: bool, success_threshold: int, open_ms: int
    ) -> CircuitBreakerState | None:
        """Settle a probe by how it ended; ``None`` if its lease was over.

        :param succeeded: ``False`` opens the circuit for ``open_ms``; ``True`` counts, and closes
            it at ``success_threshold``
        """
        ...

    async def return_probe(self, key: str, nonce: str) -> None:
        """Free the permit of a probe that was cancelled, for the next caller."""
        ...

    async def reset_failures(self, key: str, version: int) -> CircuitBreakerState | None:
        """Set the count of a closed circuit to 0 if it is still at ``version``.

        Return the new state, or ``None`` if it had changed meanwhile.
        """
        ...

    async def force_open(self, key: str) -> CircuitBreakerState:
        """Open a circuit, whatever it was, until ``force_close``; return the new state."""
        ...

    async def force_close(self, key: str) -> CircuitBreakerState:
        """Close a circuit, whatever it was, with a clean count; return the new state."""
        ...

    async def reset_circuit(self, key: str) -> CircuitBreakerState:
        """Forget what happened to a circuit, unless it is forced open; return its state.

        Nothing is stored for a circuit of which nothing was ever recorded.
        """
        ...

    async def circuits(self, pattern: str | None = None) -> dict[str, CircuitBreakerState]:
        """List the circuits below the store's prefix, each with its state, in no particular order.

        :param pattern: a case-sensitive glob over whole keys, as for ``CacheProvider.keys``
        """
        ...
