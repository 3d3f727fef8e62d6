"""Probes of half-open circuits: claimed with a lease, then settled or returned.

A circuit's map ``probes`` holds the permits: the nonce of each probe in flight, and when its lease
expires. A permit whose lease has expired is taken over by the next probe that finds the limit
reached; its own verdict counts as long as nobody has done so.
"""

from __future__ import annotations

from collections.abc import Mapping

from gogoscope.persistence import ProbeReply, circuit_rules
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

    async def claim_probe(
        self, key: str, nonce: str, lease_ms: int, limit: int, seen: State | None = None
    ) -> ProbeReply:
        """Claim one of at most ``limit`` permits to probe a circuit whose open time is over.

        One write for the first permit and to renew one, two for each further permit.
        """
        item_key = self._key(CIRCUIT, key)
        known = self._last_seen.get(key, State())
        renewing = nonce in known.probes or not limit
        update = updates.RENEW_PROBE if renewing else updates.HALF_OPEN
        probes: Mapping[str, int] = {}
        expired: Mapping[str, int] = {}
        seen_until_ms = None if seen is None else seen.open_until_ms
        version = 0
        for _ in range(MOST_ROUNDS):
            now_ms = self._now_ms()
            until_ms = now_ms + lease_ms
            values = {
                ":probes": numbers({nonce: until_ms}),
                ":probeUntil": number(until_ms),
                ":farAhead": number(now_ms + 2 * lease_ms),
                ":seenVersion": number(version),
                ":seenUntil": number(-1 if seen_until_ms is None else seen_until_ms),
                ":limit": number(limit),
                ":seenProbes": numbers(probes),
                ":probesWithoutExpired": numbers(
                    {probe: end_ms for probe, end_ms in probes.items() if probe not in expired}
                    | {nonce: until_ms}
                ),
                **times(now_ms, until_ms),
            }
            answer = await self._write(item_key, update, values, {"#me": nonce})
            found = answer.item
            if found is None:
                return ProbeReply(granted=False, state=State())
            state = self._seen(key, found)
            version = state.version
            if answer.granted or until_ms <= state.probes.get(nonce, 0) <= now_ms + 2 * lease_ms:
                return ProbeReply(granted=True, state=state)
            if not may_probe(state, now_ms, seen) or not (limit or nonce in state.probes):
                return ProbeReply(granted=False, state=state)
            if state.state == "open":
                update, seen_until_ms = updates.HALF_OPEN, state.open_until_ms
            elif nonce in state.probes:
                update = updates.RENEW_PROBE
            elif len(state.probes) < limit:
                update = updates.NEXT_PROBE
            else:
                expired = circuit_rules.expired_probes(state, now_ms, lease_ms, seen)
                if len(state.probes) - len(expired) >= limit:
                    return ProbeReply(granted=False, state=state)
                update, probes = updates.TAKE_EXPIRED_PERMITS, state.probes
        raise overtaken(key)

    async def settle_probe(
        self, key: str, nonce: str, *, succeeded: bool, success_threshold: int, open_ms: int
    ) -> State | None:
        """Settle a probe; ``None`` if it has lost its permit, so that its verdict does not count.

        One write, or two if it succeeded and more than one success closes the circuit.
        """
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
                # After a try without an answer, the refusal shows that this try was applied.
                return state if answer.in_doubt else None
        raise overtaken(key)

    async def return_probe(self, key: str, nonce: str) -> None:
        """Return the permit of a probe that was cancelled; one write."""
        await self._write(self._key(CIRCUIT, key), updates.RETURN_PROBE, {}, {"#me": nonce})
