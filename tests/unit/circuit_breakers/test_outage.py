"""A store that is away, slow or throttled: no call waits for it or fails by it; then all agree."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, scope
from gogoscope.circuit_breakers.registry import Circuits
from gogoscope.events import CircuitStoreFailed, CircuitStoreRecovered, Event
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from tests.unit.circuit_breakers.faulty_store import (
    ADDED_SECONDS,
    Fault,
    FaultyStore,
    Service,
    far_away,
    fine,
    promptly,
    slow,
    throttled,
    unreachable,
)

START = 1_800_000_000


def run(main: Callable[[], Awaitable[None]], backend: Literal["asyncio", "trio"]) -> None:
    VirtualClock(START).run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fault", [unreachable, slow, throttled])
def test_no_call_waits_for_a_store_that_fails_and_none_fails_by_it(
    fault: Fault, backend: Literal["asyncio", "trio"]
) -> None:
    async def main() -> None:
        store, service, events = FaultyStore(), Service(), list[Event]()
        breaker = CircuitBreaker("payments", failure_threshold=3, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker, on_event=events.append) as s:
            assert (await s.task(service)).error is None
            store.fault = fault
            for _ in range(300):
                assert await promptly(s, service) is None
                await anyio.sleep(0.01)
            service.error = OSError("broken")
            for _ in range(3):
                assert isinstance(await promptly(s, service), OSError)
            for _ in range(100):
                assert isinstance(await promptly(s, service), CircuitOpenError)
                await anyio.sleep(0.049)
            await anyio.sleep(0.2)
            assert isinstance(await promptly(s, service), OSError)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            await anyio.sleep(5.1)
            service.error = None
            for _ in range(10):
                assert await promptly(s, service) is None
        assert [type(e) for e in events if isinstance(e, CircuitStoreFailed)] == [
            CircuitStoreFailed
        ]

    run(main, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fault", [unreachable, slow, throttled])
def test_the_first_use_waits_for_half_a_second_at_most(
    fault: Fault, backend: Literal["asyncio", "trio"]
) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        store.fault = fault
        async with scope(persistence=store, circuit_breaker=CircuitBreaker("payments")) as s:
            began = anyio.current_time()
            assert (await s.task(service)).error is None
            assert anyio.current_time() - began <= 0.5 + 0.01 + ADDED_SECONDS
            assert await promptly(s, service) is None

    run(main, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fault", [unreachable, slow])
@pytest.mark.parametrize("opened_here", [False, True])
def test_when_the_store_is_back_both_agree_within_two_refresh_intervals(
    fault: Fault, opened_here: bool, backend: Literal["asyncio", "trio"]
) -> None:
    async def main() -> None:
        store, service, events = FaultyStore(), Service(), list[Event]()
        breaker = CircuitBreaker("payments", failure_threshold=3, reset_timeout=60)
        async with scope(persistence=store, circuit_breaker=breaker, on_event=events.append) as s:
            assert (await s.task(service)).error is None
            store.fault = fault
            service.error = OSError("broken")
            for _ in range(3 if opened_here else 2):
                await promptly(s, service)
                await anyio.sleep(3)
            service.error = None
            if not opened_here:
                store.fault = fine
                await MemoryStore.force_open(store, "payments")
                store.fault = fault
            for _ in range(20):
                await promptly(s, service)
                await anyio.sleep(0.1)
            store.fault = fine
            begin = anyio.current_time()
            while anyio.current_time() - begin < 2 * breaker.refresh_interval:
                await promptly(s, service)
                await anyio.sleep(0.1)
            shared = await store.get_state("payments")
            rejected = isinstance(await promptly(s, service), CircuitOpenError)
            assert shared is not None
            assert rejected == (shared.state != "closed")
            if not opened_here:
                assert rejected
        assert any(isinstance(event, CircuitStoreRecovered) for event in events)

    run(main, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_failures_that_the_store_certainly_did_not_count_are_sent_again(
    backend: Literal["asyncio", "trio"],
) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=3, reset_timeout=60)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            assert (await s.task(service)).error is None
            store.fault = unreachable
            service.error = OSError("broken")
            for _ in range(3):
                await promptly(s, service)
                await anyio.sleep(0.1)
            store.fault = fine
            for _ in range(20):
                assert isinstance(await promptly(s, service), CircuitOpenError)
                await anyio.sleep(0.1)
            shared = await store.get_state("payments")
            assert shared is not None
            assert (shared.state, shared.failure_count) == ("open", 3)

    run(main, backend)


def test_failures_older_than_the_window_are_not_sent_when_the_store_is_back() -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=3, window=10)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            assert (await s.task(service)).error is None
            store.fault = unreachable
            service.error = OSError("broken")
            for _ in range(2):
                await promptly(s, service)
            await anyio.sleep(60)
            store.fault = fine
            service.error = None
            for _ in range(20):
                assert await promptly(s, service) is None
                await anyio.sleep(0.1)
            assert await store.get_state("payments") is None

    run(main, "asyncio")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fault", [unreachable, slow, throttled])
@pytest.mark.parametrize("away_ms", range(4500, 5100, 40))
def test_no_call_of_a_busy_circuit_waits_whenever_the_store_fails(
    away_ms: int, fault: Fault, backend: Literal["asyncio", "trio"]
) -> None:
    """The store fails at some moment before, at or after the end of the open time."""

    async def main() -> None:
        store, service, events = FaultyStore(), Service(), list[Event]()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker, on_event=events.append) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            opened = anyio.current_time()
            service.error = None
            errors = []
            for _ in range(400):
                if anyio.current_time() - opened >= away_ms / 1000:
                    store.fault = fault
                errors.append(await promptly(s, service))
                await anyio.sleep(0.02)
        assert isinstance(errors[0], CircuitOpenError)
        assert errors[-1] is None

    run(main, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("fault", [unreachable, slow, throttled])
def test_no_probe_waits_for_a_store_that_failed_while_nothing_was_called(
    fault: Fault, backend: Literal["asyncio", "trio"]
) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            await anyio.sleep(1)
            store.fault = fault
            await anyio.sleep(4.1)
            assert isinstance(await promptly(s, service), OSError)
            assert isinstance(await promptly(s, service), CircuitOpenError)

    run(main, backend)


def test_a_circuit_that_opens_again_and_again_looks_ahead_once_at_a_time() -> None:
    async def main() -> None:
        store = FaultyStore()
        breaker = CircuitBreaker("payments", reset_timeout=3600)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            for _ in range(50):
                await store.record_failure("payments", 1)
                await breaker.state()
                await breaker.reset()
            assert len(s._home._work) <= 2
            await store.record_failure("payments", 1)
            await breaker.state()
            store.requests = 0
            await anyio.sleep(3599.5)
            assert store.requests == 1

    run(main, "asyncio")


def test_a_store_that_stops_answering_delays_the_first_probe_of_a_quiet_circuit() -> None:
    """By half a second, since it cannot be known sooner; and it is not made, but rejected."""

    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            await anyio.sleep(5.1)
            store.fault = slow
            began = anyio.current_time()
            assert isinstance((await s.task(service)).error, CircuitOpenError)
            assert anyio.current_time() - began <= 0.5 + ADDED_SECONDS
            await anyio.lowlevel.checkpoint()  # what else waited for the store sees it as well
            assert isinstance(await promptly(s, service), OSError)

    run(main, "asyncio")


def test_no_quorum_is_needed_while_the_store_fails() -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=3, quorum=4)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            for _ in range(10):
                assert isinstance((await s.task(service)).error, OSError)
            store.fault = unreachable
            await anyio.sleep(1.1)
            await promptly(s, service)
            await anyio.sleep(0.1)
            await promptly(s, service)
            assert isinstance(await promptly(s, service), CircuitOpenError)

    run(main, "asyncio")


def test_a_scope_ends_without_waiting_for_a_store_that_is_known_to_fail() -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments")
        store.fault = slow
        took = []
        for _ in range(20):
            began = anyio.current_time()
            async with scope(persistence=store, circuit_breaker=breaker) as s:
                _ = (await s.task(service)).error
            took.append(anyio.current_time() - began)
            await anyio.sleep(0.3)
        assert max(took[1:]) <= 0.07

    run(main, "asyncio")


def test_short_scopes_notice_that_the_store_is_back() -> None:
    async def main() -> None:
        store, service, events = FaultyStore(), Service(), list[Event]()
        breaker = CircuitBreaker("payments")

        async def use() -> None:
            async with scope(
                persistence=store, circuit_breaker=breaker, on_event=events.append
            ) as s:
                _ = (await s.task(service)).error

        store.fault = unreachable
        await use()
        store.fault = far_away
        for _ in range(20):
            await anyio.sleep(0.1)
            await use()
        assert any(isinstance(event, CircuitStoreRecovered) for event in events)

    run(main, "asyncio")


def test_a_read_that_found_nothing_does_not_undo_what_came_after_it() -> None:
    class LateStore(FaultyStore):
        async def get_state(self, key: str) -> CircuitBreakerState | None:
            found = await super().get_state(key)
            await self.answering()
            return found

        answering: Fault = staticmethod(fine)

    async def main() -> None:
        store, service = LateStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, refresh_interval=0.5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            _ = (await s.task(service)).error
            await anyio.sleep(0.6)
            store.answering = far_away
            _ = (await s.task(service)).error
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            for _ in range(30):
                assert isinstance(await promptly(s, service), CircuitOpenError)
                await anyio.sleep(0.01)

    run(main, "asyncio")


def test_a_hanging_store_is_asked_once_at_a_time() -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", refresh_interval=0.05)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            _ = (await s.task(service)).error
            store.fault = slow
            store.requests = 0
            for _ in range(90):
                await promptly(s, service)
            assert store.requests <= 2

    run(main, "asyncio")


def test_an_outage_of_hours_leaves_few_requests_to_send() -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=3, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            _ = (await s.task(service)).error
            store.fault = unreachable
            service.error = OSError("broken")
            for _ in range(3600):
                await promptly(s, service)
                await anyio.sleep(2)
            store.fault = fine
            store.requests = 0
            for _ in range(10):
                await promptly(s, service)
                await anyio.sleep(0.2)
            assert store.requests <= 10

    run(main, "asyncio")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_a_scope_waits_once_for_all_its_circuits(
    backend: Literal["asyncio", "trio"],
) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breakers = [CircuitBreaker(f"service {number}") for number in range(8)]
        async with scope(persistence=store) as s:
            service.error = OSError("broken")
            for breaker in breakers:
                assert (await s.task(service, circuit_breaker=breaker)).error is not None
            await anyio.sleep(0.5)
            store.fault, service.error = slow, None
            for breaker in breakers:
                assert (await s.task(service, circuit_breaker=breaker)).error is None
            began = anyio.current_time()
        assert anyio.current_time() - began <= 2.1

    run(main, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_end_of_a_scope_waits_once_for_everything_that_a_circuit_has_to_send(
    backend: Literal["asyncio", "trio"],
) -> None:
    async def takes_its_time() -> None:
        await anyio.sleep(0.3)

    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("service", failure_threshold=100, half_open_probes=9)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            assert (await s.task(service)).error is None
            circuit = Circuits.of(s._home).circuit(breaker)
            store.fault = takes_its_time
            for number in range(9):
                circuit.sync.note_verdict(f"probe {number}", succeeded=None)
            began = anyio.current_time()
        assert anyio.current_time() - began <= 2.1

    run(main, backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_slow_read_when_the_open_time_ends_changes_the_state_no_more_than_it_must(
    backend: Literal["asyncio", "trio"],
) -> None:
    async def slow_to_answer() -> None:
        await anyio.sleep(0.95)

    async def main() -> None:
        store, service = FaultyStore(), Service()
        changes: list[tuple[str, str]] = []
        breaker = CircuitBreaker(
            "payments",
            failure_threshold=3,
            reset_timeout=2,
            refresh_interval=0.5,
            on_state_change=lambda name, old, new: changes.append((old, new)),
        )
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            for _ in range(3):
                _ = (await s.task(service)).error
            service.error = None
            await anyio.sleep(1.3)
            store.fault = slow_to_answer
            for _ in range(400):
                _ = (await s.task(service)).error
                await anyio.sleep(0.005)
                if anyio.current_time() > 1.7:
                    store.fault = fine
            assert changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
            assert (await breaker.state()).state == "closed"

    run(main, backend)
