"""Circuits set by hand: what happened before that does not undo it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from gogoscope import CircuitBreaker, CircuitOpenError, StoreConnectionError, scope
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.testing import VirtualClock
from tests.unit.circuit_breakers.faulty_store import FaultyStore, far_away, fine, unreachable

pytestmark = pytest.mark.anyio

BREAKER = CircuitBreaker("payments", failure_threshold=2, reset_timeout=60)


async def good() -> int:
    await anyio.sleep(0)
    return 1


async def bad() -> None:
    await anyio.sleep(0)
    raise OSError("broken")


@pytest.mark.parametrize("close", [BREAKER.force_close, BREAKER.reset])
async def test_failures_that_were_never_sent_do_not_open_what_was_closed_by_hand(
    close: Callable[[], Awaitable[CircuitBreakerState]],
) -> None:
    store = FaultyStore()
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        _ = (await s.task(good)).error
        store.fault = unreachable
        for _ in range(2):
            _ = (await s.task(bad)).error
        await anyio.sleep(0.02)
        store.fault = fine
        assert (await close()).state == "closed"
        await anyio.sleep(0.02)
        assert await s.task(good) == (None, 1)
        assert (await BREAKER.state()).failure_count == 0


async def test_failures_that_are_being_sent_do_not_open_a_circuit_that_was_closed_by_hand() -> None:
    store = FaultyStore()
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        _ = (await s.task(good)).error
        store.fault = far_away
        for _ in range(2):
            _ = (await s.task(bad)).error
        await anyio.sleep(0)
        assert (await BREAKER.force_close()).state == "closed"
        store.fault = fine
        await anyio.sleep(0.1)
        assert await s.task(good) == (None, 1)
        assert (await BREAKER.state()).failure_count == 0


async def test_a_call_that_began_before_the_circuit_was_closed_by_hand_counts_nothing() -> None:
    began, may_end = anyio.Event(), anyio.Event()

    async def late() -> None:
        began.set()
        await may_end.wait()
        raise OSError("late")

    async with scope(persistence=FaultyStore(), circuit_breaker=BREAKER) as s:
        task = s.task(late)
        await began.wait()
        await BREAKER.force_close()
        may_end.set()
        assert isinstance((await task).error, OSError)
        await anyio.sleep(0.02)
        assert (await BREAKER.state()).failure_count == 0


async def test_a_verdict_that_was_never_sent_does_not_hide_that_a_circuit_is_forced_open() -> None:
    breaker = CircuitBreaker("payments", failure_threshold=1, reset_timeout=0.01)
    store = FaultyStore()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        _ = (await s.task(bad)).error
        await anyio.sleep(0.03)

        async def break_the_store() -> None:
            store.fault = unreachable

        _ = (await s.task(break_the_store)).error
        await anyio.sleep(0.02)
        store.fault = fine
        assert (await breaker.force_open()).state == "forced-open"
        assert isinstance((await s.task(good)).error, CircuitOpenError)


async def test_a_store_that_fails_says_so_to_whoever_sets_a_circuit_by_hand() -> None:
    store = FaultyStore()
    async with scope(persistence=store, circuit_breaker=BREAKER) as s:
        for _ in range(2):
            _ = (await s.task(bad)).error
        store.fault = unreachable
        with pytest.raises(StoreConnectionError):
            await BREAKER.force_close()
        assert isinstance((await s.task(good)).error, CircuitOpenError)
        store.fault = fine


def test_what_another_process_did_by_hand_outlives_failures_that_could_not_be_sent() -> None:
    async def main() -> None:
        store = FaultyStore()
        async with scope(persistence=store, circuit_breaker=BREAKER) as s:
            _ = (await s.task(bad)).error
            await anyio.sleep(1.5)
            store.fault = unreachable
            _ = (await s.task(bad)).error
            _ = (await s.task(bad)).error
            await anyio.sleep(1.5)
            store.fault = fine
            await store.force_close("payments")
            await anyio.sleep(1.5)
            _ = (await s.task(good)).error
            await anyio.sleep(0.1)
            assert await s.task(good) == (None, 1)
            assert (await BREAKER.state()).failure_count == 0

    VirtualClock().run(main)
