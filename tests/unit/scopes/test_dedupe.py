"""Rule 11: calls with one key share one run."""

from __future__ import annotations

import sys
from functools import partial
from typing import Literal

import anyio
import pytest

from gogoscope import Scope, Task, TaskCancelled, scope
from gogoscope.events import Event, TaskFailed, TaskStopped

pytestmark = pytest.mark.anyio


async def fail(error: Exception) -> int:
    await anyio.sleep(0)
    raise error


class Finish:
    """Notes what ended, cancelled or not."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def sleep(self, name: str, seconds: float = 10) -> str:
        try:
            await anyio.sleep(seconds)
        finally:
            self.ended.append(name)
        return name


async def test_rule_11_calls_with_one_key_share_one_run() -> None:
    calls = 0
    release = anyio.Event()

    async def load(value: int) -> int:
        nonlocal calls
        calls += 1
        await release.wait()
        return value

    async with scope() as s:
        tasks = [s.task(load, number, dedupe="key") for number in range(5)]
        other = s.task(load, 7, dedupe="other")
        await anyio.sleep(0.01)
        release.set()
        assert [(await task).unwrap() for task in tasks] == [0] * 5
        assert len({id(task) for task in tasks}) == 5
        assert (await other).unwrap() == 7
        assert (await s.task(load, 9, dedupe="key")).unwrap() == 9
    assert calls == 3


async def test_rule_11_one_that_is_cancelled_does_not_take_it_from_the_others() -> None:
    release = anyio.Event()

    async def load() -> int:
        await release.wait()
        return 5

    async with scope() as s:
        first, second, third = (s.task(load, dedupe="key") for _ in range(3))
        await anyio.sleep(0.01)
        first.cancel()
        with anyio.move_on_after(0.01):
            await second
        assert isinstance((await first).error, TaskCancelled)
        release.set()
        assert (await third).unwrap() == 5


async def test_rule_11_when_all_are_cancelled_the_run_is_too() -> None:
    finish = Finish()
    async with scope() as s:
        tasks = [s.task(finish.sleep, "run", dedupe="key") for _ in range(3)]
        await anyio.sleep(0.01)
        for task in tasks:
            task.cancel()
    assert finish.ended == ["run"]


async def test_rule_11_reading_through_one_handle_reads_for_all() -> None:
    error = ValueError("shared")
    async with scope() as s:
        first, second = (s.task(fail, error, dedupe="key") for _ in range(2))
        assert (await first).error is error
        await second


async def test_rule_11_an_error_of_a_shared_run_is_raised_once() -> None:
    error = ValueError("shared")
    with pytest.raises(ExceptionGroup) as caught:
        async with scope() as s:
            for _ in range(3):
                s.task(fail, error, dedupe="key")
    assert caught.value.exceptions == (error,)


async def test_rule_11_awaiting_oneself_is_an_error() -> None:
    async def load(s: Scope) -> int:
        return (await s.task(load, s, dedupe="key")).unwrap()

    async with scope() as s:
        with anyio.fail_after(5):
            err, _ = await s.task(load, s, dedupe="key")
        assert isinstance(err, RuntimeError)
        assert "waits for itself" in str(err)


async def test_rule_11_handles_end_in_the_order_in_which_they_joined() -> None:
    async def bad() -> None:
        await anyio.sleep(0)
        raise ValueError("planned")

    order: list[int] = []

    def note(number: int, error: Exception) -> None:
        order.append(number)

    async with scope() as s:
        for number in range(12):
            s.task(bad, dedupe="k", on_error=partial(note, number))
    assert order == list(range(12))


async def test_rule_11_a_handle_that_is_cancelled_while_others_end_has_one_result() -> None:
    async def bad() -> None:
        await anyio.sleep(0)
        raise ValueError("planned")

    handles: list[Task[None]] = []
    ended: list[str] = []

    def cancel_the_others(event: Event) -> None:
        if isinstance(event, TaskFailed | TaskStopped):
            ended.append(type(event).__name__)
        if ended.count("TaskFailed") == 2:  # of the run, and of one handle
            for handle in handles:
                handle.cancel("one failed")

    async with scope(on_error=lambda error: None, on_event=cancel_the_others) as s:
        handles.extend(s.task(bad, dedupe="k") for _ in range(3))
    assert [handle.state for handle in handles] == ["failed", "cancelled", "cancelled"]
    assert sorted(ended) == ["TaskFailed", "TaskFailed", "TaskStopped", "TaskStopped"]


async def test_rule_8_after_cancel_a_call_that_would_join_gets_a_finished_task() -> None:
    async def forever() -> None:
        await anyio.sleep_forever()

    async with scope() as s:
        s.task(forever, dedupe="k")
        await anyio.sleep(0)
        s.cancel("enough")
        late = s.task(forever, dedupe="k")
        assert late.done
        assert str((await late).error) == "enough"


@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "in a group"])
async def test_rule_11_what_does_not_start_in_a_stopping_scope_is_no_error_of_any_handle(
    grouped: bool,
) -> None:
    async def lead() -> None:
        async with s.leader("billing"):
            raise AssertionError("it leads")

    async def lead_in_a_group() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lead)

    with anyio.fail_after(5):
        async with scope() as s:
            s.stopping.set()
            handles = [s.task(lead_in_a_group if grouped else lead, dedupe="k") for _ in range(3)]
            for handle in handles:
                await handle.wait()
                assert handle.state == "cancelled"
            (await handles[0]).unwrap()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_rule_11_every_handle_ends_though_the_observer_of_one_exits(
    backend: Literal["asyncio", "trio"],
) -> None:
    handles: list[Task[None]] = []

    async def bad() -> None:
        await anyio.sleep(0)
        raise ValueError("planned")

    async def main() -> None:
        async with scope(on_error=lambda error: sys.exit(3)) as s:
            handles.extend(s.task(bad, dedupe="k") for _ in range(3))

    with pytest.raises(SystemExit):
        anyio.run(main, backend=backend)
    assert [handle.done for handle in handles] == [True, True, True]
