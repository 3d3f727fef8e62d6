"""Rule 4: errors that nobody read."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from typing import Any, Literal

import anyio
import pytest

from gogoscope import Retry, scope
from gogoscope.events import (
    ErrorUnseen,
    Event,
    LockReleased,
    ScopeCancelled,
    ScopeEnded,
    ScopeStarted,
    TaskFailed,
    TaskStarted,
    TaskStopped,
    TaskSucceeded,
)

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def fail(error: Exception) -> None:
    await anyio.sleep(0)
    raise error


async def cancelled_outside(fn: Any) -> None:
    """Run ``fn(started)`` and cancel it from outside once it says that it started."""
    async with anyio.create_task_group() as group:
        started = anyio.Event()
        group.start_soon(fn, started)
        await started.wait()
        group.cancel_scope.cancel()


async def test_rule_4_unseen_errors_are_raised_together() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(name="orders") as s:
            s.task(fail, ValueError("a"))
            s.task(fail, KeyError("b"))
            read = s.task(fail, OSError("c"))
            assert (await read).error is not None
    assert "orders" in str(caught.value)
    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}


async def test_rule_4_reading_later_is_reading() -> None:
    async with scope() as s:
        task = s.task(fail, ValueError("a"))
        await task.wait()
        assert task.done
        assert (await task).error is not None


async def test_rule_4_waiting_is_not_looking() -> None:
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            await s.task(fail, ValueError("a")).wait()


@pytest.mark.parametrize("waits", [True, False])
async def test_rule_4_an_error_that_nobody_can_read_is_told_though_nothing_else_runs(
    waits: bool,
) -> None:
    told = anyio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, ErrorUnseen):
            told.set()

    async def fail_at_once() -> None:
        raise ValueError("a")

    with pytest.raises(ExceptionGroup):
        async with scope(on_event=observe) as s:
            if waits:
                s.task(fail, ValueError("a"))
            else:
                s.task(fail_at_once)
            with anyio.fail_after(20):
                await told.wait()


async def test_rule_4_an_awaiter_that_was_cancelled_has_not_looked() -> None:
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            task = s.task(fail, ValueError("a"))
            with anyio.CancelScope() as attempt:
                attempt.cancel()
                await task.wait()


async def test_rule_4_on_error_of_the_task_goes_before_that_of_the_scope() -> None:
    of_scope: list[Exception] = []
    of_task: list[Exception] = []
    async with scope(on_error=of_scope.append) as s:
        s.task(fail, ValueError("a"))
        s.task(fail, KeyError("b"), on_error=of_task.append)
        assert (await s.task(fail, OSError("read"))).error is not None
    assert [type(error) for error in of_scope] == [ValueError]
    assert [type(error) for error in of_task] == [KeyError]


async def test_rule_4_an_observer_that_fails_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def observer(error: Exception) -> None:
        raise RuntimeError("observer")

    with pytest.raises(ExceptionGroup) as caught:
        async with scope(on_error=observer) as s:
            s.task(fail, ValueError("not lost either"))
    assert "not lost either" in str(caught.value.exceptions)
    assert "RuntimeError: observer" in caplog.text


async def test_rule_4_an_observer_that_turns_out_to_be_async_loses_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ExceptionGroup, match="1 unhandled error"):
        async with scope(on_error=lambda error: give(1)) as s:
            s.task(fail, ValueError("a"))
    assert "is async" in caplog.text


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class UnspeakableError(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("unspeakable")


@pytest.mark.parametrize("retry", [None, Retry(3, delay=0)])
async def test_rule_4_an_error_that_refuses_attributes_is_an_error_like_others(
    retry: Retry | None,
) -> None:
    numbers = itertools.count(1)

    async def work() -> None:
        raise FrozenError(next(numbers))

    async with scope(name="frost") as s:
        task = s.task(work, retry=retry, name="cold")
        await task.wait()
        err, _ = await task
    assert isinstance(err, FrozenError)
    assert err.__notes__ == ["in task 'cold' of scope 'frost'"]
    if retry is not None:
        assert [err.code, getattr(err.__context__, "code", None)] == [3, 2]


async def test_rule_4_an_error_without_a_repr_hides_no_other() -> None:
    with pytest.raises(FrozenError) as caught:
        async with scope() as s:
            await s.task(fail, UnspeakableError()).wait()
            raise FrozenError(1)
    assert "UnspeakableError, whose repr fails" in caught.value.__notes__[0]


async def test_rule_4_a_hundred_are_kept_whole_and_further_ones_counted() -> None:
    with pytest.raises(ExceptionGroup, match="100 unhandled errors and 7 more, not kept") as caught:
        async with scope() as s:
            kept = [s.task(fail, ValueError("kept")) for _ in range(100)]
            for task in kept:
                await task.wait()
            counted = [s.task(fail, ValueError("counted")) for _ in range(10)]
            for task in counted:
                await task.wait()
            for task in counted[:3]:
                assert (await task).error is not None
    assert {str(error) for error in caught.value.exceptions} == {"kept"}


async def test_rule_4_unhandled_errors_become_notes_events_and_log_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []
    with pytest.raises(KeyError) as caught:
        async with scope(name="orders", on_event=events.append) as s:
            await s.task(fail, ValueError("lost?")).wait()
            raise KeyError("body")
    assert any("lost?" in note for note in caught.value.__notes__)
    assert [event for event in events if isinstance(event, ErrorUnseen)]
    assert "not handled" in caplog.text


async def test_rule_4_a_cancellation_from_outside_goes_before_the_group(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caught: list[BaseException] = []

    async def program(started: anyio.Event) -> None:
        try:
            async with scope() as s:
                await s.task(fail, ValueError("lost?")).wait()
                started.set()
                await anyio.sleep_forever()
        except BaseException as error:
            caught.append(error)
            raise

    await cancelled_outside(program)
    assert len(caught) == 1
    assert isinstance(caught[0], anyio.get_cancelled_exc_class())
    assert "not handled" in caplog.text


async def test_rule_4_the_timeout_goes_before_the_group() -> None:
    with pytest.raises(TimeoutError) as caught:
        async with scope(timeout=0.5) as s:
            await s.task(fail, ValueError("lost?")).wait()
            await anyio.sleep_forever()
    assert any("lost?" in note for note in caught.value.__notes__)


async def test_rule_4_an_own_cancel_is_never_unseen() -> None:
    async with scope() as s:
        s.task(anyio.sleep_forever).cancel()
        started = s.task(anyio.sleep_forever)
        await anyio.sleep(0)
        started.cancel()


async def test_rule_4_unseen_errors_are_raised_after_cancel_too() -> None:
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            await s.task(fail, ValueError("a")).wait()
            s.cancel()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "told",
    [
        *(ScopeStarted, TaskStarted, TaskSucceeded, TaskStopped, TaskFailed),
        *(ErrorUnseen, ScopeCancelled, LockReleased, ScopeEnded),
    ],
)
def test_rule_7_an_observer_that_exits_tears_nothing_and_ends_the_block(
    told: type[Event], backend: Literal["asyncio", "trio"]
) -> None:
    ended: list[str] = []

    def leave(event: Event) -> None:
        if type(event) is told:
            sys.exit(3)

    async def work() -> None:
        try:
            await anyio.sleep(0)
        finally:
            ended.append("work")

    async def main() -> None:
        with anyio.fail_after(10):
            async with scope(on_event=leave) as s, s.lock("k"):
                s.task(work)
                s.task(fail, ValueError("planned"))
                stopped = s.task(anyio.sleep_forever)
                await anyio.sleep(0.01)
                stopped.cancel()
                s.task(anyio.sleep_forever)
                raise KeyError("of the body")
        ended.append("after")

    with pytest.raises(SystemExit) as caught:
        anyio.run(main, backend=backend)
    assert caught.value.code == 3
    assert ended in (["work"], [])  # not even begun, since the block was cancelled before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_rule_7_a_block_that_has_ended_is_not_cancelled_by_an_observer_that_exits(
    backend: Literal["asyncio", "trio"],
) -> None:
    told: list[type[Event]] = []

    def leave(event: Event) -> None:
        told.append(type(event))
        if isinstance(event, ScopeEnded):
            sys.exit(3)

    async def main() -> None:
        async with scope(on_event=leave):
            pass

    with pytest.raises(SystemExit):
        anyio.run(main, backend=backend)
    assert told == [ScopeStarted, ScopeEnded]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_rule_7_all_who_share_an_error_are_told_though_one_reads_it_and_another_exits(
    backend: Literal["asyncio", "trio"],
) -> None:
    told: list[str] = []

    async def main() -> None:
        def read(_: Exception) -> None:
            told.append("reads")
            with pytest.raises(StopIteration) as ended:  # awaiting what is done is no checkpoint
                handles[0].__await__().send(None)
            assert ended.value.value.error is error

        def leave(_: Exception) -> None:
            told.append("exits")
            sys.exit(3)

        error = ValueError("planned")
        observers = [read, leave, lambda _: told.append("is told")]
        with anyio.fail_after(10):
            async with scope() as s:
                handles = [s.task(fail, error, dedupe="k", on_error=on) for on in observers]

    with pytest.raises(SystemExit):
        anyio.run(main, backend=backend)
    assert told == ["reads", "exits", "is told"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("teller", ["on_error", "fail_fast"])
def test_rule_7_an_observer_that_exits_ends_the_block(
    teller: str, backend: Literal["asyncio", "trio"]
) -> None:
    def leave(event: Event) -> None:
        if isinstance(event, ScopeCancelled):
            sys.exit(3)

    async def main() -> None:
        options: dict[str, Any] = {"on_error": lambda error: sys.exit(3)}
        if teller == "fail_fast":
            options = {"fail_fast": True, "on_event": leave}
        with anyio.fail_after(10):
            async with scope(**options) as s:
                s.task(fail, ValueError("planned"))

    with pytest.raises(SystemExit):
        anyio.run(main, backend=backend)
