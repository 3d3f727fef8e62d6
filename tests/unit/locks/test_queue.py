"""Waiting for a lock: in turn, behind one poller, handed over in one write."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, Literal

import anyio
import pytest

from gogoscope import LockTimeoutError, StoreConnectionError, StoreTimeoutError, scope
from gogoscope.locks.polling import RESERVE_AFTER_SECONDS
from gogoscope.locks.queue import MOST_IN_A_ROW, _queues
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from gogoscope.testing.conformance import ManualClock

pytestmark = pytest.mark.anyio

LONG = 600
BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])

Backend = Literal["asyncio", "trio"]


class CountingStore(MemoryStore):
    """Counts the calls that would be requests, and lets a handover fail or take its time."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: Counter[str] = Counter()
        self.before_handover: list[Exception] = []
        self.after_handover: list[Exception] = []
        self.gate: anyio.Event | None = None
        self.at_gate = anyio.Event()

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        self.calls["claim"] += 1
        await anyio.sleep(0)
        return await super().claim_lock(*args, **options)

    async def release_lock(self, *args: Any, **options: Any) -> bool:
        self.calls["release"] += 1
        await anyio.sleep(0)
        return await super().release_lock(*args, **options)

    async def reserve_lock(self, *args: Any, **options: Any) -> Any:
        self.calls["reserve"] += 1
        await anyio.sleep(0)
        return await super().reserve_lock(*args, **options)

    async def hand_over_lock(self, *args: Any, **options: Any) -> Any:
        self.calls["hand over"] += 1
        if self.before_handover:
            raise self.before_handover.pop()
        await anyio.sleep(0)
        reply = await super().hand_over_lock(*args, **options)
        if self.gate is not None:
            self.at_gate.set()
            await self.gate.wait()
        if self.after_handover:
            raise self.after_handover.pop()
        return reply


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def another_process(store: CountingStore) -> CountingStore:
    """Return a store on the same records that shares no queue, as in another process."""
    other = CountingStore()
    other._records = store._records
    return other


def queues() -> int:
    return sum(len(queues) for queues in _queues.all())


async def settled() -> None:
    for _ in range(20):
        await anyio.sleep(0)


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


