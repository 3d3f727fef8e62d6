"""Half-open probes: waited for, kept for the next call, returned, never lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, scope
from gogoscope._core.clock import Clock, clock_here, clock_in_context
from gogoscope.circuit_breakers.registry import Circuits
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend
from tests.unit.circuit_breakers.faulty_store import FaultyStore, Service, far_away, fine, promptly

START = 1_800_000_000


def run(main: Callable[[], Awaitable[None]], backend: Backend) -> None:
    VirtualClock(START).run(main, backend=backend)


def test_a_probe_that_is_granted_too_late_for_its_call_is_kept_for_the_next_one() -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            service.error = None
            await anyio.sleep(4.98)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            store.fault = far_away
            await anyio.sleep(0.03)
            err = await promptly(s, service)
            assert isinstance(err, CircuitOpenError)
            assert err.retry_after <= 0.1
            await anyio.sleep(0.05)
            state = await store.get_state("payments")
            assert state is not None
            assert (state.state, len(state.probes)) == ("half-open", 1)
            store.requests = 0
            assert await promptly(s, service) is None
        state = await store.get_state("payments")
        assert state is not None
        assert state.state == "closed"

    run(main, "asyncio")


@pytest.mark.parametrize("until", ["its end", "it is too old", "a longer call"])
def test_a_kept_probe_that_no_call_uses_is_returned(until: str) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            service.error = None
            await anyio.sleep(4.98)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            store.fault = far_away
            await anyio.sleep(0.03)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            await anyio.sleep(0.1)
            store.fault = fine
            first = await store.get_state("payments")
            if until == "it is too old":
                await anyio.sleep(1.1)
                assert (await s.task(service)).error is None
            elif until == "a longer call":
                assert (await s.task(service, timeout=60)).error is None
        last = await store.get_state("payments")
        assert first is not None
        assert last is not None
        assert len(first.probes) == 1
        assert last.probes == {}

    run(main, "asyncio")


def test_a_kept_probe_is_not_returned_when_the_circuit_has_changed_since() -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            service.error = None
            await anyio.sleep(4.98)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            store.fault = far_away
            await anyio.sleep(0.03)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            await anyio.sleep(0.1)
            assert Circuits.of(s._home).circuit(breaker).shared.claims.kept
            await breaker.reset()
            store.requests = 0
            await anyio.sleep(1.5)
            assert not Circuits.of(s._home).circuit(breaker).shared.claims.kept
            assert store.requests == 0

    run(main, "asyncio")


class ClockApart:
    """A clock that is apart from that of the event loop.

    So it is once the machine was suspended, and on trio always.
    """

    simulated = True

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.wall = clock.wall
        self._elapsed = clock.elapsed
        self._seconds = seconds

    def elapsed(self) -> float:
        return self._elapsed() + self._seconds


@BOTH
@pytest.mark.parametrize("apart", [0, 86_400, -86_400])
def test_a_kept_probe_is_free_for_other_processes_after_a_second(
    backend: Backend, apart: float
) -> None:
    async def main() -> None:
        clock_in_context.set(ClockApart(clock_here(), apart))
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=60)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            service.error = None
            await anyio.sleep(59.98)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            store.fault = far_away
            await anyio.sleep(0.03)
            assert isinstance(await promptly(s, service), CircuitOpenError)
            await anyio.sleep(0.9)
            assert not (await store.claim_probe("payments", "another", 60_000, 1)).granted
            await anyio.sleep(0.2)
            assert not Circuits.of(s._home).circuit(breaker).shared.claims.kept
            assert (await store.claim_probe("payments", "another", 60_000, 1)).granted

    run(main, backend)


@BOTH
@pytest.mark.parametrize("unwrapped", [False, True])
@pytest.mark.parametrize("pause", [0.01, 0.05, 0.09])
def test_short_scopes_get_a_probe_of_a_busy_circuit_from_a_store_that_is_far_away(
    pause: float, unwrapped: bool, backend: Backend
) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=2)
        ended = anyio.Event()

        async def request() -> None:
            try:
                async with scope(persistence=store, circuit_breaker=breaker) as s:
                    result = await s.task(service)
                    if unwrapped:
                        result.unwrap()
                    error = result.error
            except CircuitOpenError:
                return
            if error is None:
                ended.set()

        service.error = OSError("broken")
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            _ = (await s.task(service)).error
        service.error, store.fault = None, far_away
        with anyio.fail_after(3):
            async with anyio.create_task_group() as requests:
                while not ended.is_set():
                    requests.start_soon(request)
                    await anyio.sleep(pause)

    run(main, backend)


@BOTH
def test_a_probe_of_a_call_that_waited_half_a_second_is_returned(backend: Backend) -> None:
    """Its lease has no time to spare for another call."""

    async def fairly_slow() -> None:
        await anyio.sleep(0.4)

    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker(
            "payments", failure_threshold=1, reset_timeout=1, success_threshold=3
        )
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            await anyio.sleep(1.5)
            service.error, store.fault = None, fairly_slow
            assert (await s.task(service)).error is None
            assert isinstance((await s.task(service)).error, CircuitOpenError)
            await anyio.sleep(3)
            store.fault = fine
            state = await store.get_state("payments")
            assert state is not None
            assert (state.success_count, state.probes) == (1, {})

    run(main, backend)


@BOTH
def test_a_circuit_that_is_reset_at_once_needs_no_look_ahead(backend: Backend) -> None:
    async def main() -> None:
        store = MemoryStore()
        breaker = CircuitBreaker("payments", reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            await store.record_failure("payments", 1)
            await breaker.state()
            await breaker.reset()
            assert (await s.task(Service())).error is None

    run(main, backend)


@BOTH
def test_a_call_that_outlives_its_scope_gets_its_probe(backend: Backend) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        over = anyio.Event()
        outcome: list[object] = []

        async def outlive() -> None:
            await over.wait()
            outcome.append(await breaker.call(service))

        async with anyio.create_task_group() as tasks:
            async with scope(persistence=store, circuit_breaker=breaker) as s:
                service.error = OSError("broken")
                _ = (await s.task(service)).error
                tasks.start_soon(outlive)
            service.error = None
            await anyio.sleep(6)
            over.set()
        assert outcome == ["fine"]

    run(main, backend)


def test_a_claim_that_never_begins_blocks_no_other() -> None:
    """asyncio's own cancellation may end what runs in the background before its first step."""

    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            await anyio.sleep(6)
            service.error = None
            sync = Circuits.of(s._home).circuit(breaker).sync
            spawn, sync.spawn = sync.spawn, lambda work, *, brief=True: True
            assert isinstance((await s.task(service)).error, CircuitOpenError)
            sync.spawn = spawn
            assert (await s.task(service)).error is None

    run(main, "asyncio")


