"""Any sequence of calls on a circuit returns the answers of the pure rules."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    CircuitState,
    FailureReport,
)
from gogoscope.persistence.rules import circuit_breakers as circuit_rules
from gogoscope.testing.conformance.base import Conformance, ManualClock
from gogoscope.testing.conformance.samples import sampled

LONGEST = 15
EXAMPLES = 50

Calls = list[tuple[Any, ...]]

CORPUS: list[Calls] = [
    [("record_failure", 2), ("record_success",), ("record_failure", 2), ("record_failure", 2)],
    [
        ("count_failures", FailureReport("p1", 3, 3, 500)),
        ("claim_probe", "n1", 500, 1),
        ("advance", 0.531),
        ("claim_probe", "n1", 500, 1),
        ("claim_probe", "n2", 500, 1),
        ("advance", 0.531),
        ("claim_probe", "n2", 500, 1),
        ("settle_probe", "n1", True, 1, 500),
        ("settle_probe", "n2", True, 1, 500),
    ],
    [
        ("set_state", "open"),
        ("advance", 0.531),
        ("claim_probe", "n1", 2_000, 2),
        ("claim_probe", "n2", 2_000, 2),
        ("return_probe", "n1"),
        ("settle_probe", "n2", False, 2, 1_000),
        ("record_success",),
        ("advance", 1.031),
        ("record_success",),
    ],
    [
        ("count_failures", FailureReport("p1", 2, 3, 500, 1_000)),
        ("advance", 1.031),
        ("count_failures", FailureReport("p2", 2, 3, 500, 1_000)),
        ("reset_failures", False),
        ("reset_failures", True),
        ("set_state", "forced-open"),
        ("record_failure", 1),
        ("record_success",),
    ],
]


def circuit_calls(st: Any) -> Any:
    """Return the strategy of all sequences of calls."""
    # All durations are multiples of 500 ms and no sum of up to 15 advances is within 15 ms of
    # one, so that a store that dates a write a few milliseconds later decides alike.
    durations_ms = st.sampled_from([500, 1_000, 2_000])
    nonces = st.sampled_from(["n1", "n2", "n3"])
    report = st.builds(
        FailureReport,
        reporter=st.sampled_from(["p1", "p2"]),
        count=st.integers(1, 3),
        threshold=st.integers(1, 5),
        open_ms=durations_ms,
        window_ms=st.none() | durations_ms,
    )
    call = st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([0.531, 1.031, 2.531])),
        st.tuples(st.just("record_failure"), st.integers(1, 4)),
        st.tuples(st.just("record_success")),
        st.tuples(st.just("count_failures"), report),
        st.tuples(st.just("claim_probe"), nonces, durations_ms, st.integers(1, 2)),
        st.tuples(st.just("settle_probe"), nonces, st.booleans(), st.integers(1, 2), durations_ms),
        st.tuples(st.just("return_probe"), nonces),
        st.tuples(st.just("reset_failures"), st.booleans()),
        st.tuples(st.just("set_state"), st.sampled_from(["closed", "open", "forced-open"])),
    )
    return st.lists(call, max_size=LONGEST)


class CircuitModel:
    """One circuit, changed by the rules alone."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.state: CircuitBreakerState | None = None

    def record_failure(self, max_failures: int) -> int:
        self.state, count = circuit_rules.record_failure(self.state, self._now_ms(), max_failures)
        return count

    def record_success(self) -> None:
        self.state, _ = circuit_rules.record_success(self.state, self._now_ms())

    def count_failures(self, report: FailureReport) -> CircuitBreakerState:
        self.state, _ = circuit_rules.count_failures(self.state, self._now_ms(), report)
        return self.state

    def claim_probe(self, nonce: str, lease_ms: int, limit: int) -> bool:
        self.state, reply = circuit_rules.claim_probe(
            self.state, self._now_ms(), nonce, lease_ms, limit
        )
        return reply.granted

    def settle_probe(
        self, nonce: str, succeeded: bool, success_threshold: int, open_ms: int
    ) -> CircuitBreakerState | None:
        self.state, verdict = circuit_rules.settle_probe(
            self.state,
            self._now_ms(),
            nonce,
            succeeded=succeeded,
            success_threshold=success_threshold,
            open_ms=open_ms,
        )
        return verdict

    def return_probe(self, nonce: str) -> None:
        self.state, _ = circuit_rules.return_probe(self.state, self._now_ms(), nonce)

    def reset_failures(self, current: bool) -> CircuitBreakerState | None:
        version = self.state.version if self.state is not None and current else -1
        self.state, done = circuit_rules.reset_failures(self.state, self._now_ms(), version)
        return self.state if done else None


