"""How a stored circuit changes: pure functions of (state, event, time).

Each gives ``(state, answer)``, or only the state; it is the one that was passed, unchanged, when
nothing is to be written. Times are milliseconds since the Unix epoch. ``version`` belongs to the
store, which raises it with every write.
"""

from __future__ import annotations

from attrs import evolve

from gogoscope.persistence.protocols.circuit_breakers import (
    DEFAULT_OPEN_MS,
    CircuitBreakerState,
    CircuitState,
    FailureReport,
    ProbeReply,
)

IDLE_MS = 86_400_000


def count_failures(
    state: CircuitBreakerState | None, report: FailureReport, now_ms: int
) -> CircuitBreakerState:
    """Count failures of a closed circuit, and trip it at threshold and quorum."""
    if state is None:
        state = CircuitBreakerState(window_start_ms=now_ms)
    if state.state != "closed":
        return state
    edge_ms = 0 if report.window_ms is None else now_ms - report.window_ms
    if state.window_start_ms <= edge_ms:
        state = evolve(state, failure_count=0, window_start_ms=now_ms, reporters={})
    state = evolve(
        state,
        failure_count=state.failure_count + report.count,
        last_failure_ms=now_ms,
        reporters={**state.reporters, report.reporter: now_ms},
    )
    if state.failure_count >= report.threshold and len(state.reporters) >= report.quorum:
        state = trip(state, report.open_ms, now_ms)
    return state


def trip(state: CircuitBreakerState, open_ms: int, now_ms: int) -> CircuitBreakerState:
    """Open a circuit for the time given."""
    return evolve(
        state,
        state="open",
        since_ms=now_ms,
        open_until_ms=now_ms + open_ms,
        open_count=state.open_count + 1,
        success_count=0,
        probes={},
    )


def close(state: CircuitBreakerState, now_ms: int) -> CircuitBreakerState:
    """Close a circuit with a clean count."""
    return CircuitBreakerState(
        last_failure_ms=state.last_failure_ms,
        last_success_ms=now_ms,
        window_start_ms=now_ms,
        since_ms=now_ms,
        version=state.version,
    )


def claim_probe(
    state: CircuitBreakerState | None, nonce: str, lease_ms: int, limit: int, now_ms: int
) -> tuple[CircuitBreakerState | None, ProbeReply]:
    """Grant a probe of a circuit whose open time is over, at most ``limit`` at a time."""
    if state is None:
        return state, ProbeReply(granted=False, state=CircuitBreakerState())
    if state.state == "open" and (state.open_until_ms or 0) <= now_ms:
        state = evolve(state, state="half-open", since_ms=now_ms, probes={}, success_count=0)
    elif state.state != "half-open" or nonce in state.probes:
        return state, ProbeReply(granted=nonce in state.probes, state=state)
    alive = dict(state.probes)
    if len(alive) >= limit:
        alive = {probe: until_ms for probe, until_ms in alive.items() if until_ms > now_ms}
    if len(alive) >= limit:
        return state, ProbeReply(granted=False, state=state)
    state = evolve(state, probes={**alive, nonce: now_ms + lease_ms})
    return state, ProbeReply(granted=True, state=state)


def settle_probe(
    state: CircuitBreakerState | None,
    nonce: str,
    *,
    succeeded: bool,
    success_threshold: int,
    open_ms: int,
    now_ms: int,
) -> tuple[CircuitBreakerState | None, CircuitBreakerState | None]:
    """Close or open a half-open circuit by the end of one of its probes."""
    if state is None or state.state != "half-open" or nonce not in state.probes:
        return state, None
    if not succeeded:
        state = evolve(trip(state, open_ms, now_ms), last_failure_ms=now_ms)
    elif state.success_count + 1 >= success_threshold:
        state = close(state, now_ms)
    else:
        state = evolve(
            _without_probe(state, nonce),
            success_count=state.success_count + 1,
            last_success_ms=now_ms,
        )
    return state, state


def return_probe(state: CircuitBreakerState | None, nonce: str) -> CircuitBreakerState | None:
    """Free the place of a probe that was cancelled."""
    if state is None or nonce not in state.probes:
        return state
    return _without_probe(state, nonce)


def reset_failures(state: CircuitBreakerState, now_ms: int) -> CircuitBreakerState:
    """Clear the failures of a closed circuit after a success."""
    return evolve(
        state, failure_count=0, reporters={}, window_start_ms=now_ms, last_success_ms=now_ms
    )


def record_failure(
    state: CircuitBreakerState | None, max_failures: int, now_ms: int
) -> CircuitBreakerState:
    """Count one failure whatever the state, and open a closed circuit at the maximum."""
    if state is None:
        state = CircuitBreakerState(window_start_ms=now_ms)
    state = evolve(state, failure_count=state.failure_count + 1, last_failure_ms=now_ms)
    if state.state == "closed" and state.failure_count >= max_failures:
        state = trip(state, DEFAULT_OPEN_MS, now_ms)
    return state


def record_success(state: CircuitBreakerState | None, now_ms: int) -> CircuitBreakerState | None:
    """Clear the failures of a closed circuit, or close one whose open time is over."""
    if state is None or state.state == "forced-open":
        return state
    if state.state == "open" and (state.open_until_ms or 0) > now_ms:
        return state
    if state.state == "closed":
        return reset_failures(state, now_ms) if state.failure_count else state
    return close(state, now_ms)


def set_by_hand(name: CircuitState, now_ms: int) -> CircuitBreakerState:
    """Return a circuit that was closed or forced open by hand."""
    return CircuitBreakerState(state=name, since_ms=now_ms, window_start_ms=now_ms)


def reset(state: CircuitBreakerState | None, now_ms: int) -> CircuitBreakerState | None:
    """Forget what happened to a circuit, unless there is none or it is forced open."""
    if state is None or state.state == "forced-open":
        return state
    return set_by_hand("closed", now_ms)


def purge_at_ms(state: CircuitBreakerState, now_ms: int) -> int | None:
    """Tell when nobody can need the state any more; ``None`` for never."""
    if state.state == "forced-open":
        return None
    return max(now_ms, state.open_until_ms or 0, *state.probes.values()) + IDLE_MS


def _without_probe(state: CircuitBreakerState, nonce: str) -> CircuitBreakerState:
    return evolve(
        state, probes={probe: until for probe, until in state.probes.items() if probe != nonce}
    )
