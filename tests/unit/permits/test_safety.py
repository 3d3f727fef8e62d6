"""Permits when their block is cancelled at any await, and in several event loops at once."""

from __future__ import annotations

import threading

import anyio
import pytest

from gogoscope import Scope, scope
from gogoscope.permits.line import _lines
from gogoscope.stores import MemoryStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere


@pytest.mark.anyio
async def test_a_block_that_is_cancelled_at_any_await_leaves_no_permit() -> None:
    store = MemoryStore()

    async def use() -> None:
        async with scope(persistence=store) as s, s.semaphore("k", 1), s.write_lock("k"):
            await anyio.sleep(0)

    async def attempt_at(n: int) -> CancelledAt:
        attempt = CancelledAt(use(), n)
        await attempt.run()
        assert await store.semaphores() == {}
        assert await store.read_write_locks() == {}
        assert not sum(map(len, _lines.all()))
        return attempt

    await cancel_everywhere(attempt_at)


def test_event_loops_of_one_process_share_the_permits_of_its_store() -> None:
    store = MemoryStore()
    counting = threading.Lock()
    holders = most = done = 0

    async def work(s: Scope) -> None:
        nonlocal holders, most, done
        for _ in range(10):
            async with s.semaphore("k", 2):
                with counting:
                    holders += 1
                    most = max(most, holders)
                await anyio.sleep(0.001)
                with counting:
                    holders -= 1
                    done += 1

    async def program() -> None:
        async with scope(persistence=store) as s:
            for _ in range(3):
                s.task(work, s)

    threads = [threading.Thread(target=anyio.run, args=(program,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most <= 2, done) == (True, 90)
