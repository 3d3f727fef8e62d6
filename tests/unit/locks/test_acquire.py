"""Locks that a scope holds without a block: taking, waiting, extending, releasing."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from datetime import timedelta
from typing import Any

import anyio
import pytest

from gogoscope import LeaseLostError, LockError, ScopeClosedError, StoreTimeoutError, scope
from gogoscope.events import Event, LockReleased
from gogoscope.exceptions import ConfigurationError
from gogoscope.locks.acquire import Locks
from gogoscope.locks.queue import _queues
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend
from tests.unit.locks.faulty_store import ANSWERS_LOST, FaultyStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


async def test_a_lock_is_taken_once_until_it_is_released(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("order", 5)
        assert handle is not None
        assert handle.key == "order"
        assert await handle.is_valid()
        handle.ensure()
        assert await s.acquire_lock("order", 5) is None
        assert await handle.release()
        assert not await handle.release()
        assert not await handle.is_valid()
        with pytest.raises(LeaseLostError, match="released"):
            handle.ensure()
        again = await s.acquire_lock("order", 5)
        assert again is not None
        assert again.fencing_token > handle.fencing_token


async def test_a_handle_is_a_context_manager(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("order", 5)
        assert handle is not None
        async with handle:
            assert await store.holder("order") is not None
        assert await store.holder("order") is None


async def test_a_lock_is_released_at_the_end_of_the_scope(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        assert await s.acquire_lock("order", 5) is not None
    assert await store.holder("order") is None


class Hanging(MemoryStore):
    """Does not answer a release for 100 s."""

    async def release_lock(self, *args: Any, **options: Any) -> bool:
        await anyio.sleep(100)
        return await super().release_lock(*args, **options)


@BOTH
@pytest.mark.parametrize(("ttl", "longest"), [(60, 5), (0.5, 0)])
def test_the_end_of_a_scope_waits_once_for_all_its_locks_and_not_for_lost_ones(
    virtual_clock: VirtualClock, backend: Backend, ttl: float, longest: float
) -> None:
    events: list[Event] = []

    async def program() -> None:
        async with scope(persistence=Hanging(), on_event=events.append) as s:
            for number in range(4):
                assert await s.acquire_lock(f"order {number}", ttl) is not None
            await anyio.sleep(1)
        assert not any(_queues.all())

    virtual_clock.run(program, backend=backend)
    assert virtual_clock.elapsed() == pytest.approx(1 + longest, abs=0.1)
    released = [event.freed for event in events if isinstance(event, LockReleased)]
    assert released == [False] * 4


async def test_a_lock_is_released_when_the_scope_is_cancelled(store: FaultyStore) -> None:
    with anyio.CancelScope() as outside:
        async with scope(persistence=store) as s:
            await s.acquire_lock("order", 5)
            async with s.lock("other"):
                outside.cancel()
                await anyio.sleep_forever()
    assert await store.holder("order") is None
    assert await store.holder("other") is None


async def test_a_scope_that_lives_long_keeps_no_released_handles(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        for _ in range(100):
            handle = await s.acquire_lock("order", 5)
            assert handle is not None
            await handle.release()
        assert not Locks.of(s._home)._held


async def test_extend_moves_the_end_of_the_lease(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("order", 5)
        assert handle is not None
        before = handle.expires_at
        token = handle.fencing_token
        assert await handle.extend(60)
        assert handle.expires_at > before + 50
        assert handle.fencing_token == token
        assert await store.extend("order", 90, handle.owner)
        assert await handle.extend(60)
        await store.force_release("order")
        assert not await handle.extend(60)
        with pytest.raises(LeaseLostError, match="forcibly released"):
            handle.ensure()


async def test_an_unanswered_extension_to_a_shorter_lease_counts_as_done(
    store: FaultyStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("order", 60)
        assert handle is not None
        for how in ANSWERS_LOST:
            store.lose_answer = how
            with anyio.CancelScope() as cancelled, suppress(StoreTimeoutError):
                store.when_silent = cancelled.cancel
                await handle.extend(1)
            assert store.lose_answer is None
            assert handle.deadline <= anyio.current_time() + 1
            assert await handle.extend(60)
            assert handle.deadline > anyio.current_time() + 50


async def test_extending_by_owner_makes_no_lease_shorter_than_its_holder_knows(
    store: FaultyStore,
) -> None:
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("order", 60)
        assert handle is not None
        expires_at = handle.expires_at
        assert await store.extend("order", 1, handle.owner)
        holder = await store.read_lock("order")
        assert holder is not None
        assert holder.lease_until_ms == expires_at * 1000
        assert await handle.extend(1)
        assert handle.expires_at < expires_at - 50


async def test_a_wait_for_a_lock_ends_when_it_is_free(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        first = await s.acquire_lock("order", 5)
        assert first is not None
        waiting = s.task(s.acquire_lock, "order", 5, 5)
        await anyio.sleep(0.01)
        await first.release()
        second = (await waiting).unwrap()
        assert second is not None
        assert second.fencing_token > first.fencing_token
        started = anyio.current_time()
        assert await s.acquire_lock("order", 5, wait=0.05) is None
        assert anyio.current_time() - started >= 0.049


async def test_a_lock_whose_holder_died_is_free_after_its_lease(store: FaultyStore) -> None:
    handle = await store.acquire("order", 0.1)
    assert handle is not None
    async with scope(persistence=store) as s:
        with anyio.fail_after(5):
            successor = await s.acquire_lock("order", 5, wait=None)
    assert successor is not None
    with pytest.raises(LeaseLostError, match="not renewed"):
        handle.ensure()
    assert not await handle.release()


@pytest.mark.parametrize("wait", [None, 5, timedelta(seconds=5)])
async def test_waiting_for_a_handle_of_a_lock_that_the_same_task_holds_is_an_error(
    store: FaultyStore, wait: float | timedelta | None
) -> None:
    async with scope(persistence=store) as s:
        async with s.lock("order"):
            with anyio.fail_after(2), pytest.raises(LockError, match="holds the lock 'order'"):
                await s.acquire_lock("order", 5, wait)
            for at_once in (0, timedelta(0)):
                assert await s.acquire_lock("order", 5, at_once) is None
        assert await s.acquire_lock("order", 5, wait) is not None


async def test_a_task_with_the_id_of_one_that_held_a_lock_is_not_refused() -> None:
    taken = 0
    async with scope() as s:

        async def take() -> None:
            nonlocal taken
            async with s.lock("report"):
                taken += 1

        async def follow_up() -> None:
            await anyio.sleep(0.005)  # the lock that this was begun under is free again
            for _ in range(20):
                (await s.task(take)).unwrap()

        async def request() -> None:
            async with s.lock("report"):
                s.task(follow_up)

        for _ in range(5):
            (await s.task(request)).unwrap()
            await anyio.sleep(0.02)
    assert taken == 100


async def test_a_cancelled_acquire_stays_cancelled_though_taking_it_back_is_refused() -> None:
    class Refusing(MemoryStore):
        async def claim_lock(self, *args: Any, **options: Any) -> Any:
            await anyio.sleep_forever()

        async def release_lock(self, *args: Any, **options: Any) -> bool:
            raise ConfigurationError("no permission any more")

    with anyio.move_on_after(0.05) as limit:
        await Refusing().acquire("order", 30)
    assert limit.cancelled_caught


async def test_cancelling_at_any_moment_leaves_no_lock_behind(store: FaultyStore) -> None:
    for moment in range(40):
        with anyio.CancelScope() as outside:
            async with scope(persistence=store) as s:

                async def cancel_later(moment: int = moment, outside: Any = outside) -> None:
                    for _ in range(moment):
                        await anyio.sleep(0)
                    outside.cancel()

                s.task(cancel_later)
                async with s.lock("order") as locked:
                    _ = (await locked.task(anyio.sleep, 0)).error
                    await anyio.sleep(0)
        assert await store.holder("order") is None, moment


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("", 5), ValueError, "key must not be empty"),
        ((3, 5), TypeError, "key must be a str"),
        (("order", 0), ValueError, "ttl must be more than 0"),
        (("order", float("nan")), ValueError, "ttl"),
        (("order", "5"), TypeError, "ttl must be a number of seconds"),
        (("order", timedelta(hours=13)), ValueError, "ttl must be at most 43200 seconds"),
        (("order", 30_000), ValueError, "ttl must be at most 3600 .*not milliseconds"),
        (("order", 5, -1), ValueError, "wait must be 0 or more"),
    ],
)
async def test_bad_arguments_are_refused_and_leave_nothing(
    store: FaultyStore, arguments: Any, error: type[Exception], text: str
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(error, match=text):
            await s.acquire_lock(*arguments)
        with pytest.raises(error, match=text):
            s.lock(*arguments)
    assert await store.holder("order") is None


@pytest.mark.parametrize(
    ("metadata", "error", "text"),
    [
        ({"pid": "x"}, ValueError, "must not have 'pid', .* 'host', 'pid' and 'scope'"),
        ({"host": "x"}, ValueError, "metadata must not have 'host'"),
        ({"scope": "x"}, ValueError, "metadata must not have 'scope'"),
        ({"shard": 7}, TypeError, r"metadata\['shard'\] must be a str, got 7 of type int"),
        ({7: "x"}, TypeError, "metadata must have names of type str, got 7 of type int"),
        ("shard", TypeError, "metadata must be a mapping, got 'shard' of type str"),
    ],
)
async def test_metadata_with_reserved_names_or_other_than_text_is_refused(
    store: FaultyStore, metadata: Any, error: type[Exception], text: str
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(error, match=text):
            s.lock("order", metadata=metadata)


async def test_a_holder_whose_process_id_is_no_number_is_described_without_it(
    store: FaultyStore,
) -> None:
    claim = LockClaim("n1", "somebody", 5_000, {"host": "here", "pid": "worker-3"})
    await store.claim_lock("order", claim)
    holder = await store.holder("order")
    assert holder is not None
    assert (holder.owner, holder.host, holder.pid) == ("somebody", "here", None)


async def test_a_lock_needs_an_open_scope(store: FaultyStore) -> None:
    s = scope(persistence=store)
    with pytest.raises(ScopeClosedError):
        async with s.lock("order"):
            pass


async def test_a_lock_that_background_work_takes_while_the_scope_ends_is_released() -> None:
    store = MemoryStore()
    loads = 0

    async def load() -> int:
        nonlocal loads
        loads += 1
        if loads > 1:
            await anyio.sleep(0.05)  # until the block is ending
            assert await s.acquire_lock("taken late", 60) is not None
        return loads

    async with scope(persistence=store) as s:
        await s.cache.get_or_set("k", load, 0.001, stale_while_revalidate=60)
        await anyio.sleep(0.01)
        await s.cache.get_or_set("k", load, 0.001, stale_while_revalidate=60)
    assert loads > 1
    assert await store.holder("taken late") is None


@BOTH
def test_a_long_scope_forgets_the_locks_that_it_took_for_a_time_and_never_released(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    told: Counter[str] = Counter()

    def count(event: Event) -> None:
        told[type(event).__name__] += 1

    async def program() -> None:
        async with scope(persistence=store, on_event=count) as s:
            first = await s.acquire_lock("mail:first", 1)
            assert first is not None
            for number in range(1000):
                assert await s.acquire_lock(f"mail:{number}", 1) is not None
                await anyio.sleep(0.1)
            assert len(Locks.of(s._home)._held) < 200
            assert sum(len(queues) for queues in _queues.all()) < 200
            with pytest.raises(LeaseLostError, match="not renewed within its lease of 1 s"):
                first.ensure()
            assert await first.release() is True  # nobody has taken it since
        assert told["LockAcquired"] == told["LockReleased"] == 1001
        assert not any(_queues.all())

    virtual_clock.run(program, backend=backend)