def outline(state: CircuitBreakerState | None, now_ms: int) -> Any:
    """Return what of a state decides how calls fare from now on."""
    if state is None:
        return None
    alive = sorted(nonce for nonce, until_ms in state.probes.items() if until_ms > now_ms)
    opened = state.state == "open"
    return (
        state.state,
        state.failure_count,
        state.success_count,
        state.open_count,
        opened and (state.open_until_ms or 0) <= now_ms,
        alive if state.state == "half-open" else [],
    )


class CircuitComparison:
    """Makes the same calls on a store and on the model, and compares."""

    def __init__(self, store: CircuitBreakerStateProvider, clock: ManualClock) -> None:
        self._store = store
        self._clock = clock
        self._key = uuid.uuid4().hex
        self._model = CircuitModel(self._now_ms)
        self._version = 0

    def _now_ms(self) -> int:
        return int(self._clock.now * 1000)

    def _outline(self, state: CircuitBreakerState | None) -> Any:
        return outline(state, self._now_ms())

    async def call(self, name: str, *args: Any) -> None:
        if name == "advance":
            self._clock.now += args[0]
            return
        before = self._outline(self._model.state)
        if name == "set_state":
            await self._set_state(*args)
        else:
            await self._compare_answers(name, *args)
        after = self._outline(self._model.state)
        state = await self._store.get_state(self._key)
        assert self._outline(state) == after
        if state is not None:
            assert state.version >= self._version
            assert after == before or state.version > self._version
            self._version = state.version

    async def _set_state(self, state: CircuitState) -> None:
        now_ms = self._now_ms()
        self._model.state = CircuitBreakerState(
            state=state,
            failure_count=1,
            window_start_ms=now_ms,
            open_until_ms=now_ms + 500 if state == "open" else None,
        )
        await self._store.set_state(self._key, self._model.state)

    async def _compare_answers(self, name: str, *args: Any) -> None:
        expected = getattr(self._model, name)(*args)
        special = getattr(self, f"_{name}", None)
        answer = await (special(*args) if special else getattr(self._store, name)(self._key, *args))
        if isinstance(expected, CircuitBreakerState):
            assert self._outline(answer) == self._outline(expected)
        else:
            assert answer == expected

    async def _claim_probe(self, *args: Any) -> bool:
        return (await self._store.claim_probe(self._key, *args)).granted

    async def _settle_probe(
        self, nonce: str, succeeded: bool, success_threshold: int, open_ms: int
    ) -> CircuitBreakerState | None:
        return await self._store.settle_probe(
            self._key,
            nonce,
            succeeded=succeeded,
            success_threshold=success_threshold,
            open_ms=open_ms,
        )

    async def _reset_failures(self, is_current: bool) -> CircuitBreakerState | None:
        version = self._version if is_current else self._version - 1
        return await self._store.reset_failures(self._key, version)


class CircuitModelRules(Conformance):
    """The rules of ``gogoscope.persistence.circuit_rules``, held against a store."""

    @sampled("calls", CORPUS, circuit_calls, EXAMPLES)
    async def test_circuits_change_by_the_rules(
        self, store: CircuitBreakerStateProvider, clock: ManualClock, calls: Calls
    ) -> None:
        comparison = CircuitComparison(store, clock)
        for name, *args in calls:
            await comparison.call(name, *args)
