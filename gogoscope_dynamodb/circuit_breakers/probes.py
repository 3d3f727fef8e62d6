"""Half-open probes: claimed under a lease, settled or given back."""

from __future__ import annotations

from gogoscope.persistence import DEFAULT_OPEN_MS, ProbeReply
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.circuit_breakers import updates
from gogoscope_dynamodb.circuit_breakers.items import (
    MOST_ROUNDS,
    CircuitItems,
    State,
    may_probe,
    opening,
    overtaken,
    times,
)
from gogoscope_dynamodb.schema import CIRCUIT, number, numbers


class CircuitProbes(CircuitItems):
    """The methods of a ``CircuitBreakerStateProvider`` for half-open probes."""

    async def claim_probe(self, key: str, nonce: str, lease_ms: int, limit: int) -> ProbeReply:
        """Ask for one of at most ``limit`` probes of a circuit whose open time is over.

        One write for the first of them, two for further ones.
        """
        item_key = self._key(CIRCUIT, key)
        update = updates.FIRST_PROBE
        dead: list[str] = []
        for _ in range(MOST_ROUNDS):
            now_ms = self._now_ms()
            until_ms = now_ms + lease_ms
            values = {
                ":probes": numbers({nonce: until_ms}),
                ":probeUntil": number(until_ms),
                ":limit": number(limit),
                ":limitPlusDead": number(limit + len(dead)),
                **times(now_ms, until_ms),
            }
            aliases = {"#me": nonce, **{f"#dead{n}": probe for n, probe in enumerate(dead)}}
            answer = await self._write(item_key, update, values, aliases)
            found = answer.item
            if found is None:
                return ProbeReply(granted=False, state=State())
            state = self._seen(key, found)
            if nonce in state.probes:
                return ProbeReply(granted=True, state=state)
            if not may_probe(state, now_ms):
                return ProbeReply(granted=False, state=state)
            if schema.is_original(found):
                await self._adopt(item_key, found, DEFAULT_OPEN_MS)
            elif state.state == "open":
                update = updates.FIRST_PROBE
            elif len(state.probes) < limit:
                update = updates.NEXT_PROBE
            else:
                dead = [probe for probe, end_ms in state.probes.items() if end_ms <= now_ms]
                if len(state.probes) - len(dead) >= limit:
                    return ProbeReply(granted=False, state=state)
                update = updates.take_dead_places(len(dead))
        raise overtaken(key)

    async def settle_probe(
        self, key: str, nonce: str, *, succeeded: bool, success_threshold: int, open_ms: int
    ) -> State | None:
        """Tell how a probe ended; ``None`` if its lease had run out, so that it has no verdict."""
        item_key = self._key(CIRCUIT, key)
        now_ms = self._now_ms()
        values = {
            ":successThresholdLess1": number(success_threshold - 1),
            **times(now_ms),
            **opening(now_ms, open_ms),
        }
        if not succeeded:
            choices = [updates.REOPEN]
        elif success_threshold == 1:
            choices = [updates.CLOSE]
        else:
            choices = [updates.COUNT_SUCCESS, updates.CLOSE]
        for update in choices:
            answer = await self._write(item_key, update, values, {"#me": nonce})
            if (found := answer.item) is None:
                return None
            state = self._seen(key, found)
            if answer.granted:
                return state
            if state.state != "half-open" or nonce not in state.probes:
                # A refusal after a try without an answer: that try was the verdict.
                return state if answer.in_doubt else None
        raise overtaken(key)

    async def return_probe(self, key: str, nonce: str) -> None:
        """Give back the place of a probe that was cancelled; the next caller may have it."""
        await self._write(self._key(CIRCUIT, key), updates.RETURN_PROBE, {}, {"#me": nonce})
