"""The item of a circuit: how it is written, and the state that was seen last.

Mutable state: ``_turns`` lets the writes that count go one by one for each circuit, and
``_last_seen`` holds the last state seen of up to ``REMEMBERED`` circuits. It only foretells which
failure will trip a circuit, so that counting and tripping take one write. It may be outdated: the
conditions of the write decide.
"""

from __future__ import annotations

from typing import Any

from gogoscope.exceptions import ThrottledError
from gogoscope.persistence import CircuitBreakerState, circuit_rules, process_name
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.answers import Answer, Update
from gogoscope_dynamodb.capability import Capability, Settings
from gogoscope_dynamodb.circuit_breakers import updates
from gogoscope_dynamodb.requests import Table
from gogoscope_dynamodb.schema import Item, decode_circuit, number
from gogoscope_dynamodb.turns import Turns

MOST_ROUNDS = 16
REMEMBERED = 1024

State = CircuitBreakerState


class CircuitItems(Capability):
    """What the methods of a ``CircuitBreakerStateProvider`` have in common."""

    def __init__(self, table: Table, settings: Settings) -> None:
        super().__init__(table, settings)
        self._reporter = process_name()
        self._turns = Turns(self._now_ms)
        self._last_seen: dict[str, State] = {}

    async def _write(
        self,
        item_key: Item,
        update: Update,
        values: dict[str, Any],
        aliases: dict[str, str] | None = None,
    ) -> Answer:
        return await self._table.update(item_key, update, updates.STATES | values, aliases=aliases)

    def _seen(self, key: str, found: Item) -> State:
        """Decode a circuit and remember it, to foretell which failure will trip it."""
        state = decode_circuit(found)
        self._last_seen.pop(key, None)
        self._last_seen[key] = state
        if len(self._last_seen) > REMEMBERED:
            del self._last_seen[next(iter(self._last_seen))]
        return state


def may_probe(state: State, now_ms: int, seen: State | None = None) -> bool:
    """Return whether a circuit lets probes through."""
    return state.state == "half-open" or (
        state.state == "open" and circuit_rules.open_time_is_over(state, now_ms, seen)
    )


def times(now_ms: int, until_ms: int = 0) -> dict[str, Any]:
    """Return the values of a write: its time, and when the item may be purged."""
    return {":now": number(now_ms), ":ttl": schema.purge_time(max(now_ms, until_ms))}


def opening(now_ms: int, open_ms: int) -> dict[str, Any]:
    """Return the values of a write that opens a circuit."""
    until_ms = now_ms + open_ms
    return {":openUntil": number(until_ms), ":openTtl": schema.purge_time(until_ms)}


def purge_time(state: State, now_ms: int) -> dict[str, str]:
    """Return ``expiresAt`` of a whole state."""
    return schema.purge_time(max(now_ms, state.open_until_ms or 0, *state.probes.values()))


def overtaken(key: str) -> ThrottledError:
    """Return the error for a circuit that others have changed before every try to write it."""
    return ThrottledError(f"circuit {key!r} changed {MOST_ROUNDS} times while it was written")
