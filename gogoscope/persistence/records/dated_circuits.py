"""Stored circuits whose times survive a wall clock that is set, where one machine has them.

The times of a circuit are wall times, for people and for other machines. A place that one machine
has to itself knows a steady clock, too. There each record also says what both clocks showed when it
was written. Whoever reads it later, on the same timeline, moves its times by as much as the wall
clock was set since: what was to last ten seconds lasts ten seconds, whoever reads it.

A record of another timeline, or of a place without a steady clock, is read as it is.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve, fields, frozen

from gogoscope._core.clock import STEP_SECONDS
from gogoscope.persistence.lock_records import Steady
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState

State = CircuitBreakerState

STEP_MS = round(STEP_SECONDS * 1000)
_TIMES = ("last_failure_ms", "last_success_ms", "open_until_ms", "window_start_ms", "since_ms")
_NAMES = [field.name for field in fields(State)]


@frozen
class DatedCircuit(State):
    """A circuit as a place keeps it: at ``steady_ms`` of a timeline it was ``wall_ms``."""

    timeline: str | None = None
    wall_ms: int = 0
    steady_ms: int = 0


def dated(state: State, now_ms: int, at: Steady | None) -> DatedCircuit:
    """Return the record of a circuit that is written now."""
    parts: dict[str, Any] = {name: getattr(state, name) for name in _NAMES}
    if at is not None:
        parts |= {"timeline": at.timeline, "wall_ms": now_ms, "steady_ms": at.ms}
    return DatedCircuit(**parts)


def undated(record: DatedCircuit, now_ms: int, at: Steady | None) -> State:
    """Return the circuit of a record, with its times by the wall clock of now."""
    state = State(**{name: getattr(record, name) for name in _NAMES})
    if at is None or record.timeline != at.timeline:
        return state
    set_by_ms = (now_ms - at.ms) - (record.wall_ms - record.steady_ms)
    return state if abs(set_by_ms) <= STEP_MS else _moved(state, set_by_ms)


def _moved(state: State, by_ms: int) -> State:
    def moved(time_ms: int) -> int:
        return max(1, time_ms + by_ms)

    times: dict[str, Any] = {
        name: moved(time_ms) for name in _TIMES if (time_ms := getattr(state, name))
    }
    return evolve(
        state,
        reporters={name: moved(time_ms) for name, time_ms in state.reporters.items()},
        probes={name: moved(time_ms) for name, time_ms in state.probes.items()},
        **times,
    )
