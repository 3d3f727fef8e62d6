"""Rule 14: a lock held for a block, its renewal, and what happens when it is lost."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

import anyio
import pytest

from gogoscope import (
    LeaseLostError,
    LockError,
    LockTimeoutError,
    StoreConnectionError,
    StoreTimeoutError,
    Task,
    TaskCancelled,
    scope,
)
from gogoscope.events import Event, LeaseLost
from gogoscope.locks.acquire import timeout_error
from gogoscope.persistence import LockRecord
from gogoscope.testing import VirtualClock
from tests.conftest import EVENT_LOOPS
from tests.support.backends import BOTH, Backend
from tests.unit.locks.faulty_store import FaultyStore

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@BOTH
def test_a_block_renews_its_lock_while_it_runs(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    async def program() -> None:
        async with scope(persistence=store) as s:
            async with s.lock("order", ttl=30, metadata={"shard": "7"}) as locked:
                for _ in range(8):
                    await anyio.sleep(10)
                    locked.ensure()
                    assert await locked.is_valid()
                holder = await store.holder("order")
                assert holder is not None
                assert holder.fencing_token == locked.fencing_token
                assert holder.scope == s.name
            assert store.renewals >= 3
            assert await store.holder("order") is None

    virtual_clock.run(program, backend=backend)


@BOTH
def test_rule_14_the_lock_is_released_after_the_last_task_of_its_block(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    held: list[bool] = []

    async def work() -> None:
        await anyio.sleep(60)
        held.append(await store.holder("order") is not None)

    async def program() -> None:
        async with scope(persistence=store) as s, s.lock("order", ttl=30) as locked:
            locked.task(work)
        assert held == [True]

    virtual_clock.run(program, backend=backend)


@pytest.mark.parametrize("anyio_backend", [loop for loop in EVENT_LOOPS if loop.id != "trio"])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_renewal_that_asyncio_itself_cancels_loses_the_lease_and_never_cuts_in_silence(
    store: FaultyStore, begun: bool
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError, match="its renewal"):
            async with s.lock("order", ttl=30):
                if begun:
                    await anyio.sleep(0.01)
                for task in asyncio.all_tasks():
                    if task.get_name() == "gogoscope lease of order":
                        task.cancel()
                await anyio.sleep(5)
        assert await s.acquire_lock("order", ttl=1, wait=5) is not None


@BOTH
def test_rule_14_a_lost_lease_cancels_the_block_and_its_tasks(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    events: list[Event] = []
    tasks: list[Task[None]] = []

    async def program() -> None:
        with pytest.raises(LeaseLostError, match="taken over by 'thief'") as caught:
            async with (
                scope(persistence=store, on_event=events.append) as s,
                s.lock("order", ttl=30) as locked,
            ):
                tasks.append(locked.task(anyio.sleep_forever))
                await store.force_release("order")
                assert await store.acquire("order", 600, "thief") is not None
                await anyio.sleep_forever()
        assert caught.value.key == "order"
        assert isinstance((await tasks[0]).error, TaskCancelled)
        assert [event.key for event in events if isinstance(event, LeaseLost)] == ["order"]
        holder = await store.holder("order")
        assert holder is not None
        assert holder.owner == "thief"

    virtual_clock.run(program, backend=backend)


@BOTH
def test_rule_14_a_store_that_is_cut_off_loses_the_lock_at_the_end_of_its_lease(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    async def program() -> None:
        started = anyio.current_time()
        with pytest.raises(LeaseLostError, match="cut off") as caught:
            async with scope(persistence=store) as s, s.lock("order", ttl=30) as locked:
                store.cut_off = True
                try:
                    await anyio.sleep_forever()
                finally:
                    assert anyio.current_time() - started == pytest.approx(30, abs=0.1)
                    with pytest.raises(LeaseLostError):
                        locked.ensure()
        assert isinstance(caught.value.__cause__, StoreConnectionError)

    virtual_clock.run(program, backend=backend)


@BOTH
def test_rule_14_a_short_outage_of_the_store_loses_nothing(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    async def program() -> None:
        async with scope(persistence=store) as s, s.lock("order", ttl=30) as locked:
            store.cut_off = True
            await anyio.sleep(15)
            store.cut_off = False
            await anyio.sleep(25)
            locked.ensure()

    virtual_clock.run(program, backend=backend)


@BOTH
def test_rule_14_a_block_whose_lease_was_made_shorter_is_renewed_in_time(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    async def program() -> None:
        async with scope(persistence=store) as s, s.lock("order", ttl=600) as locked:
            await anyio.sleep(1)
            assert await locked.extend(3)
            for _ in range(20):
                await anyio.sleep(1)
                locked.ensure()
            assert 20 <= store.renewals <= 22

    virtual_clock.run(program, backend=backend)


@pytest.mark.parametrize("answered", [True, False])
@BOTH
def test_rule_14_a_block_whose_lease_was_made_shorter_is_cancelled_at_its_end(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore, answered: bool
) -> None:
    async def program() -> None:
        with pytest.raises(LeaseLostError, match="not renewed within its lease"):
            async with scope(persistence=store) as s, s.lock("order", ttl=600) as locked:
                await anyio.sleep(1)
                store.lose_answer = None if answered else "error"
                with suppress(StoreTimeoutError):
                    assert await locked.extend(3)
                store.cut_off = True
                await anyio.sleep_forever()

    virtual_clock.run(program, backend=backend)
    assert virtual_clock.elapsed() == pytest.approx(4, abs=0.1)


async def test_rule_14_a_renewal_that_waits_for_an_extension_renews_by_its_lease(
    store: FaultyStore,
) -> None:
    renew = store.renew_lock

    async def renew_later(*args: Any) -> Any:
        await anyio.sleep(0)
        return await renew(*args)

    store.renew_lock = renew_later  # type: ignore[method-assign]
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("order", 60)
        assert handle is not None
        async with s.child() as c:
            c.task(handle.extend, 600)
            c.task(handle.extend)
        assert handle._lease == 600
        assert handle.deadline > anyio.current_time() + 500


async def test_rule_14_ensure_raises_when_the_event_loop_was_blocked_beyond_the_lease(
    store: FaultyStore,
) -> None:
    with pytest.raises(LeaseLostError, match="not renewed within its lease"):
        async with scope(persistence=store) as s, s.lock("order", ttl=0.1) as locked:
            time.sleep(0.2)
            locked.ensure()


async def test_rule_14_a_lease_that_ended_unnoticed_is_raised_at_the_end_of_the_block(
    store: FaultyStore,
) -> None:
    with pytest.raises(LeaseLostError):
        async with scope(persistence=store) as s, s.lock("order", ttl=0.1):
            time.sleep(0.2)


async def test_rule_14_an_exception_of_the_block_goes_out_and_frees_the_lock(
    store: FaultyStore,
) -> None:
    with pytest.raises(KeyError, match="body"):
        async with scope(persistence=store) as s, s.lock("order"):
            raise KeyError("body")
    assert await store.holder("order") is None


async def test_rule_14_a_block_can_be_cancelled_by_itself(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        async with s.lock("order") as locked:
            locked.cancel("enough")
            await anyio.sleep_forever()
        assert await store.holder("order") is None
        assert not s._cancelling


async def test_rule_14_waiting_for_a_lock_that_the_same_task_holds_is_an_error(
    store: FaultyStore,
) -> None:
    async def take() -> int:
        async with s.lock("order") as locked:
            return locked.fencing_token

    async with scope(persistence=store) as s:
        async with s.lock("order"):
            with pytest.raises(LockError, match="holds the lock 'order' already"):
                async with s.lock("order"):
                    pass
            async with s.lock("another"):
                pass
            other = s.task(take)
            await anyio.sleep(0.01)
            assert not other.done
        assert (await other).error is None
        assert (await s.task(take)).error is None


@pytest.mark.parametrize("inline", [True, False])
async def test_a_task_that_its_awaiter_waits_for_is_another_task_than_the_holder(
    store: FaultyStore, inline: bool
) -> None:
    async def take() -> None:
        async with s.lock("order", wait=0.01):
            pytest.fail("it is held")

    async with scope(persistence=store, inline=inline) as s, s.lock("order") as locked:
        assert isinstance((await s.task(take)).error, LockTimeoutError)
        assert isinstance((await locked.task(take)).error, LockTimeoutError)


async def test_a_block_whose_lock_is_not_free_in_time_names_the_holder(
    store: FaultyStore,
) -> None:
    assert await store.acquire("order", 60, "somebody") is not None
    async with scope(persistence=store) as s:
        for wait in (0, 0.05):
            with pytest.raises(LockTimeoutError, match="held by 'somebody'") as caught:
                async with s.lock("order", wait=wait):
                    pass
            assert isinstance(caught.value, TimeoutError)


async def test_rule_14_a_loss_that_the_body_raises_is_raised_once(
    store: FaultyStore, caplog: pytest.LogCaptureFixture
) -> None:
    for pause in (0, 0.001, 0.01):
        with pytest.raises(LeaseLostError) as caught:
            async with scope(persistence=store) as s, s.lock("order", ttl=0.05) as locked:
                time.sleep(0.06)
                await anyio.sleep(pause)
                locked.ensure()
        assert not getattr(caught.value, "__notes__", [])
    assert not caplog.records


def test_an_error_escapes_what_another_holder_wrote() -> None:
    metadata = {"shard\x1b[2J": "7\r\nlock is free"}
    held = LockRecord(version=1, fencing_token=1, owner="o\x07", nonce="n", metadata=metadata)
    assert str(timeout_error("order", 1, held)).isprintable()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"shard": "\ud800"}, r"metadata\['shard'\] must be encodable as UTF-8"),
        ({"\udc00": "7"}, "a name in metadata must be encodable as UTF-8"),
        ({"": "7"}, "a name in metadata must not be empty"),
    ],
)
async def test_metadata_that_no_store_can_hold_is_refused(
    store: FaultyStore, metadata: dict[str, str], message: str
) -> None:
    async with scope(persistence=store) as s:
        with pytest.raises(ValueError, match=message):
            async with s.lock("order", metadata=metadata):
                pass


async def test_a_name_that_utf_8_cannot_hold_is_escaped_in_the_lock(store: FaultyStore) -> None:
    async with scope(name="script\udcff", persistence=store) as s, s.lock("order"):
        holder = await store.holder("order")
    assert holder is not None
    assert holder.scope == r"script\udcff"
