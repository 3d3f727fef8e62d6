"""The times of a circuit, converted to a clock that nobody sets.

A store dates what it keeps by a wall clock, so that all processes understand it. Such a clock may
be set at any moment, so a process never waits for a time of it. It converts a circuit when it
learns it: what is left of an open time or a lease is added to a steady clock, and from then on only
that clock counts.

Invariants:

- What has begun is not in the future, and an open time is not longer than the policy has it.
- What was converted before and is the same in the store does not get later. So a wall clock that is
  set back while the process reads the circuit again makes it wait no longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import evolve

from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState

PAST = ("since_ms", "window_start_ms", "last_failure_ms", "last_success_ms")


def on_steady_clock(
    stored: CircuitBreakerState,
    now_ms: int,
    ahead_ms: int,
    longest_ms: int,
    stored_before: CircuitBreakerState,
    before: CircuitBreakerState,
) -> CircuitBreakerState:
    """Return a stored circuit with its times by the steady clock.

    :param now_ms: the time of the steady clock
    :param ahead_ms: how far the wall clock is ahead of it
    :param longest_ms: how long the circuit may be open
    :param stored_before: the circuit that was converted last
    :param before: what became of it
    """
    times: dict[str, Any] = {}
    for name in PAST:
        if time_ms := getattr(stored, name):
            times[name] = min(time_ms - ahead_ms, now_ms)
    if stored.open_until_ms is not None:
        times["open_until_ms"] = min(stored.open_until_ms - ahead_ms, now_ms + longest_ms)
    for name in times:
        if getattr(stored, name) == getattr(stored_before, name):
            times[name] = min(times[name], getattr(before, name))
    return evolve(
        stored,
        reporters=_converted(stored.reporters, ahead_ms, stored_before.reporters, before.reporters),
        probes=_converted(stored.probes, ahead_ms, stored_before.probes, before.probes),
        **times,
    )


def _converted(
    stored: Mapping[str, int],
    ahead_ms: int,
    stored_before: Mapping[str, int],
    before: Mapping[str, int],
) -> dict[str, int]:
    return {
        name: min(time_ms - ahead_ms, before[name])
        if stored_before.get(name) == time_ms
        else time_ms - ahead_ms
        for name, time_ms in stored.items()
    }


def over(
    stored: CircuitBreakerState, converted: CircuitBreakerState, now_ms: int
) -> CircuitBreakerState | None:
    """Return what the process has waited for, to be told to the store; ``None`` for nothing.

    :param stored: the circuit as the store has it
    :param converted: the same by the steady clock
    """
    is_open = stored.state == "open" and (converted.open_until_ms or 0) > now_ms
    probes = {
        probe: until_ms
        for probe, until_ms in stored.probes.items()
        if converted.probes[probe] <= now_ms
    }
    if (stored.state != "open" or is_open) and not probes:
        return None
    return evolve(stored, probes=probes, open_until_ms=None if is_open else stored.open_until_ms)
