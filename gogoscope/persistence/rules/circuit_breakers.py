"""How a stored circuit changes, by rules of the form that :mod:`gogoscope.persistence.rules` says.

The answer is what the caller learns besides the new state, ``None`` if that is all. ``version``
belongs to the store, which raises it with every write: rules leave it as it is. What rules have in
common are the states that they lead to: :func:`opened`, :func:`closed`, :func:`cleared` and
:func:`by_hand`.

Whoever writes a time has a wall clock, which may be set back or forward at any moment. So a stored
time decides only as long as it can be right. A window that begins a whole window from now, an open
time that begins a whole open time from now, and a lease that lasts for more than twice a lease are
over: a clock was set back. Smaller steps cannot be told from clocks that differ. There the caller
helps, who has a clock that nobody sets: what it has ``seen`` unchanged for the whole time is over.
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
    state: CircuitBreakerState | None, now_ms: int, report: FailureReport
) -> tuple[CircuitBreakerState, None]:
    """Count failures of a closed circuit, and open it at threshold and quorum."""
    if state is None:
        state = CircuitBreakerState(window_start_ms=now_ms)
    if state.state != "closed":
        return state, None
    if window_is_over(state, now_ms, report):
        state = evolve(state, failure_count=0, window_start_ms=now_ms, reporters={})
    state = evolve(
        state,
        failure_count=state.failure_count + report.count,
        last_failure_ms=now_ms,
        reporters={**state.reporters, report.reporter: now_ms},
    )
    if state.failure_count >= report.threshold and len(state.reporters) >= report.quorum:
        state = opened(state, now_ms, report.open_ms)
    return state, None


def window_is_over(state: CircuitBreakerState, now_ms: int, report: FailureReport) -> bool:
    """Return whether the failures that a closed circuit has counted are too old to count."""
    if report.window_ms is None:
        return state.window_start_ms <= 0
    age_ms = now_ms - state.window_start_ms
    return abs(age_ms) >= report.window_ms or state.window_start_ms == report.seen_window_ms


def claim_probe(
    state: CircuitBreakerState | None,
    now_ms: int,
    nonce: str,
    lease_ms: int,
    limit: int,
    seen: CircuitBreakerState | None = None,
) -> tuple[CircuitBreakerState | None, ProbeReply]:
    """Grant a probe of a circuit whose open time is over, at most ``limit`` at a time.

    A probe that is claimed again is renewed; with a limit of 0 it is renewed only.
    """
    if state is None:
        return state, ProbeReply(granted=False, state=CircuitBreakerState())
    if state.state == "open" and limit and open_time_is_over(state, now_ms, seen):
        state = evolve(state, state="half-open", since_ms=now_ms, probes={}, success_count=0)
    elif state.state != "half-open":
        return state, ProbeReply(granted=False, state=state)
    others = {probe: until_ms for probe, until_ms in state.probes.items() if probe != nonce}
    if nonce not in state.probes and len(others) >= limit:
        expired = expired_probes(state, now_ms, lease_ms, seen)
        others = {probe: until_ms for probe, until_ms in others.items() if probe not in expired}
        if len(others) >= limit:
            return state, ProbeReply(granted=False, state=state)
    state = evolve(state, probes={**others, nonce: now_ms + lease_ms})
    return state, ProbeReply(granted=True, state=state)


def open_time_is_over(
    state: CircuitBreakerState, now_ms: int, seen: CircuitBreakerState | None = None
) -> bool:
    """Return whether an open circuit lets probes through."""
    until_ms = state.open_until_ms or 0
    if until_ms <= now_ms or (seen is not None and seen.open_until_ms == until_ms):
        return True
    since_ms = now_ms if state.since_ms is None else state.since_ms
    return since_ms - now_ms >= until_ms - since_ms


def expired_probes(
    state: CircuitBreakerState, now_ms: int, lease_ms: int, seen: CircuitBreakerState | None = None
) -> dict[str, int]:
    """Return the probes whose place another one may take, each with the end of its lease.

    :param lease_ms: how long the lease of a probe is
    """
    watched = {} if seen is None else seen.probes
    return {
        probe: until_ms
        for probe, until_ms in state.probes.items()
        if not now_ms < until_ms <= now_ms + 2 * lease_ms or watched.get(probe) == until_ms
    }


def settle_probe(
    state: CircuitBreakerState | None,
    now_ms: int,
    nonce: str,
    *,
    succeeded: bool,
    success_threshold: int,
    open_ms: int,
) -> tuple[CircuitBreakerState | None, CircuitBreakerState | None]:
    """Close or open a half-open circuit by how a probe ended, if the probe still counts.

    The answer is the new state, or ``None`` if the lease of the probe is over.
    """
    if state is None or state.state != "half-open" or nonce not in state.probes:
        return state, None
    if not succeeded:
        state = evolve(opened(state, now_ms, open_ms), last_failure_ms=now_ms)
    elif state.success_count + 1 >= success_threshold:
        state = closed(state, now_ms)
    else:
        state = evolve(
            _without_probe(state, nonce),
            success_count=state.success_count + 1,
            last_success_ms=now_ms,
        )
    return state, state


def return_probe(
    state: CircuitBreakerState | None, now_ms: int, nonce: str
) -> tuple[CircuitBreakerState | None, None]:
    """Free the permit of a probe that was cancelled."""
    if state is None or nonce not in state.probes:
        return state, None
    return _without_probe(state, nonce), None


def reset_failures(
    state: CircuitBreakerState | None, now_ms: int, version: int
) -> tuple[CircuitBreakerState | None, bool]:
    """Clear the failures of a closed circuit that is still at ``version``."""
    if state is None or state.state != "closed" or state.version != version:
        return state, False
    return cleared(state, now_ms), True


def record_failure(
    state: CircuitBreakerState | None, now_ms: int, max_failures: int
) -> tuple[CircuitBreakerState, int]:
    """Count one failure whatever the state, and open a closed circuit at the maximum."""
    if state is None:
        state = CircuitBreakerState(window_start_ms=now_ms)
    state = evolve(state, failure_count=state.failure_count + 1, last_failure_ms=now_ms)
    if state.state == "closed" and state.failure_count >= max_failures:
        state = opened(state, now_ms, DEFAULT_OPEN_MS)
    return state, state.failure_count


def record_success(
    state: CircuitBreakerState | None, now_ms: int
) -> tuple[CircuitBreakerState | None, None]:
    """Clear the failures of a closed circuit, or close one whose open time is over."""
    if state is None or state.state == "forced-open":
        return state, None
    if state.state == "open" and not open_time_is_over(state, now_ms):
        return state, None
    if state.state == "closed":
        return (cleared(state, now_ms) if state.failure_count else state), None
    return closed(state, now_ms), None


def replace(
    state: CircuitBreakerState | None, now_ms: int, new: CircuitBreakerState
) -> tuple[CircuitBreakerState, None]:
    """Store a state, whatever it was before."""
    return new, None


def set_by_hand(
    state: CircuitBreakerState | None, now_ms: int, name: CircuitState
) -> tuple[CircuitBreakerState, None]:
    """Close a circuit or force it open, whatever it was."""
    return by_hand(name, now_ms), None


def reset(
    state: CircuitBreakerState | None, now_ms: int
) -> tuple[CircuitBreakerState | None, None]:
    """Forget what happened to a circuit, unless there is none or it is forced open."""
    if state is None or state.state == "forced-open":
        return state, None
    return by_hand("closed", now_ms), None


def purge_at_ms(state: CircuitBreakerState, now_ms: int) -> int | None:
    """Return when nobody can need the state any more; ``None`` for never."""
    if state.state == "forced-open":
        return None
    return max(now_ms, state.open_until_ms or 0, *state.probes.values()) + IDLE_MS


def opened(state: CircuitBreakerState, now_ms: int, open_ms: int) -> CircuitBreakerState:
    """Return a circuit that opens for ``open_ms``."""
    return evolve(
        state,
        state="open",
        since_ms=now_ms,
        open_until_ms=now_ms + open_ms,
        open_count=state.open_count + 1,
        success_count=0,
        probes={},
    )


def closed(state: CircuitBreakerState, now_ms: int) -> CircuitBreakerState:
    """Return a circuit that closes after a success, with a clean count."""
    return CircuitBreakerState(
        last_failure_ms=state.last_failure_ms,
        last_success_ms=now_ms,
        window_start_ms=now_ms,
        since_ms=now_ms,
        version=state.version,
    )


def cleared(state: CircuitBreakerState, now_ms: int) -> CircuitBreakerState:
    """Return a closed circuit without its failures, after a success."""
    return evolve(
        state, failure_count=0, reporters={}, window_start_ms=now_ms, last_success_ms=now_ms
    )


def by_hand(name: CircuitState, now_ms: int) -> CircuitBreakerState:
    """Return a circuit that was closed or forced open by hand."""
    return CircuitBreakerState(state=name, since_ms=now_ms, window_start_ms=now_ms)


def _without_probe(state: CircuitBreakerState, nonce: str) -> CircuitBreakerState:
    return evolve(
        state, probes={probe: until for probe, until in state.probes.items() if probe != nonce}
    )
