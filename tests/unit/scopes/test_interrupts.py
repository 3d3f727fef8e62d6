"""Rule 7: KeyboardInterrupt and SystemExit are never results."""

from __future__ import annotations

import asyncio
import subprocess
import sys
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
def test_rule_7_asyncio_cancelling_everything_leaves_nothing_that_waits(
    event_loop: tuple[str, dict[str, Any]], body_waits: bool
) -> None:
    tasks: list[Task[None]] = []

    async def program() -> None:
        async with scope() as s:

            async def killer() -> None:
                tasks.append(s.task(anyio.sleep_forever, dedupe="key", name="not begun"))
                results = aiter(s.map(anyio.sleep, [1]))
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
                await anext(results)

            s.task(killer)
            if body_waits:
                await anyio.sleep_forever()

    backend, options = event_loop
    with pytest.raises(asyncio.CancelledError):
        anyio.run(program, backend=backend, backend_options=options)
    assert tasks[0].state == "cancelled"


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
@pytest.mark.parametrize("waits_in", ["body", "task", "child"])
def test_rule_7_an_interrupt_ends_a_race_that_has_not_begun(
    event_loop: tuple[str, dict[str, Any]], waits_in: str
) -> None:
    async def race(s: Scope) -> None:
        await s.race([anyio.sleep_forever, anyio.sleep_forever])

    async def race_in_child(s: Scope) -> None:
        async with s.child() as inner:
            await race(inner)

    async def interrupt() -> None:
        raise SystemExit(3)

    async def program() -> None:
        async with scope() as s:
            s.task(interrupt)
            if waits_in == "body":
                await race(s)
            else:
                s.task(race if waits_in == "task" else race_in_child, s)
                await anyio.sleep_forever()

    backend, options = event_loop
    with pytest.raises(SystemExit):
        anyio.run(program, backend=backend, backend_options=options)


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
@pytest.mark.parametrize("combine", ["all", "race", "any", "map", "async for"])
def test_rule_7_an_interrupt_is_no_result_of_a_combinator(
    event_loop: tuple[str, dict[str, Any]], combine: str
) -> None:
    seen: list[object] = []

    async def work(item: int = 0) -> None:
        await anyio.sleep(0)
        raise KeyboardInterrupt

    async def program() -> None:
        async with scope() as s:
            if combine == "all":
                seen.append(await s.all(s.task(work)))
            elif combine == "race":
                seen.append(await s.race([work]))
            elif combine == "any":
                seen.append(await s.any([work]))
            elif combine == "map":
                seen.append(await s.map(work, [1]))
            else:
                async for result in s.map(work, [1]):
                    seen.append(result)  # noqa: PERF401 - what is seen before the interrupt counts

    backend, options = event_loop
    with pytest.raises(KeyboardInterrupt):
        anyio.run(program, backend=backend, backend_options=options)
    assert not seen


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
def test_rule_7_an_interrupt_goes_before_what_the_body_raises_on_its_way_out(
    event_loop: tuple[str, dict[str, Any]],
) -> None:
    async def interrupt() -> None:
        raise SystemExit(3)

    async def program() -> None:
        async with scope() as s:
            s.task(interrupt)
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("of the body")

    backend, options = event_loop
    with pytest.raises(SystemExit) as caught:
        anyio.run(program, backend=backend, backend_options=options)
    if backend == "trio":
        assert isinstance(caught.value.__context__, ValueError)


@pytest.mark.parametrize(
    "times", [pytest.param(5, id="a few"), pytest.param(50, id="many", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_at_any_moment_leaves_a_program_with_all_combinators_whole(
    backend: str, times: int
) -> None:
    for seed in range(2):
        command = [sys.executable, "-m", "tests.unit.scopes.interrupted_program"]
        ended = subprocess.run(
            [*command, backend, str(seed), str(times)],
            capture_output=True,
            check=False,
            text=True,
            timeout=60,
        )
        assert (ended.stdout, ended.stderr, ended.returncode) == ("end\n", "", 0)
