"""Programs that mix scopes with what else there is, inside of tasks and around them.

What comes of them does not depend on whether tasks run inside their awaiters.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from gogoscope import Err, Ok, Retry, Scope, scope
from tests.unit.scopes.test_cancellation_sweep import ON_ASYNCIO

pytestmark = [pytest.mark.anyio, ON_ASYNCIO]

var = contextvars.ContextVar("var", default=0)
Program = Callable[[Scope], Awaitable[Any]]
PROGRAMS: list[Any] = []


def returns(*expected: Any) -> Callable[[Program], Program]:
    """Note what a program returns."""

    def note(program: Program) -> Program:
        PROGRAMS.append(pytest.param(program, expected[0], id=program.__name__))
        return program

    return note


def show(result: Any) -> str:
    if isinstance(result, Ok | Err):
        error = result.error
        return f"Ok {result.value!r}" if error is None else f"Err {type(error).__name__}"
    return repr(result)


def here() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def val(value: int = 1) -> int:
    await asyncio.sleep(0)
    return value


async def boom() -> None:
    await asyncio.sleep(0)
    raise ValueError("x")


@returns(["Err TaskCancelled", "Ok 2"])
async def old_timeout_then_future(s: Scope) -> Any:

    async def request() -> Any:
        t = here()
        asyncio.get_running_loop().call_later(0.005, t.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1)
        f = asyncio.get_running_loop().create_future()
        f.cancel()
        await f

    t = s.task(request)
    u = s.task(val, 2)
    return [show(await t), show(await u)]


@returns(["Ok 'timed out'"])
async def asyncio_timeout_inside(s: Scope) -> Any:

    async def f() -> Any:
        try:
            async with asyncio.timeout(0.01):
                await s.task(asyncio.sleep, 5)
        except TimeoutError:
            return "timed out"

    return [show(await s.task(f))]


@returns(["timeout", 0, "Ok 1"])
async def asyncio_timeout_around(s: Scope) -> Any:
    try:
        async with asyncio.timeout(0.01):
            await s.task(asyncio.sleep, 5)
    except TimeoutError:
        return ["timeout", here().cancelling(), show(await s.task(val))]


@returns(["timeout", "cancelled", "Ok 1"])
async def wait_for_task(s: Scope) -> Any:
    t = s.task(asyncio.sleep, 5)

    async def aw() -> Any:
        return await t

    try:
        await asyncio.wait_for(aw(), 0.01)
    except TimeoutError:
        await t.wait()
        return ["timeout", t.state, show(await s.task(val))]


@returns(["Ok 3"])
async def wait_for_inside(s: Scope) -> Any:

    async def f() -> Any:
        return await asyncio.wait_for(val(3), 1)

    return [show(await s.task(f))]


@returns(["Err ValueError", "Err ValueError"])
async def gather_tasks(s: Scope) -> Any:

    async def aw() -> Any:
        return show(await s.task(boom))

    return await asyncio.gather(aw(), aw())


@returns(["t", "Ok 7"])
async def asyncio_shield(s: Scope) -> Any:

    async def aw() -> Any:
        return show(await s.task(asyncio.sleep, 0.02, 7))

    inner = asyncio.ensure_future(aw())
    try:
        await asyncio.wait_for(asyncio.shield(inner), 0.005)
    except TimeoutError:
        return ["t", await inner]


@returns(["Err ExceptionGroup"])
async def asyncio_tg_inside(s: Scope) -> Any:

    async def f() -> Any:
        async with asyncio.TaskGroup() as g:
            g.create_task(asyncio.sleep(1))
            g.create_task(boom())

    return [show(await s.task(f))]


@returns([0, "Ok 1"])
async def asyncio_tg_body_fails_around(s: Scope) -> Any:
    try:
        async with asyncio.TaskGroup() as g:
            g.create_task(boom())
            await s.task(asyncio.sleep, 5)
    except* ValueError:
        pass
    return [here().cancelling(), show(await s.task(val))]


@returns(["Ok 5", 1])
async def contextvars_do_not_leak(s: Scope) -> Any:

    async def f() -> Any:
        var.set(5)
        await asyncio.sleep(0)
        return var.get()

    var.set(1)
    r = await s.task(f)
    return [show(r), var.get()]


@returns(["Ok 'refused'"])
async def reset_token_of_awaiter(s: Scope) -> Any:
    tok = var.set(9)

    async def f() -> Any:
        try:
            var.reset(tok)
        except ValueError:
            return "refused"

    return [show(await s.task(f))]


@returns(["Err TaskCancelled", "cancelled"])
async def cancel_from_callback(s: Scope) -> Any:
    t = s.task(asyncio.sleep, 5)
    asyncio.get_running_loop().call_later(0.005, t.cancel, "cb")
    return [show(await t), t.state]


@returns(["in", "Ok 1"])
async def scope_cancel_from_inside_task(s: Scope) -> Any:
    async with s.child() as c:

        async def f() -> Any:
            c.cancel("in")
            await asyncio.sleep(1)

        try:
            await c.task(f)
        finally:
            pass
    return [c.cancel_reason, show(await s.task(val))]


@returns(["Ok ('Err ValueError', 'Ok 1')"])
async def child_scope_in_inline_task(s: Scope) -> Any:

    async def f() -> Any:
        async with scope() as c:
            return (show(await c.task(boom)), show(await c.task(val)))

    return [show(await s.task(f))]


@returns(["Err ValueError", "Ok 1"])
async def parent_task_in_child_body(s: Scope) -> Any:
    async with scope() as c:
        return [show(await s.task(boom)), show(await c.task(val))]


@returns(["Ok 1"])
async def shield_in_awaiter(s: Scope) -> Any:
    with anyio.CancelScope(shield=True):
        return [show(await s.task(val))]


@returns([True, "Ok 1"])
async def move_on_around(s: Scope) -> Any:
    with anyio.move_on_after(0.005) as m:
        await s.task(asyncio.sleep, 5)
    return [m.cancelled_caught, show(await s.task(val))]


@returns(["Err TaskCancelled"])
async def task_unwraps_cancelled(s: Scope) -> Any:
    t = s.task(asyncio.sleep, 5)
    await asyncio.sleep(0)
    t.cancel("why")

    async def f() -> Any:
        (await t).unwrap()

    return [show(await s.task(f))]


@returns(["Ok [0, 1, 2]"])
async def async_generator_in_task(s: Scope) -> Any:

    async def gen() -> AsyncIterator[int]:
        try:
            for i in range(3):
                yield i
                await asyncio.sleep(0)
        finally:
            await s.task(val)

    async def f() -> Any:
        return [x async for x in gen()]

    return [show(await s.task(f))]


@returns(["Ok 4", "Ok 4"])
async def dedupe_awaits(s: Scope) -> Any:
    return [show(x) for x in [await s.task(val, 4, dedupe="k"), await s.task(val, 4, dedupe="k")]]


@returns(["Err TimeoutError", "Err ValueError"])
async def timeouts(s: Scope) -> Any:
    return [
        show(await s.task(asyncio.sleep, 5, timeout=0.005)),
        show(await s.task(boom, retry=Retry(2, delay=0))),
    ]


@returns(["Ok 8"])
async def awaited_in_foreign_task(s: Scope) -> Any:
    t = s.task(val, 8)

    async def aw() -> Any:
        return show(await t)

    f = asyncio.create_task(aw())
    return [await f]


@returns(["Err ValueError"])
async def foreign_task_starts_and_awaits(s: Scope) -> Any:

    async def aw() -> Any:
        return show(await s.task(boom))

    return [await asyncio.create_task(aw())]


@returns([True, "Ok 1"])
async def foreign_awaiter_cancelled(s: Scope) -> Any:

    async def aw() -> Any:
        await s.task(asyncio.sleep, 5)

    f = asyncio.create_task(aw())
    await asyncio.sleep(0.005)
    f.cancel()
    await asyncio.wait([f])
    return [f.cancelled(), show(await s.task(val))]


@returns(["Ok 1"])
async def exit_stack(s: Scope) -> Any:
    async with contextlib.AsyncExitStack() as st:
        c = await st.enter_async_context(s.child())
        r = show(await c.task(val))
    return [r]


@returns(["Ok 6"])
async def coroutine_wrappers(s: Scope) -> Any:

    class A:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return 6

    def f() -> Any:
        return A()

    try:
        return [show(await s.task(f))]
    except TypeError:
        return ["TypeError"]


@returns(["obs"])
async def observer_cancels(s: Scope) -> Any:
    seen = []

    def obs(e: object) -> None:
        if type(e).__name__ == "TaskStarted":
            c.cancel("obs")

    async with scope(on_event=obs) as c:
        r = await c.task(asyncio.sleep, 5)
        seen.append(show(r))
    return [*seen, c.cancel_reason]


@returns(["Ok 1", "Err ValueError"])
async def observer_raises(s: Scope) -> Any:

    def obs(e: object) -> None:
        raise RuntimeError("bad observer")

    logging.disable(logging.CRITICAL)
    try:
        async with scope(on_event=obs) as c:
            return [show(await c.task(val)), show(await c.task(boom))]
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize(("program", "expected"), PROGRAMS)
async def test_what_comes_of_it_does_not_depend_on_where_tasks_run(
    program: Program, expected: list[object]
) -> None:
    async with asyncio.timeout(6), scope() as s:
        assert await program(s) == expected
