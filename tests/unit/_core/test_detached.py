"""Work beside all tasks ends with whoever began it, whatever asyncio cancels."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from gogoscope._core.detached import Detached
from tests.conftest import EVENT_LOOPS

ON_ASYNCIO = [loop for loop in EVENT_LOOPS if loop.id != "trio"]
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)]


class Work:
    """Runs until it is cancelled, and counts how often it began."""

    def __init__(self) -> None:
        self.began = 0
        self.running = anyio.Event()

    async def __call__(self) -> None:
        self.began += 1
        self.running.set()
        await anyio.sleep_forever()


def start_and_cancel(detached: Detached, work: Work) -> None:
    before = asyncio.all_tasks()
    assert detached.start(work, False)
    (task,) = asyncio.all_tasks() - before
    task.cancel()


async def test_what_asyncio_cancels_before_its_first_step_begins_again() -> None:
    detached, work = Detached(), Work()
    with anyio.fail_after(20):
        start_and_cancel(detached, work)
        await work.running.wait()
        await detached.end(0)
    assert work.began == 1


async def test_the_end_waits_for_nothing_that_never_begins() -> None:
    detached, work = Detached(), Work()
    with anyio.fail_after(20):
        start_and_cancel(detached, work)
        await detached.end(0)
    assert work.began <= 1
