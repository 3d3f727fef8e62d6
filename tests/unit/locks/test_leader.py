"""Leading: one term at a time, and another after a lost one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import LockError, PersistenceError, StoreConnectionError, scope
from gogoscope.stores.memory import MemoryStore

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


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


async def test_a_lost_term_ends_its_block_and_the_loop_campaigns_again(store: FaultyStore) -> None:
    tokens: list[int] = []
    async with scope(persistence=store) as s:
        while len(tokens) < 3:
            campaign = s.leader("job", ttl=0.15)
            async with campaign as term:
                tokens.append(term.fencing_token)
                task = term.task(anyio.sleep_forever)
                await store.force_release("job")
                with anyio.fail_after(5):
                    await anyio.sleep_forever()
            assert campaign.lost == "it was forcibly released"
            assert (await task).error is not None
    assert tokens == sorted(set(tokens))
    assert await store.holder("job") is None


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


async def test_a_campaign_can_be_cancelled(store: FaultyStore) -> None:
    assert await store.acquire("job", 60) is not None
    with anyio.move_on_after(0.05) as outside:
        async with scope(persistence=store) as s, s.leader("job"):
            pytest.fail("it does not lead")
    assert outside.cancelled_caught
