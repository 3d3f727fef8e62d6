"""Circuit breakers over any place for records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from attrs import evolve

from gogoscope._core.arguments import check_count
from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    FailureReport,
    ProbeReply,
)
from gogoscope.persistence.records.dated_circuits import DatedCircuit, dated, undated
from gogoscope.persistence.records.place import RecordCapability, json_kind
from gogoscope.persistence.rules import circuit_breakers as circuit_rules
from gogoscope.persistence.validation import check_circuit_state

State = CircuitBreakerState
AnyState = TypeVar("AnyState", State, State | None)
Answer = TypeVar("Answer")
P = ParamSpec("P")

CIRCUITS = json_kind("circuit", DatedCircuit, circuit_rules.purge_at_ms)


class Writes:
    """The last write of a circuit to any store of this process; each is another object.

    Who has seen it before reading a circuit of a store that only this process writes, and sees it
    again, knows that the circuit is still the same.
    """

    __slots__ = ("last",)

    def __init__(self) -> None:
        self.last = object()


writes = Writes()


class RecordCircuitBreakers(RecordCapability):
    """A ``CircuitBreakerStateProvider``: every method that changes a circuit is one transaction."""

    async def get_state(self, key: str) -> State | None:
        """Return a circuit's state, or ``None`` if nothing was ever recorded."""
        record = await self._records.read(CIRCUITS, self._full_key(key))
        return None if record is None else self._undated(record)

    async def set_state(self, key: str, state: State) -> None:
        """Replace a circuit's state, whatever it was; ``version`` is ignored and grows."""
        await self._set_circuit(key, circuit_rules.replace, check_circuit_state(state))

    async def record_failure(self, key: str, max_failures: int) -> int:
        """Count one failure, open the circuit at the maximum, and return the count."""
        check_count("max_failures", max_failures)
        _, count = await self._change_circuit(key, circuit_rules.record_failure, max_failures)
        return count

    async def record_success(self, key: str) -> None:
        """Record a success: clear the failures of a closed circuit, or close one that may probe."""
        await self._change_circuit(key, circuit_rules.record_success)

    async def count_failures(self, key: str, report: FailureReport) -> State:
        """Count failures, and open the circuit when they reach threshold and quorum."""
        state, _ = await self._change_circuit(key, circuit_rules.count_failures, report)
        return state

    async def claim_probe(
        self, key: str, nonce: str, lease_ms: int, limit: int, seen: State | None = None
    ) -> ProbeReply:
        """Ask for one of at most ``limit`` probes of a circuit whose open time is over."""
        state, reply = await self._change_circuit(
            key, circuit_rules.claim_probe, nonce, lease_ms, limit, seen
        )
        return reply if state is None else evolve(reply, state=state)

    async def settle_probe(
        self, key: str, nonce: str, *, succeeded: bool, success_threshold: int, open_ms: int
    ) -> State | None:
        """Settle a probe by how it ended; ``None`` if its lease was over."""
        state, verdict = await self._change_circuit(
            key,
            circuit_rules.settle_probe,
            nonce,
            succeeded=succeeded,
            success_threshold=success_threshold,
            open_ms=open_ms,
        )
        return None if verdict is None else state

    async def return_probe(self, key: str, nonce: str) -> None:
        """Free the permit of a probe that was cancelled, for the next caller."""
        await self._change_circuit(key, circuit_rules.return_probe, nonce)

    async def reset_failures(self, key: str, version: int) -> State | None:
        """Set the count of a closed circuit to 0 if it is still at ``version``."""
        state, done = await self._change_circuit(key, circuit_rules.reset_failures, version)
        return state if done else None

    async def force_open(self, key: str) -> State:
        """Open a circuit, whatever it was, until ``force_close``; return the new state."""
        return await self._set_circuit(key, circuit_rules.set_by_hand, "forced-open")

    async def force_close(self, key: str) -> State:
        """Close a circuit, whatever it was, with a clean count; return the new state."""
        return await self._set_circuit(key, circuit_rules.set_by_hand, "closed")

    async def reset_circuit(self, key: str) -> State:
        """Forget what happened to a circuit, unless it is forced open; return its state."""
        return await self._set_circuit(key, circuit_rules.reset) or State()

    async def circuits(self, pattern: str | None = None) -> dict[str, State]:
        """List the circuits below the store's prefix, each with its state.

        One that is corrupt is logged and left out.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        found = await self._listed(CIRCUITS, pattern)
        return {key: self._undated(record) for key, record in found.items()}

    async def _set_circuit(
        self,
        key: str,
        rule: Callable[Concatenate[State | None, int, P], tuple[AnyState, None]],
        *args: P.args,
        **options: P.kwargs,
    ) -> AnyState:
        """Change a circuit by hand, which a corrupt record does not prevent."""
        change = self._dating(_with_version(rule, *args, **options))
        try:
            answer = await self._change_or_remove(CIRCUITS, key, change)
            state, _ = await self._change(CIRCUITS, key, change) if answer is None else answer
            return state
        finally:
            writes.last = object()

    async def _change_circuit(
        self,
        key: str,
        rule: Callable[Concatenate[State | None, int, P], tuple[AnyState, Answer]],
        *args: P.args,
        **options: P.kwargs,
    ) -> tuple[AnyState, Answer]:
        """Change a circuit by a rule; return its new state and the rule's answer."""
        try:
            change = self._dating(_with_version(rule, *args, **options))
            return await self._change(CIRCUITS, key, change)
        finally:
            writes.last = object()

    def _undated(self, record: DatedCircuit) -> State:
        return undated(record, self._records.now_ms(), self._records.steady())

    def _dating(
        self, change: Callable[[State | None, int], tuple[State | None, Answer]]
    ) -> Callable[[DatedCircuit | None, int], tuple[DatedCircuit | None, Answer]]:
        """Return a change of records, made of one of circuits."""

        def change_dated(
            record: DatedCircuit | None, now_ms: int
        ) -> tuple[DatedCircuit | None, Answer]:
            at = self._records.steady()
            before = None if record is None else undated(record, now_ms, at)
            after, answer = change(before, now_ms)
            if after is before or after is None:
                return None if after is None else record, answer
            return dated(after, now_ms, at), answer

        return change_dated


def _with_version(
    rule: Callable[Concatenate[State | None, int, P], tuple[AnyState, Answer]],
    *args: P.args,
    **options: P.kwargs,
) -> Callable[[State | None, int], tuple[State | None, tuple[AnyState, Answer]]]:
    """Return a rule that raises the version of a circuit that it changes."""

    def change(before: State | None, now_ms: int) -> tuple[State | None, tuple[AnyState, Answer]]:
        after, answer = rule(before, now_ms, *args, **options)
        if after is not None and after is not before:
            version = now_ms * 1000 if before is None else before.version + 1
            after = evolve(after, version=version)
        return after, (after, answer)

    return change
