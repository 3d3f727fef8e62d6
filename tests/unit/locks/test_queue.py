"""Waiting for a lock: in turn, behind one poller, handed over in one write."""

from __future__ import annotations

import random
from typing import Any

import anyio
import pytest

from gogoscope import LockTimeoutError, StoreConnectionError, StoreTimeoutError, scope
from gogoscope.locks import queue
from gogoscope.locks.queue import MOST_IN_A_ROW, _queues
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend
from tests.unit.locks.counting_store import (
    LONG,
    CountingStore,
    another_process,
    settled,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def queues() -> int:
    return sum(len(queues) for queues in _queues.all())


async def test_local_waiters_get_the_lock_first_in_first_out(store: CountingStore) -> None:
    order: list[int] = []

    async def work(number: int) -> None:
        async with s.lock("job", ttl=LONG):
            order.append(number)
            await anyio.sleep(0)

    with anyio.fail_after(5):
        async with scope(persistence=store) as s, anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(work, number)
                await settled()
    assert order == list(range(10))
    assert queues() == 0


async def test_a_handover_is_one_write_and_after_sixteen_in_a_row_the_lock_is_freed(
    store: CountingStore,
) -> None:
    active = 0

    async def work() -> None:
        nonlocal active
        async with s.lock("job", ttl=LONG):
            active += 1
            assert active == 1
            await anyio.sleep(0)
            active -= 1

    with anyio.fail_after(5):
        async with scope(persistence=store) as s, anyio.create_task_group() as group:
            for _ in range(2 * MOST_IN_A_ROW + 2):
                group.start_soon(work)
    assert store.calls == {"claim": 2, "hand over": 2 * MOST_IN_A_ROW, "release": 2}


async def test_many_waiters_send_no_more_requests_than_one(store: CountingStore) -> None:
    elsewhere = another_process(store)
    handle = await elsewhere.acquire("job", LONG)
    assert handle is not None
    got: list[int] = []

    async def work() -> None:
        async with s.lock("job", ttl=LONG) as locked:
            got.append(locked.fencing_token)

    async with scope(persistence=store) as s, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(work)
        with anyio.fail_after(5):
            while store.calls["claim"] < 2:
                await anyio.sleep(0.01)
        assert store.calls["claim"] <= 20
        await handle.release()
    assert got == sorted(set(got))
    assert len(got) == 100


async def test_without_waiting_the_lock_is_asked_for_once_and_past_the_queue(
    store: CountingStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        store.calls.clear()
        assert await s.acquire_lock("job", LONG, wait=0) is None
        assert store.calls == {"claim": 1}
        await handle.release()
        assert (await waiting).unwrap() is not None


async def test_waiting_for_a_lock_held_in_this_process_sends_nothing(store: CountingStore) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        store.calls.clear()
        with pytest.raises(LockTimeoutError, match=f"held by '{handle.owner}' .*pid"):
            async with s.lock("job", wait=0.1):
                pass
        assert not store.calls
        with pytest.raises(LockTimeoutError, match="lock 'job' was not free: held by"):
            async with s.lock("job", wait=0):
                pass
    assert queues() == 0


async def test_a_waiter_that_is_cancelled_during_the_handover_passes_the_lock_on(
    store: CountingStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        first = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        second = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        store.gate = gate = anyio.Event()
        releasing = s.task(handle.release)
        await store.at_gate.wait()
        first.cancel()
        await first
        gate.set()
        store.gate = None
        with anyio.fail_after(5):
            assert (await second).unwrap() is not None
            assert (await releasing).unwrap() is True
    assert await store.holder("job") is None
    assert queues() == 0


@BOTH
@pytest.mark.parametrize("seconds", [0.7, 1.5, 3, 100])
def test_a_release_is_bounded_however_long_handovers_take_and_whoever_leaves_meanwhile(
    virtual_clock: VirtualClock, backend: Backend, seconds: float
) -> None:
    class Slow(CountingStore):
        async def hand_over_lock(self, *args: Any, **options: Any) -> Any:
            reply = await super().hand_over_lock(*args, **options)
            await anyio.sleep(seconds)
            return reply

    async def program() -> None:
        store = Slow()
        async with scope(persistence=store) as s:
            async with s.lock("job", ttl=LONG):
                for number in range(12):
                    s.task(s.acquire_lock, "job", LONG, (number + 0.5) * seconds)
                await settled()
                began = anyio.current_time()
            assert anyio.current_time() - began <= 5
        assert await store.holder("job") is None
        assert queues() == 0

    virtual_clock.run(program, backend=backend)


@BOTH
def test_a_lock_is_handed_over_by_one_write_however_long_it_was_held_here(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = CountingStore()
        async with scope(persistence=store) as s:
            async with s.lock("job", ttl=30):
                waiting = s.task(s.acquire_lock, "job", LONG, None)
                await anyio.sleep(20.5)  # while the waiter has looked twice whether it is held
                looks = store.calls["claim"]
            assert (await waiting).unwrap() is not None
            assert store.calls == {"claim": looks, "hand over": 1}

    virtual_clock.run(program, backend=backend)


@BOTH
def test_who_is_handed_the_lock_sleeps_until_the_slow_answer_though_the_lease_ends_before(
    virtual_clock: VirtualClock, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps = 0
    set_within = queue._set_within

    async def sleep(event: anyio.Event, seconds: float) -> bool:
        nonlocal sleeps
        sleeps += 1
        assert sleeps <= 10, "pauses of no time, while a virtual clock stands still"
        return await set_within(event, seconds)

    monkeypatch.setattr(queue, "_set_within", sleep)

    class Slow(CountingStore):
        async def hand_over_lock(self, *args: Any, **options: Any) -> Any:
            reply = await super().hand_over_lock(*args, **options)
            await anyio.sleep(2)
            return reply

    async def program() -> None:
        store = Slow()
        other = await another_process(store).acquire("job", 0.15)
        async with scope(persistence=store) as s:
            handle = await s.acquire_lock("job", 1, None)  # having waited, so that it has polled
            assert other is not None
            assert handle is not None
            waiting = s.task(s.acquire_lock, "job", LONG, None)
            await anyio.sleep(0.1)
            assert await handle.release()
            assert (await waiting).unwrap() is not None
        assert store.calls["hand over"] == 1

    virtual_clock.run(program, backend=backend)


async def test_a_cancelled_release_frees_the_lock_when_no_waiter_is_left(
    store: CountingStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        store.gate = gate = anyio.Event()
        releasing = s.task(handle.release)
        await store.at_gate.wait()
        waiting.cancel()
        await waiting
        releasing.cancel()
        gate.set()
        await releasing
        assert await store.holder("job") is None


async def test_a_release_that_is_cancelled_during_the_handover_completes_it(
    store: CountingStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        store.gate = gate = anyio.Event()
        releasing = s.task(handle.release)
        await store.at_gate.wait()
        releasing.cancel()
        await settled()
        gate.set()
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


@pytest.mark.parametrize("landed", [False, True])
async def test_a_handover_whose_answer_is_lost_stalls_nobody(
    store: CountingStore, landed: bool
) -> None:
    lost = StoreTimeoutError("no answer")
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        (store.after_handover if landed else store.before_handover).append(lost)
        assert await handle.release() is True
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


async def test_a_store_that_fails_at_the_release_fails_the_release(store: CountingStore) -> None:
    async def fail(*args: Any, **options: Any) -> bool:
        raise StoreConnectionError("cut off")

    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        release, store.release_lock = store.release_lock, fail  # type: ignore[method-assign]
        store.before_handover.append(StoreConnectionError("cut off"))
        with pytest.raises(StoreConnectionError):
            await handle.release()
        store.release_lock = release  # type: ignore[method-assign]
        assert await handle.release() is True
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


async def test_a_handover_that_finds_the_lock_lost_says_so_and_the_waiter_waits_on(
    store: CountingStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        await store.force_release("job")
        thief = await store.acquire("job", LONG, "thief")
        assert thief is not None
        assert await handle.release() is False
        await settled()
        assert not waiting.done
        await thief.release()
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


async def test_a_waiter_finds_a_lock_that_was_forcibly_released(
    store: CountingStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", 1)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", LONG, None)
        await settled()
        await store.force_release("job")
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


@pytest.mark.parametrize("seed", range(8))
async def test_cancelling_anybody_at_any_time_stalls_nobody(
    store: CountingStore, seed: int
) -> None:
    chance = random.Random(seed)
    held: list[int] = []
    done = 0

    async def steps(number: int) -> None:
        for _ in range(number):
            await anyio.sleep(0)

    async def work(s: Any, number: int) -> None:
        nonlocal done
        with anyio.CancelScope() as cancelled:

            async def cancel_later() -> None:
                await steps(chance.randrange(60))
                cancelled.cancel()

            async with anyio.create_task_group() as group:
                if chance.random() < 0.6:
                    group.start_soon(cancel_later)
                wait = chance.choice([None, None, 0.001])
                handle = await s.acquire_lock("job", LONG, wait)
                if handle is not None:
                    async with handle:
                        held.append(number)
                        try:
                            assert len(held) == 1
                            await steps(chance.randrange(4))
                        finally:
                            held.remove(number)
                group.cancel_scope.cancel()
        done += 1

    elsewhere = another_process(store)
    with anyio.fail_after(20):
        async with (
            scope(persistence=store) as s,
            scope(persistence=elsewhere) as t,
            anyio.create_task_group() as group,
        ):
            for number in range(60):
                group.start_soon(work, chance.choice([s, s, t]), number)
                await steps(chance.randrange(3))
    assert done == 60
    assert await store.holder("job") is None
    assert queues() == 0


async def test_a_queue_is_forgotten_when_its_last_user_leaves(store: CountingStore) -> None:
    async with scope(persistence=store) as s:
        for number in range(50):
            handle = await s.acquire_lock(f"job {number}", LONG)
            assert handle is not None
            assert await s.acquire_lock(f"job {number}", LONG) is None
            await handle.release()
        assert queues() == 0
        kept = await s.acquire_lock("job", LONG)
        assert kept is not None
        assert queues() == 1
    assert queues() == 0


@BOTH
def test_a_late_release_does_not_disturb_a_newer_queue(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    order: list[int] = []

    async def program() -> None:
        store = CountingStore()

        async def work(number: int) -> None:
            async with s.lock("job", ttl=LONG):
                order.append(number)

        async with scope(persistence=store) as s:
            late = await s.acquire_lock("job", 1)
            assert late is not None
            await anyio.sleep(2)
            async with s.lock("job", ttl=LONG):
                pass
            elsewhere = await another_process(store).acquire("job", LONG)
            assert elsewhere is not None
            s.task(work, 1)
            await anyio.sleep(5)
            s.task(work, 2)
            await anyio.sleep(5)
            await late.release()
            assert queues() == 1
            s.task(work, 3)
            await anyio.sleep(0)
            await elsewhere.release()
        assert queues() == 0

    virtual_clock.run(program, backend=backend)
    assert order == [1, 2, 3]
