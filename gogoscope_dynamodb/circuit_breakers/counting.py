"""Counting failures: each counted exactly once, in one conditional write.

Adding to a count cannot be repeated safely: from the sum nobody can tell whether an earlier try of
the write was applied. So each write of a process has a name, which is the time made unique by its
turn (see ``turns``), and leaves it in ``reporters``. It never goes back, as the clock may, so it is
no time to decide by. A write is refused when its own name stands there already, or a later one:
after a try without an answer, the refusal that shows its own name is the echo of its own success.

Counting and tripping are one write where the state that was last seen foretells the trip; else the
trip is a second write, on the condition that threshold and quorum are still reached.
"""

from __future__ import annotations

from attrs import evolve

from gogoscope.persistence import DEFAULT_OPEN_MS, FailureReport, check_count, circuit_rules
from gogoscope_dynamodb import schema
from gogoscope_dynamodb.answers import Answer, Update
from gogoscope_dynamodb.circuit_breakers import updates
from gogoscope_dynamodb.circuit_breakers.items import (
    MOST_ROUNDS,
    CircuitItems,
    State,
    may_probe,
    opening,
    overtaken,
    purge_time,
    times,
)
from gogoscope_dynamodb.schema import CIRCUIT, Item, decode_circuit, number, numbers
from gogoscope_dynamodb.values import nobody_can_tell


