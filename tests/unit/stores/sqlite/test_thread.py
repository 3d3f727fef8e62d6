"""A thread for blocking calls: their order, their errors, and what cancellation does to them."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial

import anyio
import pytest

from gogoscope.stores.sqlite.thread import ThreadGoneError, WorkerThread, _Call

pytestmark = pytest.mark.anyio

NAME = "a thread of a test"
WHO: ContextVar[str] = ContextVar("who")


class BrokenError(Exception):
    pass


@pytest.fixture
async def worker() -> AsyncIterator[WorkerThread]:
    thread = WorkerThread(NAME)
    yield thread
    thread.end()


async def until_it_ended() -> None:
    with anyio.fail_after(10):
        while any(thread.name == NAME for thread in threading.enumerate()):
            await anyio.sleep(0.001)


async def test_the_thread_returns_the_result(worker: WorkerThread) -> None:
    assert await worker.run(lambda: threading.current_thread().name) == NAME


async def test_the_thread_raises_the_error_and_does_not_keep_it(worker: WorkerThread) -> None:
    def fail() -> None:
        raise BrokenError("broken")

    gc.disable()  # what is freed at once was in no cycle
    try:
        seen: list[weakref.ref[BrokenError]] = []
        try:
            await worker.run(fail)
        except BrokenError as error:
            seen.append(weakref.ref(error))
        await worker.run(int)
        assert seen[0]() is None
    finally:
        gc.enable()


async def test_the_thread_keeps_no_result(worker: WorkerThread) -> None:
    class Result:
        pass

    seen = weakref.ref(await worker.run(Result))
    await worker.run(int)
    assert seen() is None


async def test_the_thread_sees_the_context_of_the_caller(worker: WorkerThread) -> None:
    WHO.set("me")
    assert await worker.run(WHO.get) == "me"


async def test_calls_are_made_one_by_one_in_the_order_in_which_they_came(
    worker: WorkerThread,
) -> None:
    came: list[int] = []
    made: list[int] = []

    async def call(number: int) -> None:
        came.append(number)
        await worker.run(lambda: made.append(number))

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(call, number)
    assert sorted(made) == list(range(50))
    assert made == came


async def test_urgent_calls_go_before_the_others_that_wait(worker: WorkerThread) -> None:
    begun, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def block() -> None:
        begun.set()
        assert go_on.wait(30)

    async def call(name: str, *, urgent: bool) -> None:
        await worker.run(lambda: made.append(name), urgent=urgent)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run, block)
        while not begun.is_set():
            await anyio.sleep(0.001)
        for name in ("first", "second", "urgent", "third", "urgent too"):
            tasks.start_soon(partial(call, name, urgent=name.startswith("urgent")))
            await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert made == ["urgent", "urgent too", "first", "second", "third"]
    assert await worker.run(lambda: len(made)) == 5


async def test_a_call_whose_turn_has_come_is_waited_for_though_it_is_cancelled(
    worker: WorkerThread,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    made: list[str] = []

    def block() -> None:
        begun.set()
        assert go_on.wait(30)
        made.append("done")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run, block)
        while not begun.is_set():
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
        threading.Timer(0.05, go_on.set).start()
    assert made == ["done"]


async def test_a_call_that_is_cancelled_before_its_turn_is_not_made(worker: WorkerThread) -> None:
    begun, go_on = threading.Event(), threading.Event()
    made: list[str] = []

    def block() -> None:
        begun.set()
        assert go_on.wait(30)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run, block)
        while not begun.is_set():
            await anyio.sleep(0.001)
        with anyio.move_on_after(0.01) as patience:
            await worker.run(lambda: made.append("too late"))
        assert patience.cancelled_caught
        go_on.set()
    with anyio.CancelScope() as cancelled:
        cancelled.cancel()
        await worker.run(lambda: made.append("too late as well"))
    assert cancelled.cancelled_caught
    assert made == []


async def test_the_next_call_waits_for_one_that_asyncio_itself_cancelled(
    worker: WorkerThread, anyio_backend_name: str
) -> None:
    if anyio_backend_name == "trio":
        pytest.skip("only asyncio has a cancellation that knows no shield")
    begun, go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def block() -> None:
        begun.set()
        assert go_on.wait(30)
        order.append("first")

    task = asyncio.ensure_future(worker.run(block))
    while not begun.is_set():
        await anyio.sleep(0.001)
    task.cancel()
    await anyio.sleep(0.01)
    assert not task.done()
    task.cancel()  # who insists does not wait
    with pytest.raises(asyncio.CancelledError):
        await task
    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(0.01) as patience:
            await worker.run(lambda: order.append("too late"))
        assert patience.cancelled_caught
        tasks.start_soon(worker.run, lambda: order.append("second"))
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert order == ["first", "second"]


async def test_the_thread_ends_when_it_is_closed(worker: WorkerThread) -> None:
    made: list[str] = []
    worker.end(lambda: made.append("the last"))
    worker.end(lambda: made.append("too late"))
    await until_it_ended()
    assert made == ["the last"]


async def test_the_thread_ends_when_nothing_refers_to_it() -> None:
    await WorkerThread(NAME).run(int)
    await until_it_ended()


AT_EXIT = """
import asyncio
import atexit
import threading

from gogoscope.stores.sqlite.thread import WorkerThread

loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


def in_loop(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)


async def opened():
    return WorkerThread("late")


@atexit.register
def at_exit():
    print(in_loop(thread.run(lambda: "still here")))


thread = in_loop(opened())
"""


def test_the_thread_serves_until_the_end_of_the_process() -> None:
    """Whoever closes a store at exit may have registered that before the store was opened."""
    ran = subprocess.run(
        [sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.stdout == "still here\n", ran.stderr


async def test_a_call_after_its_end_is_refused(worker: WorkerThread) -> None:
    worker.end()
    with anyio.fail_after(10), pytest.raises(ThreadGoneError):
        await worker.run(int)


async def test_the_thread_outlives_an_event_loop_that_left_a_call_behind() -> None:
    go_on = threading.Event()
    workers: list[WorkerThread] = []
    made: list[str] = []

    async def main() -> None:
        workers.append(WorkerThread(NAME))
        task = asyncio.ensure_future(workers[0].run(go_on.wait))
        await asyncio.sleep(0)
        task.cancel()

    elsewhere = threading.Thread(target=asyncio.run, args=(main(),))
    elsewhere.start()
    elsewhere.join()
    go_on.set()
    with pytest.raises(ThreadGoneError):
        await workers[0].run(int)
    workers[0].end(lambda: made.append("closed"))
    await until_it_ended()
    assert made == ["closed"]


async def test_the_error_of_a_call_that_was_left_is_in_no_cycle() -> None:
    class Kept:
        pass

    def fail() -> None:
        kept = Kept()
        raise BrokenError(kept)

    gc.disable()
    try:
        call = _Call(fail)
        call.make()
        assert isinstance(call.error, BrokenError)
        (kept,) = call.error.args
        seen = weakref.ref(kept)
        del call, kept
        assert seen() is None
    finally:
        gc.enable()
