"""The line for one lease, in which runs and jobs are waited for."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import anyio
import pytest

from gogoscope import LockTimeoutError, RunInProgressError, Scope, StoreTimeoutError, scope
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


class SilentLater(MemoryStore):
    """Answers so many claims, and no more."""

    def __init__(self, answered: int) -> None:
        super().__init__()
        self.answered = answered

    async def claim_job(self, *args: Any, **options: Any) -> Any:
        return await self._answer(super().claim_job, *args, **options)

    async def claim_run(self, *args: Any, **options: Any) -> Any:
        return await self._answer(super().claim_run, *args, **options)

    async def _answer(self, claim: Any, *args: Any, **options: Any) -> Any:
        self.answered -= 1
        if self.answered < 0:
            await anyio.sleep_forever()
        return await claim(*args, **options)


@BOTH
@pytest.mark.parametrize("block_of", [run_of, job_of])
@pytest.mark.parametrize("answered", [0, 1])
def test_a_store_that_falls_silent_while_one_waits_has_told_before_that_somebody_has_it(
    virtual_clock: VirtualClock, backend: Backend, block_of: Any, answered: int
) -> None:
    async def program() -> None:
        store, silent = MemoryStore(), SilentLater(answered)
        silent._records = store._records
        expected = (LockTimeoutError, RunInProgressError) if answered else StoreTimeoutError
        async with scope(persistence=store) as s, scope(persistence=silent) as t, block_of(s, None):
            began = anyio.current_time()
            with pytest.raises(expected):
                async with block_of(t, 2):
                    raise AssertionError
            assert anyio.current_time() - began == pytest.approx(2)

    virtual_clock.run(program, backend=backend)
