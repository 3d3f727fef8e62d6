"""Circuit breakers without a scope, read and set by hand, and their events."""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Iterator
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, Persistence, Retry, scope
from gogoscope.circuit_breakers.registry import here
from gogoscope.events import (
    CircuitCallRejected,
    CircuitProbeEnded,
    CircuitProbeStarted,
    CircuitStateChanged,
    Event,
    subscribe,
)
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.stores.memory import MemoryStore, process_store
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend

pytestmark = pytest.mark.anyio


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The process-wide store outlives a test, so each has a circuit of its own."""
    return f"{request.node.name}-{os.urandom(4).hex()}"


@pytest.fixture
def events() -> Iterator[list[Event]]:
    seen: list[Event] = []
    unsubscribe = subscribe(seen.append)
    yield seen
    unsubscribe()


async def fine(value: int = 1) -> int:
    return value


async def broken() -> int:
    raise OSError("broken")


async def trip(breaker: CircuitBreaker, store: Any = None) -> None:
    for _ in range(breaker.failure_threshold):
        with pytest.raises(OSError, match="broken"):
            await breaker.call(broken)
    assert (await breaker.state(store)).state == "open"


async def test_a_call_goes_through_and_failures_open_the_circuit(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=2)
    assert await breaker.call(fine, 7) == 7
    await trip(breaker)
    with pytest.raises(CircuitOpenError):
        await breaker.call(fine)


async def test_a_success_sets_the_count_to_zero(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=2)
    for _ in range(3):
        with pytest.raises(OSError, match="broken"):
            await breaker.call(broken)
        assert await breaker.call(fine) == 1
    assert (await breaker.state()).failure_count == 0


async def test_a_decorated_function_keeps_its_name_and_takes_keywords(name: str) -> None:
    @CircuitBreaker(name, failure_threshold=1)
    async def load(number: int, *, times: int = 1) -> int:
        """Load it."""
        if number < 0:
            raise OSError("broken")
        return number * times

    assert inspect.iscoroutinefunction(load)
    assert (load.__name__, load.__doc__) == ("load", "Load it.")
    assert await load(2) == 2
    assert await load(2, times=3) == 6
    with pytest.raises(OSError, match="broken"):
        await load(-1, times=3)
    with pytest.raises(CircuitOpenError) as rejected:
        await load(2)
    assert rejected.value.name == name


async def test_a_breaker_without_a_name_has_one_circuit_for_each_function() -> None:
    breaker = CircuitBreaker(failure_threshold=1)
    with pytest.raises(OSError, match="broken"):
        await breaker.call(broken)
    with pytest.raises(CircuitOpenError) as rejected:
        await breaker.call(broken)
    assert rejected.value.name == f"{__name__}.broken"
    assert await breaker.call(functools.partial(fine, value=3)) == 3
    with pytest.raises(ValueError, match="has no name"):
        await breaker.state()
    state = await CircuitBreaker(f"{__name__}.broken").reset()
    assert state.state == "closed"


@pytest.mark.parametrize("fn", [print, lambda: None, fine(), 3])
async def test_only_async_functions_can_be_decorated(fn: Any) -> None:
    with pytest.raises(TypeError, match="a circuit breaker guards async functions"):
        CircuitBreaker()(fn)
    if inspect.iscoroutine(fn):
        fn.close()


async def test_an_object_with_an_async_call_is_decorated(name: str) -> None:
    class Loader:
        async def __call__(self, number: int) -> int:
            return number

    assert await CircuitBreaker(name)(Loader())(3) == 3


async def test_a_function_that_returns_no_awaitable_is_refused_and_counts_as_nothing(
    name: str,
) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    for value in (None, 3):
        with pytest.raises(TypeError, match="cannot be awaited"):
            await breaker.call(lambda value=value: value)  # type: ignore[misc]
    assert await breaker.call(fine) == 1


async def test_something_that_is_not_a_function_is_refused_and_counts_as_nothing(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    wrong: list[tuple[Any, str]] = [(fine(), r"write breaker\.call\(fine, \*args\)"), (3, "got 3")]
    for fn, words in wrong:
        with pytest.raises(TypeError, match=words):
            await breaker.call(fn)
    assert (await breaker.state()).state == "closed"
    assert await breaker.call(fine) == 1


async def test_a_cancelled_call_counts_as_nothing(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    for _ in range(3):
        with anyio.move_on_after(0):
            await breaker.call(anyio.sleep_forever)
    assert await breaker.call(fine) == 1
    assert (await breaker.state()) == CircuitBreakerState()


async def test_a_result_may_count_as_a_failure_and_is_still_returned(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=2, record_result=lambda status: status >= 500)
    for status in (200, 503, 200, 503, 500):
        assert await breaker.call(fine, status) == status
    with pytest.raises(CircuitOpenError):
        await breaker.call(fine, 200)


async def test_a_predicate_that_raises_counts_as_nothing_and_returns_the_probe(name: str) -> None:
    breaker = CircuitBreaker(
        name, failure_threshold=1, reset_timeout=0.01, record_result=lambda value: 1 / value < 0
    )
    with pytest.raises(ZeroDivisionError):
        await breaker.call(fine, 0)
    await trip(breaker)
    await anyio.sleep(0.02)
    with pytest.raises(ZeroDivisionError):
        await breaker.call(fine, 0)
    assert await breaker.call(fine, 1) == 1
    assert (await breaker.state()).state == "closed"


class NeitherTrueNorFalse:
    """What a comparison of whole arrays gives, for example."""

    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


async def test_an_answer_that_is_neither_true_nor_false_returns_the_probe(name: str) -> None:
    breaker = CircuitBreaker(
        name,
        failure_threshold=1,
        reset_timeout=0.01,
        record_result=lambda value: cast("bool", NeitherTrueNorFalse() if value == 0 else False),
    )
    await trip(breaker)
    await anyio.sleep(0.02)
    with pytest.raises(ValueError, match="neither true nor false"):
        await breaker.call(fine, 0)
    assert await breaker.call(fine, 1) == 1
    assert (await breaker.state()).state == "closed"


async def is_broken(outcome: object) -> bool:
    return False


@pytest.mark.parametrize("predicate", ["record", "ignore", "record_result"])
async def test_a_predicate_that_turns_out_to_be_async_is_refused_and_counts_as_nothing(
    name: str, predicate: str
) -> None:
    options: dict[str, Any] = {predicate: lambda outcome: is_broken(outcome)}
    breaker = CircuitBreaker(name, failure_threshold=1, **options)
    call = fine if predicate == "record_result" else broken
    for _ in range(2):
        with pytest.raises(TypeError, match=f"^{predicate} must be a function that is not async"):
            await breaker.call(call)
    assert (await breaker.state()) == CircuitBreakerState()


async def test_policies_made_for_one_call_are_not_kept_for_ever(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gogoscope.circuit_breakers.registry.REMEMBERED", 5)
    for _ in range(20):
        await CircuitBreaker(name).call(fine)
    assert len(here.circuits) <= 5


async def test_retry_goes_around_it_and_stops_at_an_open_circuit(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=2)
    with pytest.raises(CircuitOpenError) as rejected:
        await Retry(10, delay=0).call(breaker.call, broken)
    assert isinstance(rejected.value.__context__, OSError)
    assert (await breaker.state()).failure_count == 2


async def test_inside_a_scope_it_is_the_circuit_of_the_scopes_store(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    store = MemoryStore()
    async with scope(persistence=store) as s:
        with pytest.raises(OSError, match="broken"):
            await breaker.call(broken)
        assert isinstance((await s.task(breaker.call, broken)).error, CircuitOpenError)
        await anyio.wait_all_tasks_blocked()  # the store is told
        assert (await breaker.state()).state == "open"
    assert await breaker.call(fine) == 1
    assert (await breaker.state()).state == "closed"
    assert (await breaker.state(store)).state == "open"


async def test_a_circuit_that_opens_outside_a_scope_says_once_that_nobody_else_learns_of_it(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1, reset_timeout=0.01)
    with caplog.at_level("INFO", logger="gogoscope"):
        async with scope(persistence=MemoryStore()) as s:
            _ = (await s.task(broken, circuit_breaker=breaker)).error
        assert not caplog.records
        for _ in range(2):
            await trip(breaker)
            await anyio.sleep(0.02)
            assert await breaker.call(fine) == 1
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert f"circuit '{name}' opened outside a scope" in record.getMessage()


async def test_scopes_on_the_process_wide_store_share_it_at_once(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    assert await breaker.call(fine) == 1
    async with scope(circuit_breaker=breaker) as s:
        _ = (await s.task(broken)).error
    with pytest.raises(CircuitOpenError):
        await breaker.call(fine)


async def test_another_thread_learns_of_it(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1, refresh_interval=0.01)
    assert await breaker.call(fine) == 1

    def in_another_loop() -> None:
        anyio.run(trip, breaker)

    await anyio.to_thread.run_sync(in_another_loop)
    with pytest.raises(CircuitOpenError), anyio.fail_after(5):
        while True:
            await breaker.call(fine)
            await anyio.sleep(0.001)


async def test_threads_lose_no_failure(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=10_000)

    async def fail() -> None:
        for _ in range(100):
            with pytest.raises(OSError, match="broken"):
                await breaker.call(broken)

    threads = [threading.Thread(target=anyio.run, args=(fail,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert (await breaker.state()).failure_count == 400


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_forked_process_does_not_use_the_circuits_of_its_parent(name: str) -> None:
    assert await CircuitBreaker(name).call(fine) == 1
    assert here.circuits
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"empty" if not here.circuits else b"full")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 5) == b"empty"
    os.close(reader)
    os.close(writer)


def test_the_next_event_loop_of_a_thread_goes_on_with_the_circuit() -> None:
    breaker = CircuitBreaker(f"loops-{os.urandom(4).hex()}", failure_threshold=2)

    async def fail_once() -> None:
        with pytest.raises(OSError, match="broken"):
            await breaker.call(broken)

    for backend in ("asyncio", "trio"):
        anyio.run(fail_once, backend=backend)

    async def rejected() -> None:
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)

    anyio.run(rejected)


def test_the_next_event_loop_of_a_thread_shares_the_circuit_with_its_own_scopes() -> None:
    breaker = CircuitBreaker(
        f"loops-{os.urandom(4).hex()}", failure_threshold=1, refresh_interval=0.01
    )
    guarded = breaker(fine)
    anyio.run(guarded)

    async def trip_in_a_scope() -> None:
        await anyio.sleep(0.02)
        assert await breaker.call(fine) == 1
        async with scope(circuit_breaker=breaker) as s:
            _ = (await s.task(broken)).error
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)

    anyio.run(trip_in_a_scope)


async def test_forced_open_rejects_until_it_is_closed_by_hand(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1, reset_timeout=0.001)
    forced = await breaker.force_open()
    assert (forced.state, forced.since_ms is None) == ("forced-open", False)
    await anyio.sleep(0.01)
    with pytest.raises(CircuitOpenError):
        await breaker.call(fine)
    assert (await breaker.reset()).state == "forced-open"
    with pytest.raises(CircuitOpenError):
        await breaker.call(fine)
    assert (await breaker.force_close()).state == "closed"
    assert await breaker.call(fine) == 1


async def test_reset_forgets_what_happened(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    await trip(breaker)
    state = await breaker.reset()
    assert (state.state, state.failure_count, state.open_count) == ("closed", 0, 0)
    assert await breaker.call(fine) == 1


async def test_a_store_is_set_by_hand_without_a_scope_and_scopes_follow(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    store = MemoryStore()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        assert (await s.task(fine)).unwrap() == 1
        await breaker.force_open(Persistence(circuit_breakers=store))
        err, _ = await s.task(fine)
        assert isinstance(err, CircuitOpenError)
    assert await process_store().get_state(name) is None


async def test_a_call_in_flight_when_the_circuit_is_forced_changes_nothing(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)
    release = anyio.Event()

    async def late() -> None:
        await release.wait()
        raise OSError("late")

    async with anyio.create_task_group() as group:

        async def call() -> None:
            with pytest.raises(OSError, match="late"):
                await breaker.call(late)

        group.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        await breaker.force_open()
        await breaker.force_close()
        release.set()
    assert (await breaker.state()).failure_count == 0


async def test_a_store_without_circuits_is_refused(name: str) -> None:
    from gogoscope import CapabilityNotSupportedError

    with pytest.raises(CapabilityNotSupportedError, match="circuit_breakers"):
        await CircuitBreaker(name).state(Persistence(locks=MemoryStore()))
    with pytest.raises(TypeError, match="persistence must be"):
        await CircuitBreaker(name).state(3)


@BOTH
def test_every_change_of_a_circuit_is_an_event(
    backend: Backend, name: str, events: list[Event]
) -> None:
    async def main() -> None:
        breaker = CircuitBreaker(name, failure_threshold=1, reset_timeout=5)
        await trip(breaker)
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
        await anyio.sleep(5.1)
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await breaker.call(anyio.sleep_forever)
        with pytest.raises(OSError, match="broken"):
            await breaker.call(broken)
        await anyio.sleep(5.1)
        await breaker.call(fine)

    VirtualClock().run(main, backend=backend)
    rejected = [event for event in events if isinstance(event, CircuitCallRejected)]
    assert [0 < event.retry_after <= 5 for event in rejected] == [True]
    told = [event for event in events if not isinstance(event, CircuitCallRejected)]
    assert told == [
        CircuitStateChanged("", name, "closed", "open"),
        CircuitStateChanged("", name, "open", "half-open"),
        CircuitProbeStarted("", name),
        CircuitProbeEnded("", name, None),
        CircuitProbeStarted("", name),
        CircuitProbeEnded("", name, False),
        CircuitStateChanged("", name, "half-open", "open"),
        CircuitStateChanged("", name, "open", "half-open"),
        CircuitProbeStarted("", name),
        CircuitProbeEnded("", name, True),
        CircuitStateChanged("", name, "half-open", "closed"),
    ]


@BOTH
def test_no_event_is_made_when_nobody_listens(
    backend: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("made for nobody")

    for event in ("CircuitCallRejected", "CircuitProbeEnded", "CircuitProbeStarted"):
        monkeypatch.setattr(f"gogoscope.circuit_breakers.circuit.{event}", refuse)
    monkeypatch.setattr("gogoscope.circuit_breakers.sync.CircuitStateChanged", refuse)

    async def main() -> None:
        breaker = CircuitBreaker(name, failure_threshold=1, reset_timeout=5)
        await trip(breaker)
        with pytest.raises(CircuitOpenError):
            await breaker.call(fine)
        await anyio.sleep(5.1)
        assert await breaker.call(fine) == 1

    VirtualClock().run(main, backend=backend)


def test_a_breaker_shows_what_a_user_uses() -> None:
    shown = {name for name in dir(CircuitBreaker("name")) if not name.startswith("_")}
    assert shown == {
        *("name", "failure_threshold", "reset_timeout", "success_threshold", "window"),
        *("failure_rate", "slow_call", "slow_rate", "minimum_calls", "half_open_probes"),
        *("record", "ignore", "record_result", "max_reset_timeout", "quorum"),
        *("refresh_interval", "on_state_change"),
        *("call", "state", "force_open", "force_close", "reset"),
    }


async def test_another_thread_learns_of_it_at_once(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1, refresh_interval=600)
    for _ in range(3):
        assert await breaker.call(fine) == 1
    await anyio.to_thread.run_sync(lambda: anyio.run(trip, breaker))
    with pytest.raises(CircuitOpenError):
        await breaker.call(fine)
    await anyio.to_thread.run_sync(lambda: anyio.run(breaker.force_close))
    assert await breaker.call(fine) == 1


async def test_a_failure_of_a_call_that_another_threads_circuit_admitted_counts(name: str) -> None:
    breaker = CircuitBreaker(name, failure_threshold=1)

    async def use_often() -> None:
        for _ in range(3):
            assert await breaker.call(fine) == 1

    await use_often()
    await anyio.to_thread.run_sync(lambda: anyio.run(use_often))
    with pytest.raises(OSError, match="broken"):
        await breaker.call(broken)
    assert (await breaker.state()).state == "open"
