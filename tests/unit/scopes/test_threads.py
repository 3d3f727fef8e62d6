"""Every public name of scopes, tasks and maps in a thread: it works, or is refused without effect.

Refused is refused with what to write instead. Afterwards the scope works, and can be cancelled.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest
from attrs import frozen

from gogoscope import (
    CircuitBreaker,
    Err,
    Ok,
    Scope,
    ScopeClosedError,
    Task,
    Tick,
    interval,
    scope,
)
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


async def double(number: int = 1) -> int:
    return 2 * number


async def tick(each: Tick) -> None:
    assert each.schedule == "tick"


@asynccontextmanager
async def resource() -> AsyncIterator[int]:
    yield 1


@frozen
class Things:
    """What a thread may get hold of."""

    s: Scope
    task: Task[Any]
    shared: Task[Any]
    ended: Task[Any]
    map: Any
    completed: Any
    begun: Any
    resumed: Any
    breaker: CircuitBreaker


Use = Callable[[Things], object]
OF_SCOPES: dict[str, Use] = {
    "acquire_lock": lambda t: t.s.acquire_lock("key", 5),
    "all": lambda t: t.s.all(t.task),
    "any": lambda t: t.s.any([double]),
    "as_completed": lambda t: aiter(t.s.as_completed(double, [1])),
    "cache": lambda t: t.s.cache.get_or_set("key", double, 5),
    "cached": lambda t: t.s.cached(5)(double)(),
    "call": lambda t: t.s.call(double),
    "cancel": lambda t: t.s.cancel("from a thread"),
    "cancel_reason": lambda t: t.s.cancel_reason,
    "child": lambda t: t.s.child(),
    "enter": lambda t: t.s.enter(resource()),
    "every": lambda t: t.s.every(1, double),
    "claim": lambda t: t.s.claim("run", 60),
    "job": lambda t: t.s.job("job"),
    "leader": lambda t: t.s.leader("leading"),
    "lock": lambda t: t.s.lock("key"),
    "map": lambda t: t.s.map(double, [1]),
    "name": lambda t: t.s.name,
    "race": lambda t: t.s.race([double]),
    "read_lock": lambda t: t.s.read_lock("table"),
    "resume": lambda t: t.s.resume("import", double, [1]),
    "schedule": lambda t: t.s.schedule("tick", interval(1), tick),
    "semaphore": lambda t: t.s.semaphore("key", 2),
    "stop": lambda t: t.s.stop(0.1),
    "stop_on_signals": lambda t: t.s.stop_on_signals(),
    "stopping": lambda t: t.s.stopping.set(),
    "task": lambda t: t.s.task(double),
    "thread": lambda t: t.s.thread(print),
    "tree": lambda t: t.s.tree(),
    "write_lock": lambda t: t.s.write_lock("table"),
}
OF_TASKS: dict[str, Use] = {
    "cancel": lambda t: t.task.cancel("from a thread"),
    "done": lambda t: t.task.done,
    "name": lambda t: t.task.name,
    "scope": lambda t: t.task.scope,
    "state": lambda t: t.task.state,
    "wait": lambda t: t.task.wait(),
}
OTHERS: dict[str, Use] = {
    "await task": lambda t: t.task,
    "await a shared task": lambda t: t.shared,
    "cancel a shared task": lambda t: t.shared.cancel(),
    "wait for a shared task": lambda t: t.shared.wait(),
    "await a map": lambda t: t.map,
    "loop over a map": lambda t: aiter(t.map),
    "take from a map": lambda t: anext(t.map),
    "close a map": lambda t: t.map.aclose(),
    "take from a map that has begun": lambda t: anext(t.begun),
    "close a map that has begun": lambda t: t.begun.aclose(),
    "take from a job that has begun": lambda t: anext(t.resumed),
    "close a job that has begun": lambda t: t.resumed.aclose(),
    "loop over results as they come": lambda t: aiter(t.completed),
    "take a result as it comes": lambda t: anext(t.completed),
    "share a call": lambda t: t.s.task(double, dedupe="shared"),
    "enter the scope": lambda t: t.s.__aenter__(),
    "leave the scope": lambda t: t.s.__aexit__(None, None, None),
    "call through a breaker": lambda t: t.breaker.call(double),
    "force a circuit open": lambda t: t.breaker.force_open(),
}
WORK_ANYWHERE = {
    *("cancel_reason", "name", "tree", "repr", "stopping"),
    *("task.done", "task.name", "task.scope", "task.state", "task.cancel an ended one"),
}
USES: dict[str, Use] = {
    **OF_SCOPES,
    **{f"task.{name}": use for name, use in OF_TASKS.items()},
    **OTHERS,
    "task.cancel an ended one": lambda t: t.ended.cancel(),
    "repr": lambda t: repr((t.s, t.task, t.shared, t.map, t.completed)),
}


async def test_every_public_name_is_used() -> None:
    async with scope() as s:
        task = s.task(double)
        for uses, value in ((OF_SCOPES, s), (OF_TASKS, task)):
            assert set(uses) == {name for name in dir(value) if not name.startswith("_")}


async def use(t: Things, name: str) -> object:
    used = USES[name](t)
    if inspect.isawaitable(used):
        return await used
    if isinstance(used, AbstractAsyncContextManager) and used is not t.s:
        async with used:
            await anyio.sleep(0)
    return used


@pytest.mark.parametrize("own_loop", [False, True], ids=["plain", "own event loop"])
@pytest.mark.parametrize("name", USES)
async def test_in_a_thread_it_works_or_is_refused_without_effect(
    name: str, own_loop: bool, anyio_backend_name: str
) -> None:
    raised: list[BaseException] = []
    things: Any = None

    def elsewhere() -> None:
        try:
            if own_loop:
                anyio.run(use, things, name, backend=anyio_backend_name)
            else:
                used = USES[name](things)
                if inspect.iscoroutine(used):
                    used.close()
        except BaseException as error:
            raised.append(error)

    async def body() -> None:
        nonlocal things
        task = s.task(anyio.sleep_forever)
        shared = s.task(anyio.sleep_forever, dedupe="shared")
        s.task(anyio.sleep_forever, dedupe="shared")
        ended = s.task(double)
        assert await ended == Ok(None, 2)
        breaker = CircuitBreaker("of a thread", refresh_interval=60)
        assert (await s.task(double, circuit_breaker=breaker)).value == 2
        things = Things(
            *(s, task, shared, ended),
            *(s.map(double, [1]), s.as_completed(double, [1])),
            *(aiter(s.map(double, [1, 2, 3], limit=1)), aiter(s.resume("job", double, [1, 2]))),
            breaker,
        )
        assert await anext(things.begun) == Ok(None, 2)
        assert await anext(things.resumed) == (1, Ok(None, 2))
        await anyio.sleep(0)
        await anyio.to_thread.run_sync(elsewhere)
        assert s.cancel_reason is None
        assert name == "stopping" or not s.stopping.is_set()  # nobody waits for it
        for each in (task, shared):
            assert each.state == "running"
        assert [result.value async for result in things.begun] == [4, 6]
        assert [item async for item, _ in things.resumed] == [2]
        assert await s.task(double, 2) == Ok(None, 4)
        assert await s.map(double, [1, 2]) == [Ok(None, 2), Ok(None, 4)]
        assert await s.all(s.task(double, 3)) == (Ok(None, 6),)
        task.cancel("now")
        assert isinstance(await task, Err)
        s.cancel("done")
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with scope(concurrency=9, persistence=MemoryStore()) as s:
            await body()
    assert s.cancel_reason == "done"
    for error in raised:
        refused = isinstance(error, RuntimeError) and "anyio.from_thread" in str(error)
        assert refused or isinstance(error, ScopeClosedError), repr(error)
    if name in WORK_ANYWHERE:
        assert not raised