@BOTH
@pytest.mark.parametrize("after", [0.001, 0.003, 0.02, 0.1, 0.55])
def test_a_probe_whose_call_is_cancelled_is_returned(after: float, backend: Backend) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            await anyio.sleep(6)
            service.error, store.fault = None, far_away
            task = s.task(service)
            await anyio.sleep(after)
            task.cancel()
            await task
            await anyio.sleep(0.2)
            claims = Circuits.of(s._home).circuit(breaker).shared.claims
            assert not claims.in_flight
            assert not claims.kept
            store.fault = fine
            assert (await s.task(service)).error is None

    run(main, backend)


@BOTH
@pytest.mark.parametrize("in_scope", [True, False])
def test_a_probe_keeps_its_place_for_as_long_as_its_call_runs(
    in_scope: bool, backend: Backend
) -> None:
    async def main() -> None:
        breaker = CircuitBreaker(
            f"hung {in_scope} {backend}", failure_threshold=1, reset_timeout=0.5
        )
        running: list[float] = []

        async def hang() -> None:
            running.append(anyio.current_time())
            await anyio.sleep(60)

        async def fail() -> None:
            raise OSError("broken")

        async def use() -> None:
            with pytest.raises(OSError, match="broken"):
                await breaker.call(fail)
            await anyio.sleep(1)
            async with anyio.create_task_group() as group:
                group.start_soon(breaker.call, hang)
                for _ in range(500):
                    await anyio.sleep(0.1)
                    with pytest.raises(CircuitOpenError):
                        await breaker.call(hang)
                group.cancel_scope.cancel()
            assert len(running) == 1
            with anyio.move_on_after(1):
                await breaker.call(hang)
            assert len(running) == 2

        if in_scope:
            async with scope(persistence=MemoryStore()) as s:
                (await s.task(use)).unwrap()
        else:
            await use()

    run(main, backend)


@BOTH
def test_a_probe_that_runs_keeps_its_place_for_other_processes(backend: Backend) -> None:
    async def main() -> None:
        store, service = FaultyStore(), Service()
        breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=5)
        async with scope(persistence=store, circuit_breaker=breaker) as s:
            service.error = OSError("broken")
            _ = (await s.task(service)).error
            await anyio.sleep(6)
            probe = s.task(anyio.sleep, 60)
            for number in range(50):
                await anyio.sleep(1)
                reply = await store.claim_probe("payments", f"another {number}", 5_000, 1)
                assert not reply.granted
            assert (await probe).error is None
            await anyio.sleep(0.1)
            assert (await breaker.state()).state == "closed"

    run(main, backend)
