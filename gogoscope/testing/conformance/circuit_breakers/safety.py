"""Rules of safety for circuits: control by hand, bad input, cancellation, processes that race."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve

from gogoscope.persistence.protocols.circuit_breakers import (
    CircuitBreakerState,
    CircuitBreakerStateProvider,
    FailureReport,
)
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere
from gogoscope.testing.conformance.races import race
from gogoscope.testing.conformance.samples import BAD_KEYS, ODD_KEYS

Call = Callable[[CircuitBreakerStateProvider, Any], Awaitable[object]]

TAKING_A_KEY: dict[str, Call] = {
    "get_state": lambda store, key: store.get_state(key),
    "set_state": lambda store, key: store.set_state(key, CircuitBreakerState()),
    "record_failure": lambda store, key: store.record_failure(key, 3),
    "record_success": lambda store, key: store.record_success(key),
    "count_failures": lambda store, key: store.count_failures(key, FailureReport("p", 1, 1, 1_000)),
    "claim_probe": lambda store, key: store.claim_probe(key, "p2", 60_000, 2),
    "settle_probe": lambda store, key: store.settle_probe(
        key, "p1", succeeded=True, success_threshold=2, open_ms=1_000
    ),
    "return_probe": lambda store, key: store.return_probe(key, "p1"),
    "reset_failures": lambda store, key: store.reset_failures(key, 1),
    "force_open": lambda store, key: store.force_open(key),
    "force_close": lambda store, key: store.force_close(key),
    "reset_circuit": lambda store, key: store.reset_circuit(key),
}

CHANGES: dict[str, Call] = {
    **{
        name: call
        for name, call in TAKING_A_KEY.items()
        if name not in ("get_state", "reset_failures", "count_failures")
    },
    "failed probe": lambda store, key: store.settle_probe(
        key, "p1", succeeded=False, success_threshold=2, open_ms=1_000
    ),
}


async def _prepared(store: CircuitBreakerStateProvider, key: str, now_ms: int) -> None:
    """Make a half-open circuit with one probe."""
    await store.set_state(
        key,
        CircuitBreakerState(
            state="half-open",
            failure_count=3,
            open_until_ms=now_ms,
            open_count=1,
            probes={"p1": now_ms + 60_000},
        ),
    )


async def _outline(store: CircuitBreakerStateProvider, key: str) -> object:
    state = await store.get_state(key)
    assert state is not None
    return state.state, state.failure_count, set(state.probes), state.success_count


class CircuitSafetyRules(Conformance):
    """What circuits hold to when they are set by hand, misused, cancelled or raced for."""

    async def test_a_circuit_is_forced_open_and_closed_whatever_it_was(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        for key in ("never seen", "counting", "tripped"):
            if key != "never seen":
                await store.record_failure(key, 1 if key == "tripped" else 9)
            forced = await store.force_open(key)
            assert forced.state == "forced-open"
            assert forced == await store.get_state(key)
            clock.now += 1
            closed = await store.force_close(key)
            assert (closed.state, closed.failure_count, closed.open_count) == ("closed", 0, 0)
            assert closed == await store.get_state(key)
            assert closed.version > forced.version

    async def test_a_reset_forgets_what_happened_but_leaves_a_forced_circuit_open(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        await store.record_failure("c", 1)
        reset = await store.reset_circuit("c")
        assert (reset.state, reset.failure_count) == ("closed", 0)
        assert reset == await store.get_state("c")
        await store.force_open("c")
        assert (await store.reset_circuit("c")).state == "forced-open"
        await store.reset_circuit("never seen")
        assert await store.get_state("never seen") is None

    async def test_the_list_of_circuits_is_exact_and_stays_within_its_prefix(
        self, open_store: OpenStore
    ) -> None:
        async with open_store("a:") as store, open_store("a2:") as beside:
            await beside.record_failure("beside", 5)
            assert await store.circuits() == {}
            for number in range(30):
                await store.record_failure(f"c{number}", 5)
            await store.force_open("by*hand")
            found = await store.circuits()
            assert set(found) == {*(f"c{number}" for number in range(30)), "by*hand"}
            assert found["c7"] == await store.get_state("c7")
            assert set(await store.circuits("c1*")) == {"c1", *(f"c1{n}" for n in range(10))}
            assert set(await store.circuits("by?hand")) == {"by*hand"}
            assert await store.circuits("C*") == {}

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_change_of_a_circuit_leaves_those_beside_it_alone(
        self,
        beside: tuple[CircuitBreakerStateProvider, list[tuple[CircuitBreakerStateProvider, str]]],
        clock: ManualClock,
        name: str,
    ) -> None:
        store, others = beside
        now_ms = int(clock.now * 1000)
        for circuit, key in [(store, "as it should"), (store, "k"), *others]:
            await _prepared(circuit, key, now_ms)
        before = [await circuit.get_state(key) for circuit, key in others]
        await CHANGES[name](store, "as it should")
        await CHANGES[name](store, "k")
        assert await _outline(store, "k") == await _outline(store, "as it should")
        assert [await circuit.get_state(key) for circuit, key in others] == before

    async def test_every_method_of_circuits_refuses_a_bad_key(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        for name, call in TAKING_A_KEY.items():
            for key, error, message in BAD_KEYS:
                with pytest.raises(error, match=message):
                    await call(store, key)
                    pytest.fail(f"{name} took the key {key!r}")

    @pytest.mark.parametrize(
        ("maximum", "error"),
        [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("3", TypeError)],
    )
    async def test_a_bad_maximum_is_refused(
        self, store: CircuitBreakerStateProvider, maximum: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="max_failures must be"):
            await store.record_failure("k", maximum)
        assert await store.get_state("k") is None

    async def test_a_state_of_another_type_is_refused(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        not_a_state: Any = {"state": "open"}
        with pytest.raises(TypeError, match="state must be a CircuitBreakerState"):
            await store.set_state("k", not_a_state)
        assert await store.get_state("k") is None

    @pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
    async def test_any_text_is_a_key_of_a_circuit(
        self, store: CircuitBreakerStateProvider, key: str
    ) -> None:
        assert await store.record_failure(key, 5) == 1
        assert await store.record_failure("plain", 5) == 1
        assert set(await store.circuits()) == {key, "plain"}

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_cancelled_change_of_a_circuit_is_whole_or_not_there(
        self, store: CircuitBreakerStateProvider, clock: ManualClock, name: str
    ) -> None:
        now_ms = int(clock.now * 1000)
        await _prepared(store, "changed", now_ms)
        before = await _outline(store, "changed")
        await CHANGES[name](store, "changed")
        after = await _outline(store, "changed")

        async def attempt_at(n: int) -> CancelledAt:
            key = f"k{n}"
            await _prepared(store, key, now_ms)
            attempt = CancelledAt(CHANGES[name](store, key), n)
            await attempt.run()
            allowed = [after] if attempt.ended else [before, after]
            assert await _outline(store, key) in allowed
            return attempt

        await cancel_everywhere(attempt_at)

    async def test_failures_whose_counting_was_cancelled_count_once_or_not_at_all(
        self, store: CircuitBreakerStateProvider
    ) -> None:
        async def attempt_at(n: int) -> CancelledAt:
            key = f"k{n}"
            report = FailureReport("p", 2, 9, 1_000)
            attempt = CancelledAt(store.count_failures(key, report), n)
            await attempt.run()
            state = await store.get_state(key)
            count = 0 if state is None else state.failure_count
            assert count in ((2,) if attempt.ended else (0, 2))
            return attempt

        await cancel_everywhere(attempt_at)

    @pytest.mark.parametrize("name", TAKING_A_KEY)
    async def test_cancelling_a_method_of_circuits_raises_nothing_else(
        self, store: CircuitBreakerStateProvider, name: str
    ) -> None:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await TAKING_A_KEY[name](store, "k")
            await anyio.lowlevel.checkpoint()
        assert cancelled.cancelled_caught

    async def test_a_state_may_be_changed_by_its_caller_without_changing_the_store(
        self, store: CircuitBreakerStateProvider, clock: ManualClock
    ) -> None:
        probes = {"p1": int(clock.now * 1000) + 60_000}
        given = CircuitBreakerState(state="half-open", probes=probes)
        await store.set_state("k", given)
        probes["p2"] = 1
        got = await store.get_state("k")
        assert got == evolve(given, probes={"p1": probes["p1"]}, version=got.version if got else 0)

    @pytest.mark.usefixtures("atomic")
    def test_no_failure_of_2_processes_with_20_tasks_is_lost(
        self, shared_url: str, open_store: OpenStore
    ) -> None:
        counts = race(shared_url, 2, "record_failures", "c", 20, 50)
        assert sorted(counts[0] + counts[1]) == list(range(1, 2_001))

        async def look() -> CircuitBreakerState | None:
            async with open_store() as store:
                state: CircuitBreakerState | None = await store.get_state("c")
                return state

        state = anyio.run(look)
        assert state is not None
        assert state.failure_count == 2_000

    @pytest.mark.usefixtures("atomic")
    def test_3_processes_together_get_no_more_probes_than_the_limit(
        self, shared_url: str, open_store: OpenStore
    ) -> None:
        async def trip() -> None:
            async with open_store() as store:
                await store.count_failures("c", FailureReport("p", 1, 1, open_ms=1))

        anyio.run(trip)
        assert sum(map(len, race(shared_url, 3, "claim_probes", "c", 10))) == 3
