"""Reading circuits, listing them, and setting them by hand."""

from __future__ import annotations

from gogoscope.exceptions import CorruptRecordError
from gogoscope.persistence import check_circuit_state, circuit_rules
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.circuit_breakers import updates
from gogoscope_dynamodb.circuit_breakers.items import (
    MOST_ROUNDS,
    CircuitItems,
    State,
    overtaken,
    purge_time,
)
from gogoscope_dynamodb.scan import listed
from gogoscope_dynamodb.schema import CIRCUIT, Item, decode_circuit, number


class CircuitControl(CircuitItems):
    """The methods of a ``CircuitBreakerStateProvider`` that read circuits and set them by hand."""

    async def get_state(self, key: str) -> State | None:
        """Return a circuit's state, or ``None`` if nothing was ever recorded; a consistent read."""
        found = await self._table.read(self._key(CIRCUIT, key), consistent=True)
        return None if found is None else self._seen(key, found)

    async def set_state(self, key: str, state: State) -> None:
        """Replace a circuit's state, whatever it was; ``version`` is ignored and grows."""
        await self._replace(key, check_circuit_state(state), self._now_ms())

    async def force_open(self, key: str) -> State:
        """Open a circuit until ``force_close``, and return the new state; one write."""
        now_ms = self._now_ms()
        return await self._replace(key, circuit_rules.by_hand("forced-open", now_ms), now_ms)

    async def force_close(self, key: str) -> State:
        """Close a circuit, clear its count, and return the new state; one write."""
        now_ms = self._now_ms()
        return await self._replace(key, circuit_rules.by_hand("closed", now_ms), now_ms)

    async def reset_circuit(self, key: str) -> State:
        """Reset a circuit unless it is forced open, and return its state; one write."""
        item_key = self._key(CIRCUIT, key)
        now_ms = self._now_ms()
        fresh = circuit_rules.by_hand("closed", now_ms)
        values = {":state": schema.encode_circuit(fresh), ":ttl": purge_time(fresh, now_ms)}
        stamp = self._stamp(now_ms)
        for _ in range(MOST_ROUNDS):
            values[":stamp"] = number(stamp)
            answer = await self._write(item_key, updates.RESET_BY_HAND, values)
            if (found := answer.item) is None:
                return State()
            try:
                state, last = self._seen(key, found), schema.stamp_of(found)
            except CorruptRecordError:
                return await self._replace(key, fresh, now_ms)
            if answer.granted or answer.in_doubt or state.state == "forced-open" or last < stamp:
                return state
            stamp = last + 1  # The clock of whoever replaced the state is ahead.
        raise overtaken(key)

    async def circuits(self, pattern: str | None = None) -> dict[str, State]:
        """List the circuits below the store's prefix, each with its state, in no particular order.

        It reads the whole table, whatever the pattern is, and is charged for that: a tool for
        people, not for every request. A circuit that is corrupt is logged and left out.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        return await listed(
            self._table, CIRCUIT, self._settings.key_prefix, pattern, decode_circuit
        )

    async def _replace(self, key: str, state: State, now_ms: int) -> State:
        """Write a whole state, and return it as it is stored."""
        item_key = self._key(CIRCUIT, key)
        values = {
            ":state": schema.encode_circuit(state),
            ":ttl": purge_time(state, now_ms),
            ":floor": number(now_ms * 1000),
        }
        update = updates.REPLACE_FOR_EVER if state.state == "forced-open" else updates.REPLACE
        stamp = self._stamp(now_ms)
        for _ in range(MOST_ROUNDS):
            values[":stamp"] = number(stamp)
            answer = await self._write(item_key, update, values)
            if (found := answer.item) is None:
                continue
            if not answer.granted and (last := _stamp_of(found)) >= stamp:
                if answer.in_doubt:  # It was applied, or replaced before anybody could see it.
                    return self._seen(key, found)
                stamp = last + 1
                continue
            if not answer.granted:  # its version is malformed
                item = {**item_key, "version": values[":floor"], "data": values[":state"]}
                answer = await self._table.replace(found, item)
                found = item
            if answer.granted:
                return self._seen(key, found)
        raise overtaken(key)


def _stamp_of(found: Item) -> int:
    try:
        schema.version_of(found)
        return schema.stamp_of(found)
    except CorruptRecordError:
        return -1
