"""A claim that lands after its caller has given up blocks nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from gogoscope import Once, StoreTimeoutError, Tick, interval, scope
from gogoscope.stores import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]

HOUR = 3600
PATIENCE = 30


class SlowNetwork(MemoryStore):
    """The first call of a method stays on its way until ``land``, and nobody answers it.

    ``taken_back`` is set when the answer to the method ``undo`` has come, if one is named.
    """

    def __init__(self, method: str, undo: str | None = None) -> None:
        super().__init__()
        self._late: Callable[[], Any] | None = None
        send = getattr(self, method)

        async def sent(*args: Any, **options: Any) -> Any:
            if self._late is None:
                self._late = lambda: send(*args, **options)
                raise StoreTimeoutError("no answer")
            return await send(*args, **options)

        setattr(self, method, sent)
        self.taken_back = anyio.Event()
        if undo is not None:
            self._tell_of(undo)

    def _tell_of(self, method: str) -> None:
        send = getattr(self, method)

        async def told(*args: Any, **options: Any) -> Any:
            answer = await send(*args, **options)
            self.taken_back.set()
            return answer

        setattr(self, method, told)

    async def land(self) -> bool:
        assert self._late is not None
        reply = await self._late()
        return bool(reply.granted)


async def effect() -> int:
    return 42


async def test_a_run_whose_claim_lands_after_it_was_taken_back_is_begun_by_the_next_caller() -> (
    None
):
    store = SlowNetwork("claim_run")
    once = Once("k", 60, lease=HOUR)
    async with scope(persistence=store) as s:
        with pytest.raises(StoreTimeoutError):
            await s.call(effect, once=once)
        assert not await store.land()
        with anyio.fail_after(PATIENCE):
            assert await s.call(effect, once=once) == 42


async def test_a_load_whose_claim_lands_after_it_was_taken_back_blocks_no_other() -> None:
    store = SlowNetwork("claim_lock")
    async with scope(persistence=store) as s:
        assert await s.cache.get_or_set("k", effect, 0.001, lease=HOUR) == 42
        assert not await store.land()
        await anyio.sleep(1.1)  # it leaves a store alone for so long that did not answer
        with anyio.fail_after(PATIENCE):
            assert await s.cache.get_or_set("k", effect, 60, lease=HOUR) == 42


async def test_a_permit_whose_claim_lands_after_it_was_taken_back_is_free() -> None:
    store = SlowNetwork("claim_permit")
    async with scope(persistence=store) as s:
        with pytest.raises(StoreTimeoutError):
            async with s.semaphore("k", 1, ttl=HOUR):
                pytest.fail("nobody answered")
        assert not await store.land()
        async with s.semaphore("k", 1, ttl=HOUR, wait=0):
            pass


async def test_a_job_whose_claim_lands_after_it_was_taken_back_is_free() -> None:
    store = SlowNetwork("claim_job")
    async with scope(persistence=store) as s:
        with pytest.raises(StoreTimeoutError):
            async with s.job("k", state=0, lease=HOUR):
                pytest.fail("nobody answered")
        assert not await store.land()
        async with s.job("k", state=7, version=3, lease=HOUR, wait=0) as job:
            assert job.state == 7


async def test_a_tick_whose_claim_lands_after_it_was_taken_back_is_begun_all_the_same() -> None:
    store = SlowNetwork("claim_tick", "end_tick")
    ran = anyio.Event()

    async def work(tick: Tick) -> None:
        ran.set()

    async with scope(persistence=store) as s:
        s.schedule("k", interval(HOUR), work, lease=HOUR)
        with anyio.fail_after(PATIENCE):
            while not await store.trigger_schedule("k"):
                await anyio.sleep(0.01)
            await store.taken_back.wait()
            assert not await store.land()
            await ran.wait()
        await s.stop()
