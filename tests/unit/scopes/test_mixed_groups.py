"""Rules 7 and 17: in a group with a cancellation, a cancelled task is its echo, and no error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest

from gogoscope import Scope, scope

pytestmark = pytest.mark.anyio


async def echo(s: Scope) -> None:
    """Raise, when cancelled, a group of the cancellation and of what a cancelled task says."""

    async def unwrap() -> None:
        task = s.task(anyio.sleep_forever)
        with anyio.CancelScope(shield=True):
            await task
        (await task).unwrap()

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep_forever)
        group.start_soon(unwrap)


async def in_the_body(s: Scope) -> None:
    await echo(s)


async def in_a_task(s: Scope) -> None:
    s.task(echo, s)
    await anyio.sleep_forever()


async def inside_of_its_awaiter(s: Scope) -> None:
    await s.task(echo, s)


async def in_a_child(s: Scope) -> None:
    async with s.child() as child:
        await child.task(echo, child)


async def in_items(s: Scope) -> None:
    await s.map(lambda _: echo(s), range(2))


async def in_a_source(s: Scope) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await echo(s)

    async for _ in s.map(lambda _: anyio.sleep(0), source()):
        pass


EVERYWHERE = pytest.mark.parametrize(
    "program",
    [in_the_body, in_a_task, inside_of_its_awaiter, in_a_child, in_items, in_a_source],
)


@EVERYWHERE
async def test_a_scope_that_is_cancelled_ends_without_an_exception(
    program: Callable[[Scope], Awaitable[None]],
) -> None:
    async def cancel(s: Scope) -> None:
        await anyio.sleep(0.01)
        s.cancel("enough")

    with anyio.fail_after(5):
        async with scope() as s:
            s.task(cancel, s)
            await program(s)


@EVERYWHERE
async def test_a_cancellation_from_outside_takes_its_echo_with_it(
    program: Callable[[Scope], Awaitable[None]],
) -> None:
    with anyio.move_on_after(0.01) as cancelled:
        async with scope() as s:
            await program(s)
    assert cancelled.cancelled_caught
