"""Rule 7: KeyboardInterrupt and SystemExit are never results."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from gogoscope import Scope, Task, scope
from tests.conftest import EVENT_LOOPS

ON_ASYNCIO = [loop for loop in EVENT_LOOPS if loop.id != "trio"]  # only it cancels by itself


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("awaited", [True, False])
def test_rule_7_interrupts_leave_the_program(
    error: type[BaseException], event_loop: tuple[str, dict[str, Any]], awaited: bool
) -> None:
    seen: list[object] = []

    async def work() -> None:
        raise error

    async def program() -> None:
        async with scope() as s:
            task = s.task(work)
            if awaited:
                seen.append(await task)
            await anyio.sleep_forever()

    backend, options = event_loop
    with pytest.raises(error):
        anyio.run(program, backend=backend, backend_options=options)
    assert not seen


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
@pytest.mark.parametrize("body_waits", [True, False])
def test_rule_7_an_interrupt_ends_what_has_not_begun(
    event_loop: tuple[str, dict[str, Any]], body_waits: bool
) -> None:
    async def interrupted(s: Scope) -> None:
        s.task(anyio.sleep_forever)
        aiter(s.map(anyio.sleep, [1]))
        raise KeyboardInterrupt

    async def program() -> None:
        async with scope() as s:
            s.task(interrupted, s)
            if body_waits:
                await anyio.sleep_forever()

    backend, options = event_loop
    with pytest.raises(KeyboardInterrupt):
        anyio.run(program, backend=backend, backend_options=options)


@pytest.mark.parametrize("event_loop", ON_ASYNCIO)
@pytest.mark.parametrize("body_waits", [True, False])
@pytest.mark.parametrize("host_too", [True, False])
def test_rule_7_asyncio_cancelling_what_has_not_begun_leaves_nothing_that_waits(
    event_loop: tuple[str, dict[str, Any]], body_waits: bool, host_too: bool
) -> None:
    tasks: list[Task[None]] = []

    async def program() -> None:
        host = asyncio.current_task()
        async with scope() as s:

            async def killer() -> None:
                tasks.append(s.task(anyio.sleep_forever, dedupe="key", name="not begun"))
                results = aiter(s.map(anyio.sleep, [1]))
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    if task is not host or host_too:
                        task.cancel()
                await anext(results)

            s.task(killer)
            if body_waits:
                await anyio.sleep_forever()

    backend, options = event_loop
    if host_too:
        with pytest.raises(asyncio.CancelledError):
            anyio.run(program, backend=backend, backend_options=options)
    else:
        anyio.run(program, backend=backend, backend_options=options)
    assert tasks[0].state == "cancelled"
