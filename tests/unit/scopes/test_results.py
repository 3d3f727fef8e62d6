"""Rule 4: an error is handled when somebody reads it."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import anyio
import anyio.to_thread
import pytest

from gogoscope import Err, Ok, Result, Scope, Task, TaskCancelled, scope
from gogoscope.events import ErrorUnseen, Event

pytestmark = pytest.mark.anyio


async def fail(error: Exception | None = None) -> NoReturn:
    await anyio.sleep(0)
    raise OSError("down") if error is None else error


async def give(value: int) -> int:
    return value


def unpack(result: Result[Any]) -> None:
    _, _ = result


def match_a_part(result: Result[Any]) -> None:
    match result:
        case Err(TaskCancelled()):
            raise AssertionError


def match_a_sequence(result: Result[Any]) -> None:
    match result:
        case (None, _):
            raise AssertionError


def unwrap(result: Result[Any]) -> None:
    with pytest.raises(OSError, match="down"):
        result.unwrap()


READING: dict[str, Callable[[Result[Any]], object]] = {
    "error": lambda result: result.error,
    "unpacking": unpack,
    "a loop": lambda result: [part for part in result],  # noqa: C416
    "star": lambda result: [*result],
    "tuple": tuple,
    "an index": lambda result: result[0],
    "a slice": lambda result: result[:1],
    "a part matched": match_a_part,
    "a sequence matched": match_a_sequence,
    "unwrap": unwrap,
    "unwrap_or": lambda result: result.unwrap_or(0),
    "equal": lambda result: result == (None, 1),
    "not equal": lambda result: result != (None, 1),
    "in": lambda result: 1 in result,
    "less": lambda result: result <= result,
    "sum": lambda result: result + (1,),  # noqa: RUF005
    "repr": repr,
    "str": str,
    "format": lambda result: f"{result}",
    "percent": lambda result: "%s" % (result,),  # noqa: UP031
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "replace": lambda result: result._replace(value=1),
    "asdict": lambda result: result._asdict(),
    "reversed": lambda result: list(reversed(result)),
}


@pytest.mark.parametrize("how", READING)
async def test_rule_4_who_takes_the_error_out_reads_it(how: str) -> None:
    async with scope() as s:
        READING[how](await s.task(fail))


def match_the_kind(result: Result[Any]) -> None:
    match result:
        case Err():
            return
        case _:
            raise AssertionError


NOT_READING: dict[str, Callable[[Result[Any]], object]] = {
    "nothing": lambda result: None,
    "isinstance": lambda result: isinstance(result, Err),
    "the kind matched": match_the_kind,
    "value": lambda result: result.value,
    "len": len,
    "bool": bool,
}


@pytest.mark.parametrize("how", NOT_READING)
async def test_rule_4_who_only_looks_at_the_result_does_not_read_the_error(how: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            NOT_READING[how](await s.task(fail))
    assert [type(error) for error in caught.value.exceptions] == [OSError]


async def test_rule_4_awaiting_and_asking_a_task_is_not_reading() -> None:
    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            task = s.task(fail)
            await task.wait()
            assert (task.state, task.done) == ("failed", True)
            assert "failed" in repr(task)
            await task


async def test_results_are_what_they_say() -> None:
    error = OSError("down")
    failed: Any = Err(error, None)
    assert Ok(None, 1) == (None, 1)
    assert failed == (error, None)
    assert hash(failed) == hash((error, None))
    assert (failed.error, failed.value, failed[1]) == (error, None, None)
    assert (Ok(None, 1).unwrap_or(2), failed.unwrap_or(2)) == (1, 2)
    assert repr(failed) == "Err(error=OSError('down'), value=None)"
    assert isinstance(pickle.loads(pickle.dumps(failed)), Err)
    assert isinstance(copy.copy(failed), Err)
    assert copy.copy(failed).error is error
    assert isinstance(failed, tuple)
    assert Err._fields == Err.__match_args__ == ("error", "value")


# What becomes of an error that nobody reads


class Ear:
    """Notes what a scope tells."""

    def __init__(self) -> None:
        self.unseen: list[Exception] = []
        self.threads: list[int] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ErrorUnseen):
            self.unseen.append(event.error)
            self.threads.append(threading.get_ident())


async def a_moment() -> None:
    """Let tasks end, and the event loop drop what it holds of them."""
    await anyio.wait_all_tasks_blocked()
    for _ in range(5):
        await anyio.sleep(0)


async def test_rule_4_a_dropped_error_is_told_at_once_and_raised_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ear = Ear()
    with pytest.raises(ExceptionGroup) as caught:
        async with scope(on_event=ear) as s:
            await s.task(fail)
            await a_moment()
            assert [str(error) for error in ear.unseen] == ["down"]
            assert "in fail" in caplog.text  # the traceback
            assert "OSError: down" in caplog.text
    assert caught.value.exceptions == tuple(ear.unseen)
    assert len(ear.unseen) == len(caplog.records) == 1


async def test_rule_4_a_task_that_nobody_holds_is_told_of_when_it_ends() -> None:
    ear = Ear()
    with pytest.raises(ExceptionGroup):
        async with scope(on_event=ear) as s:
            s.task(fail)
            await a_moment()
            assert len(ear.unseen) == 1


async def test_rule_4_an_error_that_can_still_be_read_is_not_told() -> None:
    ear = Ear()
    async with scope(on_event=ear) as s:
        task = s.task(fail)
        await task
        await a_moment()
        results = [await task, await task]
        del task
        await a_moment()
        assert not ear.unseen
        assert results.pop().error is results.pop().error
    assert not ear.unseen


async def test_rule_4_reading_by_one_of_many_awaiters_is_enough() -> None:
    async def read(task: Task[Any], *, really: bool) -> None:
        result = await task
        if really:
            assert result.error is not None

    async with scope() as s:
        failing = s.task(fail)
        await s.all(*[s.task(partial(read, failing, really=number == 3)) for number in range(5)])


async def test_rule_4_an_error_in_a_reference_cycle_is_told_after_collection() -> None:
    class Job:
        """Holds the task of its own method, whose error leads to the frame of the method."""

        def __init__(self, s: Scope) -> None:
            self.task = s.task(self.work)

        async def work(self) -> None:
            await fail()

    ear = Ear()
    with pytest.raises(ExceptionGroup):
        async with scope(on_event=ear) as s:
            await Job(s).task.wait()
            await a_moment()
            gc.collect()
            await a_moment()
            assert len(ear.unseen) == 1


async def test_rule_4_an_error_in_a_reference_cycle_is_raised_at_the_end_at_the_latest() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            cycle: list[object] = [await s.task(fail)]
            cycle.append(cycle)
            del cycle
    assert len(caught.value.exceptions) == 1


@pytest.mark.parametrize("taker", ["on_error", "events"])
async def test_rule_4_what_another_thread_drops_is_told_in_the_thread_of_the_scope(
    taker: str,
) -> None:
    ear = Ear()
    threads: list[int] = []
    here = threading.get_ident()

    def on_error(error: Exception) -> None:
        threads.append(threading.get_ident())

    async def drop_elsewhere(s: Scope) -> None:
        held: list[object] = [await s.task(fail)]
        await a_moment()
        await anyio.to_thread.run_sync(held.clear)
        with anyio.fail_after(5):
            while not (threads or ear.threads):
                await anyio.sleep(0.001)

    if taker == "on_error":
        async with scope(on_error=on_error) as s:
            await drop_elsewhere(s)
    else:
        with pytest.raises(ExceptionGroup):
            async with scope(on_event=ear) as s:
                await drop_elsewhere(s)
    assert threads + ear.threads == [here]


async def test_rule_4_a_worker_thread_may_read_an_error() -> None:
    async with scope() as s:
        result = await s.task(fail)
        (await s.thread(repr, result)).unwrap()


async def test_rule_4_nothing_is_told_after_the_block_raised_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ear = Ear()
    kept: list[Any] = []
    with pytest.raises(ExceptionGroup):
        async with scope(on_event=ear) as s:
            kept.append(s.task(fail))
            kept.append(await kept[0])
    assert isinstance((await kept[0]).error, OSError)
    kept.clear()
    gc.collect()
    assert not ear.unseen
    assert not caplog.records


async def test_rule_4_a_result_that_is_kept_keeps_no_scope() -> None:
    kept: list[object] = []

    async def one() -> weakref.ref[Scope]:
        with pytest.raises(ExceptionGroup):
            async with scope() as s:
                kept.append(await s.task(fail))
        async with scope(on_error=lambda error: None) as s:
            kept.append(await s.task(fail))
        reference = weakref.ref(s)
        del s  # since Python 3.12 an error keeps the frames that it was awaited in
        return reference

    reference = await one()
    await a_moment()
    gc.collect()
    assert reference() is None
    assert len(kept) == 2


# on_error


async def test_rule_4_on_error_is_called_once_when_nobody_awaits_the_task() -> None:
    told: list[Exception] = []
    async with scope(on_error=told.append) as s:
        task = s.task(fail)
        await task.wait()
        assert len(told) == 1
        assert (await task).error is told[0]
        await task
        del task
    assert len(told) == 1


async def test_rule_4_on_error_is_called_once_when_the_result_is_dropped() -> None:
    told: list[Exception] = []
    async with scope(on_error=told.append) as s:
        result = await s.task(fail)
        await a_moment()
        assert not told
        del result
        await a_moment()
        assert len(told) == 1
    assert len(told) == 1


async def test_rule_4_on_error_is_called_at_the_end_of_the_block_at_the_latest() -> None:
    told: list[Exception] = []
    async with scope(on_error=told.append) as s:
        result = await s.task(fail)
    assert len(told) == 1
    assert result.error is told[0]


async def test_rule_4_on_error_is_not_called_for_what_is_read() -> None:
    told: list[Exception] = []
    async with scope(on_error=told.append) as s:
        assert isinstance((await s.task(fail)).error, OSError)
    assert not told


async def test_rule_4_on_error_that_fails_is_not_called_again_and_the_error_is_raised() -> None:
    told: list[Exception] = []

    def on_error(error: Exception) -> None:
        told.append(error)
        raise RuntimeError("planned")

    with pytest.raises(ExceptionGroup, match="1 unhandled error"):
        async with scope(on_error=on_error) as s:
            await s.task(fail)
    assert len(told) == 1


async def test_rule_7_an_observer_that_exits_when_a_result_is_dropped_ends_the_block() -> None:
    with pytest.raises(SystemExit):
        async with scope(on_error=lambda error: sys.exit(3)) as s:
            await s.task(fail)
            await anyio.sleep(60)


# Combinators


async def fail_in_the_end() -> None:
    try:
        await anyio.sleep(60)
    finally:
        raise RuntimeError("clean-up")


async def test_rule_12_the_losers_of_race_and_any_are_taken() -> None:
    async with scope() as s:
        assert (await s.any([fail, fail, lambda: give(1)])).unwrap() == 1
        assert isinstance((await s.race([fail, fail, fail])).error, OSError)
        lost = await s.any([fail, fail])
        assert isinstance(lost.error, ExceptionGroup)


@pytest.mark.parametrize("method", ["race", "any"])
async def test_rule_12_a_loser_whose_clean_up_fails_is_unhandled(method: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            (await getattr(s, method)([fail_in_the_end, partial(give, 1)])).unwrap()
    assert [type(error) for error in caught.value.exceptions] == [RuntimeError]


async def every_result(s: Scope) -> None:
    await s.all(s.task(fail))
    await s.map(fail, [OSError("map")])
    async for _ in s.map(fail, [OSError("in order")]):
        pass
    async for _, _ in s.as_completed(fail, [OSError("as completed")]):
        pass
    await s.race([fail])
    await s.any([fail])


async def test_rule_12_the_results_of_combinators_are_results_like_others() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            await every_result(s)
    assert len(caught.value.exceptions) == 6