async def test_a_handoff_is_one_write_and_after_sixteen_in_a_row_anybody_may_come(
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


async def test_many_who_wait_ask_no_more_often_than_one(store: CountingStore) -> None:
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
        await anyio.sleep(0.2)
        assert 2 <= store.calls["claim"] <= 20
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


async def test_who_waits_for_a_lock_held_here_sends_nothing(store: CountingStore) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("job", LONG)
        assert handle is not None
        store.calls.clear()
        with pytest.raises(LockTimeoutError, match=f"held by '{handle.owner}' .*pid"):
            async with s.lock("job", wait=0.1):
                pass
        assert store.calls["claim"] <= 1
        with pytest.raises(LockTimeoutError, match="lock 'job' was not free: held by"):
            async with s.lock("job", wait=0):
                pass
    assert queues() == 0


async def test_a_waiter_that_is_cancelled_during_the_handover_passes_it_on(
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


async def test_a_releaser_that_is_cancelled_while_nobody_is_left_to_take_the_lock_frees_it(
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


async def test_a_releaser_that_is_cancelled_during_the_handover_completes_it(
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


async def test_a_lock_that_was_freed_by_force_is_found_by_who_waits_here(
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


async def test_another_process_that_waited_gets_the_next_turn(store: CountingStore) -> None:
    elsewhere = another_process(store)
    got = anyio.Event()

    # So long that the lock is handed on, and never free by luck, until the turn is reserved.
    held_for = 2 * RESERVE_AFTER_SECONDS / MOST_IN_A_ROW

    async def keep_handing_over(s: Any) -> None:
        while not got.is_set():
            async with s.lock("job", ttl=LONG):
                await anyio.sleep(held_for)

    with anyio.fail_after(10):
        async with (
            scope(persistence=store) as s,
            scope(persistence=elsewhere) as t,
            anyio.create_task_group() as group,
        ):
            for _ in range(8):
                group.start_soon(keep_handing_over, s)
            while not store.calls["hand over"]:
                await anyio.sleep(0)
            async with t.lock("job", ttl=LONG):
                got.set()
    assert elsewhere.calls["reserve"] >= 1


async def test_a_reservation_is_renewed_while_its_process_waits(store: CountingStore) -> None:
    elsewhere = another_process(store)
    handle = await store.acquire("job", LONG)
    assert handle is not None
    async with scope(persistence=elsewhere) as t:
        waiting = t.task(t.acquire_lock, "job", LONG, None)
        await anyio.sleep(1.6)
        record = await store.read_lock("job")
        assert record is not None
        assert record.next_turn is not None
        assert record.next_until_ms > store._records.now_ms()
        assert elsewhere.calls["reserve"] <= 4
        await handle.release()
        assert await store.acquire("job", LONG) is None
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


@pytest.mark.parametrize("freed", [False, True])
async def test_a_reservation_is_given_back_when_nobody_waits_any_more(
    store: CountingStore, freed: bool
) -> None:
    elsewhere = another_process(store)
    handle = await store.acquire("job", LONG)
    assert handle is not None
    async with scope(persistence=elsewhere) as t:
        waiting = t.task(t.acquire_lock, "job", LONG, None)
        while not elsewhere.calls["reserve"]:
            await anyio.sleep(0.01)
        await settled()
        if freed:
            await handle.release()
        waiting.cancel()
        await waiting
    record = await store.read_lock("job")
    assert record is not None
    assert record.next_turn is None


async def test_a_dead_holder_and_a_dead_reservation_are_passed_over_without_trusting_clocks() -> (
    None
):
    now = 1_800_000_000.0
    dead = CountingStore(clock=ManualClock(now + 3600))
    assert await dead.acquire("job", 0.2) is not None
    assert (await dead.reserve_lock("job", "dead", 1000)).granted
    await dead.force_release("other")
    assert (await dead.acquire("other", LONG)) is not None
    assert (await dead.reserve_lock("other", "dead", 1000)).granted
    record = await dead.read_lock("other")
    assert record is not None
    await dead.release_lock("other", record.nonce or "", in_time=True)
    alive = CountingStore(clock=ManualClock(now), max_clock_skew=7200)
    alive._records = dead._records
    alive._records._clock = ManualClock(now)  # type: ignore[attr-defined]
    for key, longest in (("job", 1), ("other", 3)):
        async with scope(persistence=alive) as s:
            with anyio.fail_after(longest):
                assert await s.acquire_lock(key, LONG, None) is not None


async def test_a_dead_holder_is_followed_as_soon_as_its_lease_is_over(
    store: CountingStore,
) -> None:
    elsewhere = another_process(store)
    handle = await elsewhere.acquire("job", 2)
    assert handle is not None
    deadline = handle.deadline
    async with scope(persistence=store) as s, s.lock("job", ttl=LONG):
        assert deadline - 0.1 < anyio.current_time() < deadline + 0.3


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


async def test_queues_are_forgotten_with_the_last_who_used_them(store: CountingStore) -> None:
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
def test_a_late_release_leaves_the_queue_of_those_who_came_later_alone(
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


class SlowStore(CountingStore):
    """Takes ``before`` and ``after`` seconds around a claim, and ``releasing`` before a release."""

    def __init__(self, before: float = 0, after: float = 0, releasing: float = 0) -> None:
        super().__init__()
        self.before, self.after, self.releasing = before, after, releasing

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        await anyio.sleep(self.before)
        reply = await super().claim_lock(*args, **options)
        await anyio.sleep(self.after)
        return reply

    async def release_lock(self, *args: Any, **options: Any) -> bool:
        await anyio.sleep(self.releasing)
        return await super().release_lock(*args, **options)


@BOTH
@pytest.mark.parametrize(
    "takes",
    [{"before": 100}, {"after": 100}, {"after": 100, "releasing": 3}],
    ids=["lost", "landed", "slow to release"],
)
@pytest.mark.parametrize("wait", [0.5, 4])
def test_a_wait_ends_in_time_though_the_store_does_not_answer(
    virtual_clock: VirtualClock, backend: Backend, takes: dict[str, float], wait: float
) -> None:
    async def program() -> None:
        store = SlowStore(**takes)
        began = anyio.current_time()
        async with scope(persistence=store) as s:
            with pytest.raises(StoreTimeoutError, match="did not answer for lock 'job'"):
                await s.acquire_lock("job", LONG, wait)
            assert anyio.current_time() - began == pytest.approx(max(wait, 1), abs=0.01)
        assert await store.holder("job") is None
        assert queues() == 0

    virtual_clock.run(program, backend=backend)


@BOTH
def test_a_wait_ends_with_who_has_the_lock_though_the_store_stops_answering(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = SlowStore()
        holder = await another_process(store).acquire("job", LONG)
        assert holder is not None
        async with scope(persistence=store) as s:
            began = anyio.current_time()

            async def stop_answering() -> None:
                await anyio.sleep(1)
                store.after = 100

            s.task(stop_answering)
            with pytest.raises(LockTimeoutError, match=f"held by '{holder.owner}'"):
                async with s.lock("job", wait=3):
                    pass
            assert anyio.current_time() - began == pytest.approx(3, abs=0.01)

    virtual_clock.run(program, backend=backend)


@BOTH
@pytest.mark.parametrize(("seconds", "wait"), [(0.9, 0.01), (60, 0), (60, None)])
def test_a_free_lock_is_had_however_short_the_wait_if_the_store_takes_its_usual_time(
    virtual_clock: VirtualClock, backend: Backend, seconds: float, wait: float | None
) -> None:
    async def program() -> None:
        async with scope(persistence=SlowStore(after=seconds)) as s:
            assert await s.acquire_lock("job", LONG, wait) is not None

    virtual_clock.run(program, backend=backend)


@pytest.mark.parametrize("wait", [0, 2])
@BOTH
def test_who_was_granted_a_lock_too_late_is_not_called_its_holder(
    virtual_clock: VirtualClock, backend: Backend, wait: float
) -> None:
    async def program() -> None:
        async with scope(persistence=SlowStore(after=0.4)) as s:
            with pytest.raises(LockTimeoutError) as caught:
                async with s.lock("job", ttl=0.3, wait=wait):
                    pass
            assert "held by" not in str(caught.value)

    virtual_clock.run(program, backend=backend)
