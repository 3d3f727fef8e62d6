"""A claim that lands after its caller has given up blocks nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from gogoscope import Once, StoreTimeoutError, scope
from gogoscope.stores import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]


class SlowNetwork(MemoryStore):
    """The first claim of its kind stays on its way until ``land``, and nobody answers it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._late: Callable[[], Any] | None = None
        self._hold = kind

    async def claim_run(self, *args: Any, **options: Any) -> Any:
        send = super().claim_run
        return await self._sent("run", lambda: send(*args, **options))

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        send = super().claim_lock
        return await self._sent("lock", lambda: send(*args, **options))

    async def _sent(self, kind: str, send: Callable[[], Any]) -> Any:
        if kind == self._hold and self._late is None:
            self._late = send
            raise StoreTimeoutError("no answer")
        return await send()

    async def land(self) -> bool:
        assert self._late is not None
        reply = await self._late()
        return bool(reply.granted)


async def effect() -> int:
    return 42


async def test_a_run_whose_claim_lands_after_it_was_taken_back_is_begun_by_the_next_caller() -> (
    None
):
    store = SlowNetwork("run")
    once = Once("k", 60, lease=3600)
    async with scope(persistence=store) as s:
        with pytest.raises(StoreTimeoutError):
            await s.call(effect, once=once)
        assert not await store.land()
        with anyio.fail_after(30):
            assert await s.call(effect, once=once) == 42


async def test_a_load_whose_claim_lands_after_it_was_taken_back_blocks_no_other() -> None:
    store = SlowNetwork("lock")
    async with scope(persistence=store) as s:
        assert await s.cache.get_or_set("k", effect, 0.001, lease=3600) == 42
        assert not await store.land()
        await anyio.sleep(1.1)  # it leaves a store alone for so long that did not answer
        with anyio.fail_after(30):
            assert await s.cache.get_or_set("k", effect, 60, lease=3600) == 42
