"""The end of a block that has a lease, whatever the store does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from gogoscope import Scope, StoreConnectionError, scope
from gogoscope.events import Event
from gogoscope.jobs.claims import lines as job_lines
from gogoscope.locks.queue import _queues
from gogoscope.permits.line import _lines as permit_lines
from gogoscope.runs.claims import lines as run_lines
from gogoscope.stores import MemoryStore

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
