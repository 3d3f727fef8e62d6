"""Renewing a lock beside the code that needs it, and releasing it at the end."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import anyio
import pytest

from gogoscope import LeaseLostError, LockHandle, StoreConnectionError
from gogoscope.persistence import RecordStore, current_clock
from gogoscope.persistence.lease import LOOK_AT_CLOCK_SECONDS, Renewal
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, release
from gogoscope.stores.memory import MemoryRecords, MemoryStore
from gogoscope.testing import UnpluggableStore, VirtualClock
from tests.support.backends import Backend


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


async def held(store: UnpluggableStore, ttl: float = 30) -> LockHandle:
    handle = await store.acquire("job", ttl)
    assert handle is not None
    return handle


def test_a_renewal_keeps_the_lock_until_it_is_stopped(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        handle = await held(store)
        renewal = Renewal(handle)
        async with anyio.create_task_group() as group:
            task = group.create_task(renewal.run())
            await anyio.sleep(95)
            handle.ensure()
            renewal.stop()
            assert await task is None
        assert store.requests["renew_lock"] == 9

    virtual_clock.run(program, backend=backend)


def test_a_lock_survives_a_claim_that_took_most_of_its_lease(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        store.slow_down(25)
        handle = await held(store, 30)
        store.slow_down(0)
        renewal = Renewal(handle)
        async with anyio.create_task_group() as group:
            task = group.create_task(renewal.run())
            await anyio.sleep(20)
            handle.ensure()
            renewal.stop()
            assert await task is None

    virtual_clock.run(program, backend=backend)


def test_a_renewal_that_is_stopped_before_it_began_renews_nothing(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        renewal = Renewal(await held(store))
        renewal.stop()
        assert await renewal.run() is None
        assert store.requests["renew_lock"] == 0

    virtual_clock.run(program, backend=backend)
    assert virtual_clock.elapsed() == 0


def test_a_renewal_goes_on_while_the_code_beside_it_is_being_cancelled(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        handle = await held(store)
        renewal = Renewal(handle)
        async with anyio.create_task_group() as group:
            group.start_soon(renewal.run)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(95)
            handle.ensure()
            renewal.stop()

    virtual_clock.run(program, backend=backend)


@pytest.mark.parametrize("fault", ["unplugged", "silent"])
def test_a_renewal_ends_with_the_lease_and_says_what_the_store_did(
    virtual_clock: VirtualClock, backend: Backend, fault: str
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        handle = await held(store)
        if fault == "unplugged":
            store.unplug()
        else:
            store.slow_down(math.inf)
        lost = await Renewal(handle).run()
        assert lost is not None
        assert lost.key == "job"
        if fault == "unplugged":
            assert (
                "the store failed with StoreConnectionError('the store is unplugged')"
                in lost.reason
            )
            assert isinstance(lost.__cause__, StoreConnectionError)
        else:
            assert "the store did not answer" in lost.reason
            assert lost.__cause__ is None

    virtual_clock.run(program, backend=backend)
    assert virtual_clock.elapsed() == pytest.approx(30, abs=0.01)


def test_a_renewal_tries_again_soon_after_the_store_failed(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        handle = await held(store)
        store.unplug()
        renewal = Renewal(handle)
        async with anyio.create_task_group() as group:
            group.start_soon(renewal.run)
            await anyio.sleep(11)
            store.plug_in()
            await anyio.sleep(2)
            assert store.requests["renew_lock"] == 2
            assert handle.deadline == pytest.approx(anyio.current_time() + 29.5)
            renewal.stop()

    virtual_clock.run(program, backend=backend)


class SetClock:
    """The virtual clock, whose wall clock a test sets."""

    offset = 0.0

    def wall(self) -> float:
        return current_clock.wall() + self.offset

    def elapsed(self) -> float:
        return current_clock.elapsed()


class FleetRecords(MemoryRecords):
    """Records that machines share, so that leases count by the wall clock."""

    def steady(self) -> None:
        return None


@pytest.mark.parametrize("answers", [True, False])
def test_a_renewal_renews_soon_after_a_clock_was_set_past_the_lease(
    virtual_clock: VirtualClock, backend: Backend, answers: bool
) -> None:
    async def program() -> None:
        clock = SetClock()
        store = UnpluggableStore(RecordStore(FleetRecords(clock)))
        handle = await held(store)
        renewal = Renewal(handle)
        async with anyio.create_task_group() as group:
            group.start_soon(renewal.run)
            try:
                await anyio.sleep(1.5)
                clock.offset = 3600.0
                with pytest.raises(LeaseLostError, match="a clock was set"):
                    handle.ensure()
                if not answers:
                    store.unplug()
                await anyio.sleep(LOOK_AT_CLOCK_SECONDS)
                store.plug_in()
                await anyio.sleep(LOOK_AT_CLOCK_SECONDS)
                handle.ensure()
                assert store.requests["renew_lock"] == (1 if answers else 2)
            finally:
                renewal.stop()

    virtual_clock.run(program, backend=backend)


def test_release_is_bounded_when_the_store_does_not_answer(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        handle = await held(store)
        store.slow_down(math.inf)
        with anyio.CancelScope() as outside:
            outside.cancel()
            await release(handle)

    virtual_clock.run(program, backend=backend)
    assert virtual_clock.elapsed() == pytest.approx(CLEAN_UP_SECONDS)


def test_release_logs_a_store_that_fails(
    virtual_clock: VirtualClock, backend: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store = UnpluggableStore(MemoryStore())
        handle = await held(store)
        store.unplug()
        await release(handle)

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        virtual_clock.run(program, backend=backend)
    assert "could not be released; its lease will end" in caplog.text


class SlowOnce(MemoryStore):
    """Does not answer the first release."""

    def __init__(self) -> None:
        super().__init__()
        self.releasing = asyncio.Event()

    async def release_lock(self, *args: Any, **options: Any) -> bool:
        if not self.releasing.is_set():
            self.releasing.set()
            await asyncio.sleep(60)
        return await super().release_lock(*args, **options)


@pytest.mark.parametrize("how", ["release", "block"])
def test_asyncios_own_cancellation_of_a_release_leaves_no_lock_behind(how: str) -> None:
    async def leave(handle: LockHandle) -> None:
        if how == "release":
            await release(handle)
        else:
            async with handle:
                pass

    async def program() -> None:
        store = SlowOnce()
        handle = await store.acquire("job", 600)
        assert handle is not None
        task = asyncio.ensure_future(leave(handle))
        await store.releasing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.holder("job") is None

    asyncio.run(program())


def test_asyncios_own_cancellation_of_a_claim_that_is_taken_back_leaves_no_lock_behind() -> None:
    class NotAnswering(SlowOnce):
        async def claim_lock(self, *args: Any, **options: Any) -> Any:
            await super().claim_lock(*args, **options)
            claimed.set()
            await asyncio.sleep(60)

    claimed = asyncio.Event()

    async def program() -> None:
        store = NotAnswering()
        task = asyncio.ensure_future(store.acquire("job", 600))
        await claimed.wait()
        task.cancel()
        await store.releasing.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.holder("job") is None

    asyncio.run(program())
