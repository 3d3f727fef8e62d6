"""One task at a time is inside, and whoever is cancelled while waiting holds up nobody."""

from __future__ import annotations

import anyio
import pytest

from gogoscope._core.one_at_a_time import OneAtATime

pytestmark = pytest.mark.anyio


async def test_one_task_is_inside_at_a_time() -> None:
    guard = OneAtATime()
    inside = most = done = 0

    async def enter() -> None:
        nonlocal inside, most, done
        async with guard:
            inside += 1
            most = max(most, inside)
            await anyio.sleep(0)
            inside -= 1
            done += 1

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(enter)
    assert (most, done) == (1, 50)


async def test_a_cancelled_waiter_holds_up_nobody_and_an_error_leaves() -> None:
    guard = OneAtATime()
    with pytest.raises(KeyError):
        async with guard:
            with anyio.move_on_after(0.01) as limit:
                async with guard:
                    pytest.fail("one is inside")
            assert limit.cancelled_caught
            raise KeyError
    with anyio.fail_after(10):
        async with guard:
            pass
