"""Tasks of the event loop that run our code, on each event loop: how they end, and cancel."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import Context, ContextVar
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from gogoscope._core.event_loop import running
from gogoscope._core.launches import Launch, began
from tests.conftest import EVENT_LOOPS

ON_ASYNCIO = [loop for loop in EVENT_LOOPS if loop.id != "trio"]
on_asyncio = pytest.mark.parametrize("anyio_backend", ON_ASYNCIO)
WITHOUT_FACTORY = [loop for loop in ON_ASYNCIO if loop.id != "eager"]
without_factory = pytest.mark.parametrize("anyio_backend", WITHOUT_FACTORY)
pytestmark = pytest.mark.anyio


def unheard() -> None:
    """Hear of what may be lost; nothing is."""


async def turns(number: int = 5) -> None:
    """Let all other tasks go on, and be cancelled again."""
    for _ in range(number):
        await anyio.lowlevel.checkpoint()


async def cancelled_at(seen: list[str], where: str, what: Callable[[], Awaitable[object]]) -> None:
    try:
        await what()
    except anyio.get_cancelled_exc_class():
        seen.append(where)
        raise


async def test_a_group_waits_for_its_tasks_and_knows_their_names() -> None:
    seen: list[object] = []

    async def work() -> None:
        seen.append(anyio.get_current_task().name)
        await turns(9)
        seen.append("done")

    async with running().open_group(unheard) as group:
        launch = group.create_task(work(), name="some work")
        assert not began(launch)
        await turns()
        assert began(launch)
    assert seen == ["some work", "done"]


async def test_a_task_runs_in_the_context_that_is_passed() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="outside")
    context = Context()
    context.run(variable.set, "inside")
    seen: list[str] = []

    async def work() -> None:
        seen.append(variable.get())
        variable.set("changed")

    async with running().open_group(unheard) as group:
        group.create_task(work(), name="some work", context=context)
    assert (seen, variable.get()) == (["inside"], "outside")


async def test_what_a_task_raises_cancels_the_others_and_leaves_the_group() -> None:
    seen: list[str] = []

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise ValueError("planned")

    with pytest.raises(ExceptionGroup) as caught:
        async with running().open_group(unheard) as group:
            group.create_task(fail(), name="fails")
            group.create_task(cancelled_at(seen, "other", anyio.sleep_forever), name="other")
            await cancelled_at(seen, "body", anyio.sleep_forever)
    assert caught.group_contains(ValueError, match="planned")
    assert sorted(seen) == ["body", "other"]


async def test_waiting_for_a_task_ends_with_it() -> None:
    go_on = anyio.Event()
    async with running().open_group(unheard) as group:
        launch = group.create_task(go_on.wait(), name="waits")
        other = group.create_task(turns(), name="other")
        with anyio.move_on_after(0.01) as too_short:
            await launch.wait()
        assert too_short.cancelled_caught
        go_on.set()
        with anyio.fail_after(5):
            await launch.wait()
            await launch.wait()
            await turns(9)
            await other.wait()
        launch.cancel()  # it has ended


async def test_a_cancelled_task_is_cancelled_at_every_checkpoint_and_no_other_is() -> None:
    seen: list[str] = []

    async def stubborn() -> None:
        for number in range(3):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                seen.append(f"{number}")
        await anyio.sleep_forever()

    async def other() -> None:
        await turns(20)
        seen.append("other")

    async with running().open_group(unheard) as group:
        launch = group.create_task(stubborn(), name="stubborn")
        group.create_task(other(), name="other")
        await turns()
        launch.cancel()
        launch.cancel()
        await launch.wait()
        assert seen == ["0", "1", "2"]
    assert seen[-1] == "other"


async def test_a_task_that_is_cancelled_before_its_first_step_takes_it() -> None:
    seen: list[str] = []

    async def work() -> None:
        seen.append("began")
        await cancelled_at(seen, "cancelled", anyio.sleep_forever)

    async with running().open_group(unheard) as group:
        group.create_task(work(), name="some work").cancel()
    assert seen == ["began", "cancelled"]


async def test_a_task_that_cancels_itself_ends_at_its_next_checkpoint() -> None:
    seen: list[str] = []
    launch: Launch

    async def work() -> None:
        launch.cancel()
        seen.append("goes on")
        await cancelled_at(seen, "cancelled", anyio.lowlevel.checkpoint)

    async with running().open_group(unheard) as group:
        launch = group.create_task(work(), name="some work")
    assert seen == ["goes on", "cancelled"]


async def test_what_a_cancelled_task_has_entered_is_cancelled_with_it_and_shields_hold() -> None:
    seen: list[str] = []
    go_on = anyio.Event()

    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await go_on.wait()
            seen.append("shielded")
        await anyio.sleep_forever()

    async def work() -> None:
        with anyio.CancelScope(), anyio.move_on_after(60) as deadline:
            async with anyio.create_task_group() as inner:
                inner.start_soon(cancelled_at, seen, "inner", anyio.sleep_forever)
                inner.start_soon(cancelled_at, seen, "shielded, too", shielded)
                await cancelled_at(seen, "body", anyio.sleep_forever)
        seen.append("swallowed")
        assert not deadline.cancelled_caught

    async with running().open_group(unheard) as group:
        launch = group.create_task(work(), name="some work")
        await turns()
        launch.cancel()
        await turns()
        assert sorted(seen) == ["body", "inner"]
        go_on.set()
    assert seen[2:] == ["shielded", "shielded, too"]


async def test_a_scope_that_a_cancelled_task_enters_later_is_cancelled() -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope() as later:
                await cancelled_at(seen, "later", anyio.sleep_forever)
            assert not later.cancelled_caught
            with anyio.CancelScope(shield=True):
                await turns()
                seen.append("shielded")

    async with running().open_group(unheard) as group:
        launch = group.create_task(work(), name="some work")
        await turns()
        launch.cancel()
    assert seen == ["later"]


async def test_a_cancelled_task_cancels_what_its_thread_does() -> None:
    seen: list[str] = []
    asking, go_on = anyio.Event(), threading.Event()

    def in_thread() -> None:
        anyio.from_thread.check_cancelled()
        anyio.from_thread.run_sync(asking.set)
        assert go_on.wait(timeout=5)
        try:
            anyio.from_thread.check_cancelled()
        except BaseException as raised:
            seen.append(type(raised).__name__)
            raise

    async def work() -> None:
        await anyio.to_thread.run_sync(in_thread)

    async with running().open_group(unheard) as group:
        launch = group.create_task(work(), name="some work")
        await asking.wait()
        launch.cancel()
        go_on.set()
    assert seen == [anyio.get_cancelled_exc_class().__name__]


async def test_a_scope_around_the_group_cancels_its_tasks_at_every_checkpoint() -> None:
    seen: list[str] = []

    async def stubborn() -> None:
        assert math.isfinite(anyio.current_effective_deadline())
        try:
            await cancelled_at(seen, "first", anyio.sleep_forever)
        finally:
            assert anyio.current_effective_deadline() == -math.inf
            await cancelled_at(seen, "again", anyio.sleep_forever)

    with anyio.move_on_after(60) as around:
        async with running().open_group(unheard) as group:
            launch = group.create_task(stubborn(), name="stubborn")
            await turns()
            launch.cancel()
            around.cancel()
    assert around.cancelled_caught
    assert seen == ["first", "again"]


@on_asyncio
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_task_that_asyncio_cancels_before_its_first_step_is_told_of(
    cancelled: bool,
) -> None:
    lost: list[str] = []
    seen: list[str] = []
    before = asyncio.all_tasks()

    async def other() -> None:
        await turns()
        seen.append("other")

    async with running().open_group(lambda: lost.append("lost")) as group:
        launch = group.create_task(turns(), name="some work")
        (task,) = asyncio.all_tasks() - before
        group.create_task(other(), name="other")
        if cancelled:
            launch.cancel()
        task.cancel()
        await turns()
        assert lost
        assert not began(launch)
        launch.coro.close()
    assert seen == ["other"]


@on_asyncio
async def test_nothing_is_told_of_what_is_lost_once_a_task_has_ended_the_program() -> None:
    lost: list[str] = []

    async def quit_() -> None:
        raise Quit

    with pytest.raises(BaseExceptionGroup) as caught:
        async with running().open_group(lambda: lost.append("lost")) as group:
            group.create_task(quit_(), name="ends the program")
            try:
                await anyio.sleep_forever()
            finally:
                before = asyncio.all_tasks()
                launch = group.create_task(turns(), name="some work")
                (task,) = asyncio.all_tasks() - before
                task.cancel()
                with anyio.CancelScope(shield=True):
                    await turns()
                assert not began(launch)
                launch.coro.close()
    assert caught.group_contains(Quit)
    assert not lost


@on_asyncio
async def test_a_task_that_asyncio_cancels_later_cuts_no_other() -> None:
    seen: list[str] = []
    before = asyncio.all_tasks()

    async def other() -> None:
        await turns()
        seen.append("other")

    async with running().open_group(unheard) as group:
        group.create_task(cancelled_at(seen, "cancelled", anyio.sleep_forever), name="some work")
        (task,) = asyncio.all_tasks() - before
        await turns()
        task.cancel()
        group.create_task(other(), name="other")
    assert seen == ["cancelled", "other"]


# What is kept


class Something:
    """What a frame keeps, and whatever keeps the frame."""


class Quit(BaseException):
    """What ends a program."""


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@without_factory
async def test_a_task_that_ended_as_cancelled_keeps_no_frames(without_collector: None) -> None:
    kept: list[weakref.ref[Something]] = []
    before = asyncio.all_tasks()
    tasks: set[asyncio.Task[Any]] = set()

    async def work() -> None:
        something = Something()
        kept.append(weakref.ref(something))
        await anyio.sleep_forever()

    with anyio.CancelScope() as around:
        async with running().open_group(unheard) as group:
            group.create_task(work(), name="some work")
            tasks |= asyncio.all_tasks() - before
            await turns()
            around.cancel()
    assert [task.cancelled() for task in tasks] == [True]
    assert kept[0]() is None


@on_asyncio
async def test_a_group_that_was_left_is_gone_with_what_its_tasks_raised(
    without_collector: None,
) -> None:
    async def quit_() -> None:
        await anyio.lowlevel.checkpoint()
        raise Quit

    async def one() -> list[weakref.ref[Any]]:
        something = Something()
        heard: list[Something] = [something]
        raised: BaseException | None = None
        launch: Launch | None = None
        group = running().open_group(lambda: heard)
        try:
            async with group:
                launch = group.create_task(quit_(), name="ends the program")
        except BaseExceptionGroup as quits:
            (raised,) = quits.exceptions
        kept: list[weakref.ref[Any]] = [weakref.ref(something), weakref.ref(raised)]
        del raised, launch, group
        return kept

    kept = await one()
    await turns()
    assert [reference() for reference in kept] == [None, None]


# Programs and versions of anyio in which tasks are anyio's own


@on_asyncio
async def test_a_task_factory_of_the_program_makes_the_tasks() -> None:
    made = 0

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        nonlocal made
        made += 1
        return asyncio.Task(coroutine, loop=loop, **options)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(factory)  # type: ignore[arg-type]
    try:
        async with running().open_group(unheard) as group:
            launch = group.create_task(anyio.sleep_forever(), name="some work")
            await turns()
            launch.cancel()
    finally:
        loop.set_task_factory(None)
    assert made == 1


@on_asyncio
async def test_a_group_of_an_unknown_kind_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind: Any = type(anyio.create_task_group())

    class Unknown(kind):  # type: ignore[misc]
        pass

    monkeypatch.setattr(anyio, "create_task_group", Unknown)
    assert isinstance(running().open_group(unheard), Unknown)