class CircuitCounting(CircuitItems):
    """The methods of a ``CircuitBreakerStateProvider`` that count failures and successes."""

    async def record_failure(self, key: str, max_failures: int) -> int:
        """Count one failure, open the circuit at the maximum, and return the count.

        One write, two for a circuit's first failure and for the one that opens it.
        """
        maximum = check_count("max_failures", max_failures)
        report = FailureReport(self._reporter, 1, maximum, DEFAULT_OPEN_MS)
        async with self._turns.turn(key) as name:
            counted = await self._count(key, report, name, late=True)
            await self._trip(key, report, counted)
        return counted.failure_count

    async def count_failures(self, key: str, report: FailureReport) -> State:
        """Count failures and trip the circuit when they reach threshold and quorum.

        One write; two for a circuit's first failure, and for a trip that the state which this
        store saw last did not let it expect.
        """
        async with self._turns.turn(key) as name:
            counted = await self._count(key, report, name, late=False)
            return await self._trip(key, report, counted)

    async def record_success(self, key: str) -> None:
        """Clear the failures of a closed circuit, or close one whose open time is over.

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
                update, needed = updates.CLOSE_SEEN, may_probe(state, now_ms)
            if not needed:
                return
            values = {":seenVersion": number(state.version), **times(now_ms)}
            answer = await self._write(item_key, update, values)
            if answer.granted:
                return
            found = answer.item
        raise overtaken(key)

    async def reset_failures(self, key: str, version: int) -> State | None:
        """Set the count of a closed circuit to 0 if it still has this version; one write.

        :returns: the new state, or ``None`` if the circuit has changed
        """
        values = {":seenVersion": number(version), **times(self._now_ms())}
        answer = await self._write(self._key(CIRCUIT, key), updates.RESET, values)
        if (found := answer.item) is None:
            return None
        state = self._seen(key, found)
        landed = answer.in_doubt and state.version == version + 1
        clear = state.state == "closed" and not state.failure_count
        return state if answer.granted or (clear and (landed or state.version == version)) else None

    async def _count(self, key: str, report: FailureReport, name: int, *, late: bool) -> State:
        """Count the failures of a report exactly once, and return the circuit after that.

        :param late: whether failures count while the circuit is not closed, and in any window
        """
        in_doubt = False
        update = updates.COUNT
        known = self._last_seen.get(key, State())
        if not late and _would_trip(known, report):
            update = updates.COUNT_AND_TRIP
        known_ms = known.window_start_ms
        if not late and circuit_rules.window_is_over(known, self._now_ms(), report):
            known_ms = -1
        for _ in range(MOST_ROUNDS):
            answer = await self._add(key, update, report, name, known_ms, late=late)
            in_doubt = in_doubt or answer.in_doubt
            if (found := answer.item) is None:
                continue
            state = self._seen(key, found)
            last_name = state.reporters.get(report.reporter, 0)
            if answer.granted or (last_name == name and in_doubt):
                return state
            if last_name >= name:
                # Another store of this process has counted since, with a later name.
                if in_doubt:
                    raise nobody_can_tell(found)
                name = self._turns.rename(key, last_name)
            elif state.state != "closed" and not late:
                return state
            else:
                update = _fitting(state, self._now_ms(), report, late=late)
            known_ms = state.window_start_ms
        raise overtaken(key)

    async def _add(
        self,
        key: str,
        update: Update,
        report: FailureReport,
        name: int,
        known_ms: int,
        *,
        late: bool,
    ) -> Answer:
        """Add failures to a circuit, or create the circuit with them.

        :param known_ms: when the window began that is known to be the present one
        """
        item_key = self._key(CIRCUIT, key)
        now_ms = self._now_ms()
        edge_ms = 0 if report.window_ms is None else now_ms - report.window_ms
        values = {
            ":n": number(report.count),
            ":name": number(name),
            ":windowEdge": number(-1 if late else edge_ms),
            ":settled": number(now_ms - self._allowed_skew_ms()),
            ":knownWindow": number(known_ms),
            ":seenWindow": number(-1 if report.seen_window_ms is None else report.seen_window_ms),
            ":reporters": numbers({report.reporter: name}),
            ":thresholdLessN": number(report.threshold - report.count),
            ":quorum": number(report.quorum),
            ":quorumLess1": number(report.quorum - 1),
            **times(now_ms),
            **opening(now_ms, report.open_ms),
        }
        answer = await self._write(item_key, update, values, {"#me": report.reporter})
        if answer.item is not None:
            return answer
        created = await self._create(item_key, _first_failure(report, name, now_ms), now_ms)
        return evolve(created, in_doubt=created.in_doubt or answer.in_doubt)

    async def _trip(self, key: str, report: FailureReport, counted: State) -> State:
        reached = (
            counted.failure_count >= report.threshold and len(counted.reporters) >= report.quorum
        )
        if counted.state != "closed" or not reached:
            return counted
        now_ms = self._now_ms()
        values = {
            ":knownWindow": number(counted.window_start_ms),
            ":threshold": number(report.threshold),
            ":quorum": number(report.quorum),
            **opening(now_ms, report.open_ms),
            **times(now_ms),
        }
        answer = await self._write(self._key(CIRCUIT, key), updates.TRIP, values)
        return counted if answer.item is None else self._seen(key, answer.item)

    async def _create(self, item_key: Item, state: State, now_ms: int) -> Answer:
        """Write a new circuit, unless there is one; the answer comes with the item in any case."""
        item = {
            **item_key,
            "version": number(now_ms * 1000),
            "data": schema.encode_circuit(state),
            "expiresAt": purge_time(state, now_ms),
        }
        answer = await self._table.put(item, ConditionExpression="attribute_not_exists(pk)")
        return evolve(answer, response={"Attributes": item}) if answer.granted else answer


def _first_failure(report: FailureReport, name: int, now_ms: int) -> State:
    state = State(
        failure_count=report.count,
        last_failure_ms=now_ms,
        window_start_ms=now_ms,
        reporters={report.reporter: name},
    )
    if report.count < report.threshold or report.quorum > 1:
        return state
    return circuit_rules.opened(state, now_ms, report.open_ms)


def _would_trip(state: State, report: FailureReport) -> bool:
    return (
        state.failure_count + report.count >= report.threshold
        and len({*state.reporters, report.reporter}) >= report.quorum
    )


def _fitting(state: State, now_ms: int, report: FailureReport, *, late: bool) -> Update:
    if state.state != "closed":
        return updates.COUNT_LATE
    over = not late and circuit_rules.window_is_over(state, now_ms, report)
    return updates.COUNT_IN_NEW_WINDOW if over else updates.COUNT
