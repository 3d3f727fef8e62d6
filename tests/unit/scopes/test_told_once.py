"""An error is told once, however many hold it; and what is written to it is bounded."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any, NoReturn

import anyio
import pytest

from gogoscope import LeaseLostError, Scope, Task, scope
from gogoscope.events import ErrorUnseen, Event
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio


async def fail() -> NoReturn:
    await anyio.sleep(0)
    raise OSError("down")


class Ear:
    """Notes the errors that a scope tells of."""

    def __init__(self) -> None:
        self.unseen: list[Exception] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ErrorUnseen):
            self.unseen.append(event.error)


async def unwrap_a_task(s: Scope) -> None:
    (await s.task(fail)).unwrap()


async def test_fail_fast_tells_an_error_that_two_tasks_have_once() -> None:
    ear = Ear()
    with pytest.raises(KeyError):
        async with scope(fail_fast=True, on_event=ear) as s:
            s.task(unwrap_a_task, s)
            try:
                await anyio.sleep_forever()
            finally:
                raise KeyError("of the body")
    assert len(ear.unseen) == 1


async def test_fail_fast_does_not_tell_an_error_that_the_body_raises_from() -> None:
    ear = Ear()
    with pytest.raises(KeyError) as caught:
        async with scope(fail_fast=True, on_event=ear) as s:
            task = s.task(fail)
            try:
                await anyio.sleep_forever()
            finally:
                error: BaseException | None = None
                with anyio.CancelScope(shield=True):
                    error = (await task).error
                raise KeyError("of the body") from error
    assert isinstance(caught.value.__cause__, OSError)
    assert not ear.unseen
    assert not hasattr(caught.value, "__notes__")


async def test_an_error_that_goes_through_many_scopes_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def nested(depth: int) -> None:
        async with scope() as s:
            await (nested(depth - 1) if depth else unwrap_a_task(s))

    with pytest.raises(OSError, match="down") as caught:
        await nested(5)
    assert not caplog.records
    assert len(caught.value.__notes__) == 1


async def test_a_lost_lease_is_told_once() -> None:
    ear = Ear()
    store = MemoryStore()
    with pytest.raises(LeaseLostError) as caught:
        async with scope(persistence=store, on_event=ear) as s, s.lock("order", 0.15) as locked:

            async def write() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    locked.ensure()

            for _ in range(3):
                locked.task(write)
            await anyio.sleep(0)
            await store.force_release("order")
            with anyio.fail_after(5):
                await write()
    assert [error for error in ear.unseen if error is not caught.value] == []


async def test_a_map_with_a_function_that_is_not_async_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong: Any = lambda item: item  # noqa: E731 - the type checkers see that it is wrong
    for method in ("map", "as_completed"):
        with pytest.raises(TypeError):
            async with scope() as s:
                async for _ in getattr(s, method)(wrong, range(500)):
                    pass
    with pytest.raises(TypeError):
        async with scope() as s:
            await s.map(wrong, range(500))
    assert not caplog.records


async def test_all_with_functions_that_are_not_async_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong: Any = lambda: 1  # noqa: E731 - likewise
    with pytest.raises(TypeError):
        async with scope() as s:
            await s.all(*[s.task(wrong) for _ in range(100)])
    with pytest.raises(TypeError):
        async with scope() as s:
            await s.race([wrong] * 3)
    assert not caplog.records


# What is written to an error


async def test_an_error_that_many_callers_share_has_a_few_notes() -> None:
    async def load() -> None:
        while asked < 1000:
            await anyio.sleep(0)
        raise OSError("broken")

    asked = 0

    async with scope(persistence=MemoryStore()) as s:

        async def get() -> None:
            nonlocal asked
            asked += 1
            await s.cache.get_or_set("key", load, 60)

        results = await s.all(*[s.task(get, name=f"user {n}") for n in range(1000)])
        errors = {result.error for result in results}
    assert len(errors) == 1
    (error,) = errors
    assert error is not None
    assert 1 <= len(error.__notes__) <= 2


async def test_an_error_names_the_task_that_it_came_from_and_the_next() -> None:
    async def pass_on(s: Scope, depth: int) -> None:
        inner: Task[Any] = s.task(pass_on, s, depth - 1) if depth else s.task(fail, name="source")
        (await inner).unwrap()

    async with scope(name="notes") as s:
        err, _ = await s.task(pass_on, s, 5, name="outermost")
    assert err is not None
    assert len(err.__notes__) == 2
    assert err.__notes__[0] == "in task 'source' of scope 'notes'"


async def test_an_exception_that_leaves_many_scopes_has_at_most_a_hundred_notes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "gogoscope")
    shared = KeyError("of all bodies")
    for number in range(150):
        with pytest.raises(KeyError):
            async with scope(name=f"scope {number}") as s:
                await s.task(fail).wait()
                raise shared
    assert len(shared.__notes__) == 100


def length(traceback: TracebackType | None) -> int:
    return 0 if traceback is None else 1 + length(traceback.tb_next)


class Request:
    """What a caller holds in a local variable."""


async def unwrap_in_a_frame(task: Task[Any], seen: list[weakref.ref[Request]]) -> int:
    request = Request()
    seen.append(weakref.ref(request))
    result = await task
    try:
        try:
            raise KeyError(request)
        except KeyError:
            result.unwrap()
    except OSError as error:
        return length(error.__traceback__)
    raise AssertionError


async def test_unwrapping_a_thousand_times_keeps_no_callers() -> None:
    seen: list[weakref.ref[Request]] = []
    async with scope() as s:
        task = s.task(fail)
        await task
        lengths = [await unwrap_in_a_frame(task, seen) for _ in range(1000)]
        gc.collect()
        assert sum(request() is not None for request in seen) <= 1  # that of the last
    assert len(set(lengths)) == 1


async def test_waiting_for_one_load_a_thousand_times_keeps_no_callers() -> None:
    async def load() -> None:
        while len(seen) < 1000:
            await anyio.sleep(0)
        raise OSError("down")

    seen: list[weakref.ref[Request]] = []
    kept: list[BaseException] = []

    async def handle(get: Callable[[], Awaitable[None]]) -> None:
        request = Request()
        seen.append(weakref.ref(request))
        try:
            await get()
        except OSError as error:
            kept.append(error)

    async with scope(persistence=MemoryStore()) as s:
        get = partial(s.cache.get_or_set, "key", load, 60)
        await s.all(*[s.task(handle, get) for _ in range(1000)])
    gc.collect()
    assert len({id(error) for error in kept}) == 1
    # That of the last, and since Python 3.12 that of the one whose load it was.
    assert sum(request() is not None for request in seen) <= 2
