"""The end of a block that has a lease, whatever the store does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from gogoscope import Scope, StoreConnectionError, scope
from gogoscope.events import Event
from gogoscope.jobs.claims import lines as job_lines
from gogoscope.locks.queue import _queues
from gogoscope.permits.line import _lines as permit_lines
from gogoscope.runs.claims import lines as run_lines
from gogoscope.stores import MemoryStore
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend

pytestmark = pytest.mark.anyio


class NeverFrees(MemoryStore):
    """Takes what it is asked for, and fails to free it."""

    async def _fail(self, *args: Any, **options: Any) -> Any:
        raise StoreConnectionError("cut off")

    release_lock = release_permit = release_job = abandon_run = _fail


def blocks(s: Scope, number: int) -> list[Any]:
    return [
        s.lock(f"a{number}"),
        s.semaphore(f"a{number}", 1),
        s.write_lock(f"a{number}"),
        s.job(f"a{number}"),
        s.claim(f"a{number}", keep=60),
    ]


async def test_a_lease_that_cannot_be_freed_is_kept_nowhere_and_its_end_is_told() -> None:
    told: Counter[str] = Counter()

    def count(event: Event) -> None:
        told[type(event).__name__] += 1

    async with scope(persistence=NeverFrees(), on_event=count) as s:
        for number in range(3):
            for block in blocks(s, number):
                with pytest.raises(KeyError):
                    async with block:
                        raise KeyError
        lines = [*run_lines._lines.all(), *job_lines._lines.all(), *permit_lines.all()]
        assert not any([*lines, *_queues.all()])
    assert told["LockAcquired"] == told["LockReleased"] == 3
    assert told["PermitAcquired"] == told["PermitReleased"] == 6
    assert told["JobStarted"] == told["JobEnded"] == 3
    assert told["RunStarted"] == told["RunAbandoned"] == 3


async def test_a_block_that_is_open_is_refused_and_may_be_entered_again_when_it_was_left() -> None:
    async def enter(block: Any) -> None:
        async with block:
            pass

    store = MemoryStore()
    async with scope(persistence=store) as s:
        for block in (*blocks(s, 1), s.semaphore("b", 2), s.read_lock("b"), s.leader("b")):
            with anyio.fail_after(5):
                async with block:
                    refused = await s.task(enter, block)
                    assert isinstance(refused.error, RuntimeError)
                    assert "is open already" in str(refused.error)
                await enter(block)
    for key in ("a1", "b"):
        record = await store.read_permits("semaphore", key)
        assert record is not None
        assert not record.holders


@BOTH
def test_a_run_that_was_found_done_is_begun_by_the_same_block_when_it_is_forgotten(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        found = []
        store = MemoryStore()
        async with scope(persistence=store) as s:
            block = s.claim("order", keep=10)
            for pause in (1, 10, 1):
                async with block as run:
                    found.append(run.done)
                await anyio.sleep(pause)
        assert found == [False, True, False]
        kept = await store.read_run("order")
        assert kept is not None
        assert kept.state == "done"

    virtual_clock.run(program, backend=backend)
