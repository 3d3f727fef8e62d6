"""The line for one lease, in which runs and jobs are waited for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest

from gogoscope import LockTimeoutError, RunInProgressError, Scope, scope
from gogoscope.stores import MemoryStore
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend


def run_of(s: Scope, wait: float | None) -> Any:
    return s.claim("k", keep=None, wait=wait)


def job_of(s: Scope, wait: float | None) -> Any:
    return s.job("k", wait=wait)


@BOTH
@pytest.mark.parametrize("block_of", [run_of, job_of])
def test_who_asks_only_once_does_not_have_others_miss_the_end_of_what_they_wait_for(
    virtual_clock: VirtualClock, backend: Backend, block_of: Any
) -> None:
    async def hold(s: Scope, seconds: float, wait: float | None = None) -> float:
        async with block_of(s, wait):
            await anyio.sleep(seconds)
        return anyio.current_time()

    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s:
            holder = s.task(hold, s, 1)
            await anyio.sleep(0.1)
            waiting = s.task(hold, s, 0)
            await anyio.sleep(0.4)
            with suppress(LockTimeoutError, RunInProgressError):
                await hold(s, 0, wait=0)
                raise AssertionError
            assert (await waiting).unwrap() - (await holder).unwrap() < 0.5

    virtual_clock.run(program, backend=backend)
