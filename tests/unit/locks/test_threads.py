"""Locks belong to one event loop, and their blocks to one task: elsewhere they are refused.

What is refused has no effect: what waits goes on waiting, and what is held stays held.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import LockHandle, Scope, scope
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

Use = Callable[[Scope, LockHandle], Awaitable[object]]


async def enter(block: Any) -> None:
    async with block:
        pytest.fail("it was entered")


USES: dict[str, Use] = {
    "acquire_lock": lambda s, handle: s.acquire_lock("other", 5),
    "acquire_lock, waiting": lambda s, handle: s.acquire_lock("held", 5, wait=5),
    "lock": lambda s, handle: enter(s.lock("other")),
    "leader": lambda s, handle: enter(s.leader("other")),
    "extend": lambda s, handle: handle.extend(60),
    "is_valid": lambda s, handle: handle.is_valid(),
    "release": lambda s, handle: handle.release(),
}


@pytest.fixture
def backend(anyio_backend_name: str) -> str:
    return anyio_backend_name


@pytest.mark.parametrize("name", USES)
async def test_from_another_event_loop_it_is_refused_without_effect(
    name: str, backend: str
) -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        handle = await s.acquire_lock("held", 5)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "held", 5, None)
        await anyio.sleep(0.01)

        def elsewhere() -> None:
            async def program() -> None:
                with pytest.raises(RuntimeError, match=r"anyio\.from_thread"):
                    await USES[name](s, handle)

            anyio.run(program, backend=backend)

        (await s.thread(elsewhere)).unwrap()
        assert await store.holder("other") is None
        assert await handle.is_valid()
        assert await handle.release() is True
        with anyio.fail_after(2):
            assert (await waiting).unwrap() is not None


async def test_any_thread_may_ask_whether_a_lock_is_held(backend: str) -> None:
    async with scope(persistence=MemoryStore()) as s:
        handle = await s.acquire_lock("held", 5)
        assert handle is not None
        assert await s.thread(handle.ensure) == (None, None)
        assert await s.thread(lambda: handle.lost) == (None, None)
        assert await handle.release()
        assert (await s.thread(handle.ensure)).error is not None


async def test_a_block_that_is_left_in_another_task_says_what_to_do_and_tears_nothing() -> None:
    store = MemoryStore()
    async with scope(persistence=store) as s:
        block = s.lock("key", ttl=5)

        async def hold() -> None:
            async with block:
                await anyio.sleep_forever()

        task = s.task(hold)
        await anyio.sleep(0.01)
        with pytest.raises(RuntimeError, match="in another task than it was entered in"):
            await block.__aexit__(None, None, None)
        assert await store.holder("key") is not None
        assert (await task).error is None  # it was cancelled, and left where it was entered
        assert await store.holder("key") is None


class Interrupting(MemoryStore):
    """Gets a Ctrl-C in the middle of a request."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    async def _request(self, name: str, *args: Any, **options: Any) -> Any:
        if self.at == name:
            self.at = ""
            signal.raise_signal(signal.SIGINT)
        await anyio.sleep(0.01)
        answer = await getattr(super(), name)(*args, **options)
        await anyio.sleep(0.01)
        return answer

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("claim_lock", *args, **options)

    async def release_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("release_lock", *args, **options)

    async def renew_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("renew_lock", *args, **options)


def ctrl_c(backend: str, store: Interrupting, ended: list[str]) -> None:
    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.02)
            assert await MemoryStore.holder(store, "key") is not None
            ended.append("task")

    async def main() -> None:
        async with scope(persistence=store) as s:
            async with s.lock("key", ttl=3) as locked:
                locked.task(work)
                await anyio.sleep(0.02 if store.at == "release_lock" else 5)
                locked.cancel()
            ended.append("the program went on")
            await anyio.sleep(1)

    with pytest.raises(KeyboardInterrupt):
        anyio.run(main, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("at", ["claim_lock", "renew_lock", "release_lock"])
def test_ctrl_c_in_a_request_for_a_lock_ends_the_program_and_frees_the_lock(
    backend: str, at: str
) -> None:
    store = Interrupting(at)
    ended: list[str] = []
    ctrl_c(backend, store, ended)
    assert anyio.run(store.holder, "key") is None
    assert ended == ([] if at == "claim_lock" else ["task"])
