"""Leading: one term at a time, and another after a lost one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from gogoscope import (
    CircuitBreaker,
    LockError,
    PersistenceError,
    Scope,
    StoreConnectionError,
    TaskCancelled,
    scope,
)
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend

pytestmark = pytest.mark.anyio


class FaultyStore(MemoryStore):
    """Its locks can only be had while ``failure`` is ``None``."""

    failure: Exception | None = None
    claims = 0

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        self.claims += 1
        if self.failure is not None:
            raise self.failure
        return await super().claim_lock(*args, **options)


async def lead_for_ever(s: Scope) -> None:
    while True:
        async with s.leader("job"):
            await anyio.sleep_forever()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@BOTH
def test_a_lost_term_ends_its_block_and_the_loop_campaigns_again(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    async def program() -> None:
        tokens: list[int] = []
        async with scope(persistence=store) as s:
            while len(tokens) < 3:
                campaign = s.leader("job", ttl=30)
                async with campaign as term:
                    tokens.append(term.fencing_token)
                    task = term.task(anyio.sleep_forever)
                    await store.force_release("job")
                    await anyio.sleep_forever()
                assert campaign.lost == "it was forcibly released"
                assert (await task).error is not None
        assert tokens == sorted(set(tokens))
        assert await store.holder("job") is None

    virtual_clock.run(program, backend=backend)


async def test_only_one_leads_and_leaving_resigns(store: FaultyStore) -> None:
    leading: list[int] = []
    order = []

    async def campaign(name: int) -> None:
        async with scope(persistence=store) as s, s.leader("job") as term:
            term.ensure()
            leading.append(name)
            assert leading == [name]
            await anyio.sleep(0.01)
            leading.remove(name)
            order.append(name)

    async with anyio.create_task_group() as group:
        for name in range(5):
            group.start_soon(campaign, name)
    assert sorted(order) == [0, 1, 2, 3, 4]


async def test_a_block_that_ends_by_itself_has_lost_nothing(store: FaultyStore) -> None:
    async with scope(persistence=store) as s:
        campaign = s.leader("job")
        async with campaign:
            pass
        assert campaign.lost is None


@BOTH
def test_a_term_knows_nothing_of_an_earlier_one_that_the_same_campaign_lost(
    virtual_clock: VirtualClock, backend: Backend, store: FaultyStore
) -> None:
    async def lead(campaign: Any) -> None:
        async with campaign:
            await anyio.sleep_forever()

    async def program() -> None:
        async with scope(persistence=store) as s:
            campaign = s.leader("job", ttl=30)
            async with campaign:
                await store.force_release("job")
                await anyio.sleep_forever()
            async with campaign:
                pass
            assert campaign.lost is None
            leading = s.task(lead, campaign)
            await anyio.sleep(1)
            began = anyio.current_time()
            await s.stop(grace=10)
            assert anyio.current_time() - began < 1
            assert (await leading).error is None

    virtual_clock.run(program, backend=backend)


async def test_losing_the_term_is_no_error_of_the_body_or_of_its_tasks(store: FaultyStore) -> None:
    async def write(term: Any) -> None:
        await store.force_release("job")
        await term.is_valid()
        term.ensure()

    async with scope(persistence=store) as s:
        async with s.leader("job") as term:
            await write(term)
        async with s.leader("job") as term:
            term.task(write, term)
        assert await store.holder("job") is None


async def test_other_errors_leave_the_block(store: FaultyStore) -> None:
    async def fail() -> None:
        raise KeyError("job")

    async with scope(persistence=store) as s:
        with pytest.raises(ZeroDivisionError):
            async with s.leader("job"):
                raise ZeroDivisionError
        with pytest.raises(ExceptionGroup) as caught:
            async with s.leader("job") as term:
                term.task(fail)
        assert caught.group_contains(KeyError)
        with pytest.raises(LockError, match="holds the lock 'job' already"):
            async with s.leader("job"), s.leader("job"):
                pass


async def test_a_campaign_goes_on_through_an_outage_of_the_store(store: FaultyStore) -> None:
    store.failure = StoreConnectionError("cut off")
    led = anyio.Event()

    async def lead() -> None:
        async with scope(persistence=store) as s, s.leader("job"):
            led.set()

    async with anyio.create_task_group() as group:
        group.start_soon(lead)
        while store.claims < 2:
            await anyio.sleep(0.01)
        assert not led.is_set()
        store.failure = None
        with anyio.fail_after(5):
            await led.wait()


async def test_a_campaign_ends_when_the_store_fails_for_good(store: FaultyStore) -> None:
    store.failure = PersistenceError("no such table")
    async with scope(persistence=store) as s:
        with pytest.raises(PersistenceError, match="no such table"):
            async with s.leader("job"):
                pass


async def test_a_campaign_ends_when_its_scope_is_stopping_and_that_is_no_error(
    store: FaultyStore,
) -> None:
    assert await store.acquire("job", 60) is not None

    async def lead(s: Scope) -> None:
        async with s.leader("job"):
            pytest.fail("it does not lead")

    with anyio.fail_after(5):
        async with scope(persistence=store, fail_fast=True) as s, s.child() as child:
            tasks = [where.task(lead, inner) for where in (s, child) for inner in (s, child)]
            unwrapping = s.task(lambda: s.race([lambda: lead(s)]))
            await anyio.wait_all_tasks_blocked()
            s.stopping.set()
            for task in (*tasks, s.task(lead, s)):
                err, _ = await task
                assert isinstance(err, TaskCancelled)
                assert err.reason == str(err) == "the scope is stopping"
                assert task.state == "cancelled"
            (await unwrapping).unwrap().unwrap()
    assert s.cancel_reason is None


async def test_a_campaign_of_a_stopping_scope_is_not_retried_and_no_failure(
    store: FaultyStore,
) -> None:
    assert await store.acquire("job", 60) is not None
    calls: list[int] = []
    guard = CircuitBreaker("campaigns", failure_threshold=1)

    async def lead() -> None:
        calls.append(1)
        async with s.leader("job"):
            pytest.fail("it does not lead")

    async def lead_item(item: int) -> None:
        await lead()

    async def map_items() -> None:
        for result in await s.map(lead_item, [1, 2]):
            result.unwrap()

    async def first_of_two() -> None:
        (await s.any([lead, lead])).unwrap()

    async def in_a_task_group() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lead)
            group.start_soon(lead)

    with anyio.fail_after(5):
        async with scope(persistence=store, fail_fast=True) as s:
            s.task(lead, retry=3, circuit_breaker=guard)
            s.task(map_items)
            s.task(first_of_two)
            s.task(in_a_task_group)
            s.task(lead, dedupe="lead")
            s.task(lead, dedupe="lead")
            s.every(1, lead)
            await anyio.wait_all_tasks_blocked()
            started = len(calls)
            s.stopping.set()
            await s.stop(grace=60)
            assert (await guard.state()).state == "closed"
    assert len(calls) == started == 9


async def test_a_body_that_campaigns_ends_with_its_scope_and_lets_its_tasks_end(
    store: FaultyStore,
) -> None:
    assert await store.acquire("job", 60) is not None
    answered: list[bool] = []

    async def answer() -> None:
        await s.stopping.wait()
        async with s.lock("another"):
            answered.append(True)

    async def stop() -> None:
        s.stopping.set()

    with anyio.fail_after(5):
        async with scope(persistence=store) as s:
            s.task(answer)
            s.task(stop)
            async with s.leader("job"):
                pytest.fail("it does not lead")
    assert answered == [True]


async def test_an_outage_of_the_store_does_not_keep_a_stopping_scope(store: FaultyStore) -> None:
    store.failure = StoreConnectionError("cut off")
    with anyio.fail_after(5):
        async with scope(persistence=store) as s:
            leading = s.task(lead_for_ever, s)
            await anyio.wait_all_tasks_blocked()
            s.stopping.set()
            assert isinstance((await leading).error, TaskCancelled)


async def test_a_lock_that_is_won_as_the_scope_stops_is_released(store: FaultyStore) -> None:
    class Stopping(FaultyStore):
        async def claim_lock(self, *args: Any, **options: Any) -> Any:
            s.stopping.set()
            return await super().claim_lock(*args, **options)

    stopping_store = Stopping()
    async with scope(persistence=stopping_store) as s:
        with pytest.raises(TaskCancelled, match="the scope is stopping"):
            async with s.leader("job"):
                pytest.fail("it does not lead")
        assert await stopping_store.holder("job") is None


async def test_a_leader_resigns_when_its_scope_is_stopping(store: FaultyStore) -> None:
    ended: list[str] = []
    async with scope(persistence=store) as s:
        campaign = s.leader("job")
        with anyio.fail_after(5):
            async with campaign as term:
                running = term.task(anyio.sleep_forever)
                term.every(3600, partial(anyio.sleep, 0))
                s.every(3600, anyio.sleep_forever)  # another's tick does not matter
                await anyio.wait_all_tasks_blocked()
                s.stopping.set()
                await anyio.sleep_forever()
            ended.append("block")
        assert campaign.lost == "the scope is stopping"
        assert (await running).error is not None
        assert await store.holder("job") is None
        s.cancel()
    assert ended == ["block"]


async def test_a_leader_that_resigns_lets_its_tick_end(store: FaultyStore) -> None:
    ticks: list[str] = []
    resume = anyio.Event()

    async def tick() -> None:
        ticks.append("began")
        await resume.wait()
        await term.is_valid()
        term.ensure()
        ticks.append("ended")

    async def stop() -> None:
        while not ticks:
            await anyio.sleep(0)
        s.stopping.set()
        await anyio.wait_all_tasks_blocked()
        assert await store.holder("job") is not None
        resume.set()

    with anyio.fail_after(5):
        async with scope(persistence=store) as s:
            s.task(stop)
            async with s.leader("job") as term, term.child() as child:
                child.every(3600, tick)
                await anyio.sleep_forever()
    assert ticks == ["began", "ended"]
    assert await store.holder("job") is None


async def stop_in_the_body(s: Scope) -> None:
    async with s.leader("job"):
        await s.stop(grace=0.05)
        await anyio.sleep_forever()


async def stop_in_a_task(s: Scope) -> None:
    async with s.leader("job") as term:
        term.task(s.stop, 0.05)


async def stop_in_a_tick(s: Scope) -> None:
    async with s.leader("job") as term:
        term.every(3600, partial(s.stop, 0.05))


@pytest.mark.parametrize("stop", [stop_in_the_body, stop_in_a_task, stop_in_a_tick])
async def test_a_leader_may_stop_the_scope(
    store: FaultyStore, stop: Callable[[Scope], Awaitable[None]]
) -> None:
    with anyio.fail_after(5):
        async with scope(persistence=store) as s:
            s.task(anyio.sleep_forever)
            s.task(stop, s)
            await anyio.sleep_forever()
    assert s.cancel_reason == "the scope was stopped"
    assert await store.holder("job") is None


async def test_a_leader_in_the_body_may_stop_the_scope(store: FaultyStore) -> None:
    with anyio.fail_after(5):
        async with scope(persistence=store) as s:
            s.task(anyio.sleep_forever)
            async with s.leader("job"):
                await s.stop(grace=0.05)
            assert await store.holder("job") is None
    assert s.cancel_reason == "the scope was stopped"


async def test_stopping_a_term_alone_gives_its_tasks_their_grace(store: FaultyStore) -> None:
    answered: list[bool] = []

    async def answer() -> None:
        await term.stopping.wait()
        await anyio.sleep(0.01)
        answered.append(True)

    with anyio.fail_after(5):
        async with scope(persistence=store) as s, s.leader("job") as term:
            term.task(answer)
            await term.stop(grace=60)
    assert answered == [True]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_one_bad_tick_does_not_end_the_campaign_if_on_error_takes_it(
    store: FaultyStore, virtual_clock: Any
) -> None:
    errors: list[Exception] = []
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            raise ValueError("one bad tick")

    async with scope(persistence=store) as s, s.leader("job") as term:
        term.every(1, tick, on_error=errors.append)
        await anyio.sleep(5.5)
        s.stopping.set()
        await anyio.sleep_forever()
    assert (ticks, [str(error) for error in errors]) == (6, ["one bad tick"])


async def test_a_campaign_can_be_cancelled(store: FaultyStore) -> None:
    assert await store.acquire("job", 60) is not None
    with anyio.move_on_after(0.05) as outside:
        async with scope(persistence=store) as s, s.leader("job"):
            pytest.fail("it does not lead")
    assert outside.cancelled_caught
