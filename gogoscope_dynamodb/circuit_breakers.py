"""Circuit breakers in a DynamoDB table: every step of a circuit is one conditional write."""

from __future__ import annotations

import os
from typing import Any

from attrs import evolve

from gogoscope.exceptions import ThrottledError
from gogoscope.persistence.protocols import (
    DEFAULT_OPEN_MS,
    CircuitBreakerState,
    FailureReport,
    ProbeReply,
)
from gogoscope.persistence.validation import check_count
from gogoscope_dynamodb import circuit_updates as updates
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.capability import Capability, Settings
from gogoscope_dynamodb.requests import Answer, Table, Update
from gogoscope_dynamodb.schema import CIRCUIT, Item, decode_circuit, number, numbers
from gogoscope_dynamodb.turns import Turns

MOST_ROUNDS = 16
REMEMBERED = 1024

State = CircuitBreakerState


class CircuitBreakers(Capability):
    """A ``CircuitBreakerStateProvider`` on a table."""

    def __init__(self, table: Table, settings: Settings) -> None:
        super().__init__(table, settings)
        self._reporter = os.urandom(8).hex()
        self._turns = Turns(self._now_ms)
        self._last_seen: dict[str, State] = {}

    async def get_state(self, key: str) -> State | None:
        """Give a circuit's state, or ``None`` if nothing was ever recorded; a consistent read."""
        found = await self._table.read(self._key(CIRCUIT, key), consistent=True)
        return None if found is None else self._seen(key, found)

    async def set_state(self, key: str, state: State) -> None:
        """Replace a circuit's state, whatever it was; ``version`` is ignored and grows."""
        item_key = self._key(CIRCUIT, key)
        if not isinstance(state, State):
            raise TypeError(
                f"state must be a CircuitBreakerState, got {state!r} of type {type(state).__name__}"
            )
        if state.state not in schema.STATES:
            raise ValueError(
                f"state.state must be one of {', '.join(schema.STATES)}, got {state.state!r}"
            )
        now_ms = self._now_ms()
        values = {
            ":state": schema.encode_circuit(state),
            ":ttl": _purge_time(state, now_ms),
            ":floor": number(now_ms * 1000),
            ":first": number(schema.FIRST_VERSION),
        }
        update = updates.REPLACE_FOR_EVER if state.state == "forced-open" else updates.REPLACE
        for _ in range(MOST_ROUNDS):
            answer = await self._write(item_key, update, values)
            if answer.granted:
                return
            if answer.item is not None:
                await self._adopt(item_key, answer.item, DEFAULT_OPEN_MS)
        raise _restless(key)

    async def record_failure(self, key: str, max_failures: int) -> int:
        """Count one failure, open the circuit at the maximum, and give the count.

        One write, two for a circuit's first failure and for the one that opens it.
        """
        maximum = check_count("max_failures", max_failures)
        report = FailureReport(self._reporter, 1, maximum, DEFAULT_OPEN_MS)
        async with self._turns.turn(key) as name:
            counted = await self._count(key, report, name, edge_ms=-1, late=True)
            await self._trip(key, report, counted, edge_ms=-1)
        return counted.failure_count

    async def count_failures(self, key: str, report: FailureReport) -> State:
        """Count failures and trip the circuit when they reach threshold and quorum.

        One write, two for a circuit's first failure and for a trip that no earlier reply foretold.
        """
        async with self._turns.turn(key) as name:
            edge_ms = 0 if report.window_ms is None else name - report.window_ms
            counted = await self._count(key, report, name, edge_ms=edge_ms, late=False)
            return await self._trip(key, report, counted, edge_ms=edge_ms)

    async def record_success(self, key: str) -> None:
        """Note a success: clear the failures of a closed circuit, close one whose time is over.

        One consistent read, and a write if there is something to change.
        """
        item_key = self._key(CIRCUIT, key)
        found = await self._table.read(item_key, consistent=True)
        for _ in range(MOST_ROUNDS):
            if found is None:
                return
            state = decode_circuit(found)
            now_ms = self._now_ms()
            if state.state == "closed":
                update, needed = updates.RESET, state.failure_count > 0
            else:
                update, needed = updates.CLOSE_SEEN, _may_probe(state, now_ms)
            if not needed:
                return
            if schema.is_original(found):
                await self._adopt(item_key, found, DEFAULT_OPEN_MS)
                found = await self._table.read(item_key, consistent=True)
                continue
            values = {":seenVersion": number(state.version), **_times(now_ms)}
            answer = await self._write(item_key, update, values)
            if answer.granted:
                return
            found = answer.item
        raise _restless(key)

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
                **_times(now_ms, until_ms),
            }
            aliases = {"#me": nonce, **{f"#dead{n}": probe for n, probe in enumerate(dead)}}
            answer = await self._write(item_key, update, values, aliases)
            found = answer.item
            if found is None:
                return ProbeReply(granted=False, state=State())
            state = self._seen(key, found)
            if nonce in state.probes:
                return ProbeReply(granted=True, state=state)
            if not _may_probe(state, now_ms):
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
        raise _restless(key)

    async def settle_probe(
        self, key: str, nonce: str, *, succeeded: bool, success_threshold: int, open_ms: int
    ) -> State | None:
        """Tell how a probe ended; ``None`` if its lease had run out, so that it has no verdict."""
        item_key = self._key(CIRCUIT, key)
        now_ms = self._now_ms()
        values = {
            ":successThresholdLess1": number(success_threshold - 1),
            **_times(now_ms),
            **_opening(now_ms, open_ms),
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
        raise _restless(key)

    async def return_probe(self, key: str, nonce: str) -> None:
        """Give back the place of a probe that was cancelled; the next caller may have it."""
        await self._write(self._key(CIRCUIT, key), updates.RETURN_PROBE, {}, {"#me": nonce})

    async def reset_failures(self, key: str, version: int) -> State | None:
        """Set the count of a closed circuit to 0 if its version is still the one given."""
        values = {":seenVersion": number(version), **_times(self._now_ms())}
        answer = await self._write(self._key(CIRCUIT, key), updates.RESET, values)
        if (found := answer.item) is None:
            return None
        state = self._seen(key, found)
        landed = answer.in_doubt and state.version == version + 1
        clear = state.state == "closed" and not state.failure_count
        return state if answer.granted or (clear and (landed or state.version == version)) else None

    async def _count(
        self, key: str, report: FailureReport, name: int, *, edge_ms: int, late: bool
    ) -> State:
        """Count the failures of a report exactly once, and give the circuit as that left it.

        :param edge_ms: a window that began by then is over
        :param late: whether failures of a circuit that is not closed count too
        """
        in_doubt = False
        update = updates.COUNT
        if not late and _would_trip(self._last_seen.get(key, State()), report):
            update = updates.COUNT_AND_TRIP
        for _ in range(MOST_ROUNDS):
            answer = await self._add(self._key(CIRCUIT, key), update, report, name, edge_ms)
            in_doubt = in_doubt or answer.in_doubt
            if (found := answer.item) is None:
                continue
            state = self._seen(key, found, report.open_ms)
            named_alike = state.reporters.get(report.reporter) == name
            if answer.granted or (named_alike and in_doubt):
                return state
            if named_alike:
                # Another store of this process gave its write the same name.
                name += 1
            elif schema.is_original(found):
                await self._adopt(self._key(CIRCUIT, key), found, report.open_ms)
            elif state.state != "closed" and not late:
                return state
            else:
                update = _fitting(state, edge_ms)
        raise _restless(key)

    async def _add(
        self, item_key: Item, update: Update, report: FailureReport, name: int, edge_ms: int
    ) -> Answer:
        """Write failures into a circuit, or make one of them."""
        values = {
            ":n": number(report.count),
            ":windowEdge": number(edge_ms),
            ":reporters": numbers({report.reporter: name}),
            ":thresholdLessN": number(report.threshold - report.count),
            ":quorum": number(report.quorum),
            ":quorumLess1": number(report.quorum - 1),
            **_times(name),
            **_opening(name, report.open_ms),
        }
        answer = await self._write(item_key, update, values, {"#me": report.reporter})
        if answer.item is not None:
            return answer
        created = await self._create(item_key, _first_failure(report, name), name)
        return evolve(created, in_doubt=created.in_doubt or answer.in_doubt)

    async def _trip(
        self, key: str, report: FailureReport, counted: State, *, edge_ms: int
    ) -> State:
        reached = (
            counted.failure_count >= report.threshold and len(counted.reporters) >= report.quorum
        )
        if counted.state != "closed" or not reached:
            return counted
        values = {
            ":windowEdge": number(edge_ms),
            ":threshold": number(report.threshold),
            ":quorum": number(report.quorum),
            **_opening(self._now_ms(), report.open_ms),
        }
        answer = await self._write(self._key(CIRCUIT, key), updates.TRIP, values)
        return counted if answer.item is None else self._seen(key, answer.item)

    async def _create(self, item_key: Item, state: State, now_ms: int) -> Answer:
        """Write a new circuit; the answer has its item either way."""
        item = {
            **item_key,
            "version": number(now_ms * 1000),
            "data": schema.encode_circuit(state),
            "expiresAt": _purge_time(state, now_ms),
        }
        answer = await self._table.put(item, if_absent=True)
        return evolve(answer, response={"Attributes": item}) if answer.granted else answer

    async def _adopt(self, item_key: Item, found: Item, open_ms: int) -> None:
        """Turn an item of the TypeScript original into one of ours, unless it changed meanwhile."""
        state = decode_circuit(found, open_ms)
        now_ms = self._now_ms()
        await self._write(
            item_key,
            updates.ADOPT,
            {
                ":floor": number(now_ms * 1000),
                ":state": schema.encode_circuit(state),
                ":ttl": _purge_time(state, now_ms),
                ":seenVersion": number(state.version),
                ":seenState": found["data"]["M"]["state"],
                ":seenCount": number(state.failure_count),
            },
        )

    async def _write(
        self,
        item_key: Item,
        update: Update,
        values: dict[str, Any],
        aliases: dict[str, str] | None = None,
    ) -> Answer:
        return await self._table.update(item_key, update, updates.STATES | values, aliases=aliases)

    def _seen(self, key: str, found: Item, open_ms: int = DEFAULT_OPEN_MS) -> State:
        """Decode a circuit and keep it in mind, to foretell which failure will trip it."""
        state = decode_circuit(found, open_ms)
        self._last_seen.pop(key, None)
        self._last_seen[key] = state
        if len(self._last_seen) > REMEMBERED:
            del self._last_seen[next(iter(self._last_seen))]
        return state


def _first_failure(report: FailureReport, now_ms: int) -> State:
    state = State(
        failure_count=report.count,
        last_failure_ms=now_ms,
        window_start_ms=now_ms,
        reporters={report.reporter: now_ms},
    )
    if report.count < report.threshold or report.quorum > 1:
        return state
    return evolve(state, state="open", open_until_ms=now_ms + report.open_ms, open_count=1)


def _would_trip(state: State, report: FailureReport) -> bool:
    return (
        state.failure_count + report.count >= report.threshold
        and len({*state.reporters, report.reporter}) >= report.quorum
    )


def _fitting(state: State, edge_ms: int) -> Update:
    if state.state != "closed":
        return updates.COUNT_LATE
    return updates.COUNT if state.window_start_ms > edge_ms else updates.COUNT_IN_NEW_WINDOW


def _may_probe(state: State, now_ms: int) -> bool:
    return state.state == "half-open" or (
        state.state == "open" and (state.open_until_ms or 0) <= now_ms
    )


def _times(now_ms: int, until_ms: int = 0) -> dict[str, Any]:
    return {":now": number(now_ms), ":ttl": schema.purge_time(max(now_ms, until_ms))}


def _opening(now_ms: int, open_ms: int) -> dict[str, Any]:
    until_ms = now_ms + open_ms
    return {":openUntil": number(until_ms), ":openTtl": schema.purge_time(until_ms)}


def _purge_time(state: State, now_ms: int) -> dict[str, str]:
    return schema.purge_time(max(now_ms, state.open_until_ms or 0, *state.probes.values()))


def _restless(key: str) -> ThrottledError:
    return ThrottledError(f"circuit {key!r} changed {MOST_ROUNDS} times while it was written")
