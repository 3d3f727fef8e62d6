"""A Ctrl-C at any step of a wait leaves nothing behind that others would wait for."""

from __future__ import annotations

import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest
import trio

import gogoscope
from gogoscope import Cache, CircuitBreaker, LockHandle, scope
from gogoscope.stores.memory import MemoryStore

PACKAGE = str(Path(gogoscope.__file__).parent)
pytestmark = pytest.mark.slow

Program = Callable[[], Awaitable[None]]


class CtrlC:
    """Sends a Ctrl-C at one line of some files of the package."""

    def __init__(self, at: int, files: tuple[str, ...]) -> None:
        self._left = at
        self._files = tuple(f"{PACKAGE}/{file}" for file in files)
        self.sent = False

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and not self.sent:
            self._left -= 1
            if self._left < 0:
                self.sent = True
                signal.raise_signal(signal.SIGINT)
        return self.trace if frame.f_code.co_filename in self._files else None


def interrupt_everywhere(program: Program, check: Program, files: tuple[str, ...]) -> int:
    """Run a program once for each line of the files, interrupted there; return how many.

    :param check: is run after it each time, in the same run of trio
    """
    number = 0
    while True:
        ctrl_c = CtrlC(number, files)

        async def main(ctrl_c: CtrlC = ctrl_c) -> None:
            before = sys.gettrace()
            sys.settrace(ctrl_c.trace)
            try:
                await program()
                await anyio.sleep(0)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(before)
            with anyio.fail_after(2):
                await check()

        try:
            trio.run(main)
        except KeyboardInterrupt:
            assert ctrl_c.sent
        if not ctrl_c.sent:
            return number
        number += 1


def test_a_load_in_the_users_own_task_is_never_left_without_an_end() -> None:
    store = MemoryStore()
    cache = Cache(store)

    async def load() -> str:
        await anyio.sleep(0)
        return "value"

    async def program() -> None:
        await cache.delete("k")
        await cache.get_or_set("k", load, 60)

    async def check() -> None:
        await cache.delete("k")
        assert await cache.get_or_set("k", load, 60) == "value"
        assert await store.holder("k") is None

    files = ("cache/single_flight.py", "cache/loading.py")
    assert interrupt_everywhere(program, check, files) > 40


def test_a_wait_for_a_lock_is_never_left_in_the_line() -> None:
    store = MemoryStore()

    async def hold_a_moment(handle: LockHandle | None) -> None:
        await anyio.sleep(0)
        assert handle is not None
        await handle.release()

    async def program() -> None:
        async with scope(persistence=store) as s:
            s.task(hold_a_moment, await s.acquire_lock("k", 30))
            async with s.lock("k"):
                pass

    async def check() -> None:
        async with scope(persistence=store) as s, s.lock("k", wait=1):
            pass
        assert await store.holder("k") is None

    files = ("locks/acquire.py", "locks/queue.py", "locks/polling.py", "locks/line.py")
    assert interrupt_everywhere(program, check, files) > 40


@pytest.mark.parametrize("fails", [False, True])
def test_a_probe_of_code_outside_of_scopes_is_never_left_without_a_verdict(fails: bool) -> None:
    breaker = CircuitBreaker("interrupted", failure_threshold=1, reset_timeout=0.001)

    async def fine() -> None:
        await anyio.sleep(0)
        if fails:
            raise OSError

    async def broken() -> None:
        raise OSError

    async def program() -> None:
        async with scope():
            pass  # as the program's other parts do
        with suppress(OSError):
            await breaker.call(broken)
        await anyio.sleep(0.002)
        with suppress(OSError):
            await breaker.call(fine)

    async def check() -> None:
        await anyio.sleep(0.01)
        with suppress(OSError):
            await breaker.call(fine)
        await breaker.reset()

    files = ("circuit_breakers/breaker.py",)
    assert interrupt_everywhere(program, check, files) > 20
