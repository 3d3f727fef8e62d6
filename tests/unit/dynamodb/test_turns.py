"""Writes of one key go one after another, each under a name of its own."""

from __future__ import annotations

import anyio
import pytest

from gogoscope.exceptions import CorruptRecordError, StoreTimeoutError
from gogoscope_dynamodb import turns
from gogoscope_dynamodb.turns import Turns

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


async def test_names_of_a_key_are_the_time_made_unique() -> None:
    clock = Clock()
    given = Turns(clock)
    names = []
    for step in (0, 0, 5, 0, -100, 0):
        clock.ms += step
        async with given.turn("k") as name:
            names.append(name)
    assert names[0] == 1_000_000
    assert names[2] == 1_000_005
    assert len(set(names)) == len(names)


async def test_turns_of_one_key_do_not_overlap_and_those_of_others_do() -> None:
    given = Turns(Clock())
    inside: set[str] = set()
    met = anyio.Event()

    async def write(key: str) -> None:
        async with given.turn(key):
            assert key not in inside
            inside.add(key)
            if len(inside) == 2:
                met.set()
            await met.wait()
            inside.remove(key)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for key in ("a", "b", "a", "b", "a"):
                tasks.start_soon(write, key)


async def test_concurrent_writes_of_a_key_have_different_names() -> None:
    given = Turns(Clock())
    names: list[int] = []

    async def write() -> None:
        async with given.turn("k") as name:
            await anyio.lowlevel.checkpoint()
            names.append(name)

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(write)
    assert len(set(names)) == 20


async def test_writes_that_waited_while_the_store_failed_fail_too() -> None:
    given = Turns(Clock())
    started, outcomes = anyio.Event(), []

    async def fail() -> None:
        with pytest.raises(StoreTimeoutError, match="silent"):
            async with given.turn("k"):
                started.set()
                await anyio.wait_all_tasks_blocked()
                raise StoreTimeoutError("silent")

    async def wait() -> None:
        await started.wait()
        try:
            async with given.turn("k"):
                outcomes.append("written")
        except StoreTimeoutError as error:
            outcomes.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        tasks.start_soon(wait)
        tasks.start_soon(wait)
    assert outcomes == ["the write before this one failed: silent"] * 2
    async with given.turn("k"):
        outcomes.append("written")
    assert outcomes[-1] == "written"


async def test_an_error_of_the_caller_fails_no_other_write() -> None:
    given = Turns(Clock())
    started, outcomes = anyio.Event(), []

    async def fail() -> None:
        with pytest.raises(CorruptRecordError):
            async with given.turn("k"):
                started.set()
                await anyio.wait_all_tasks_blocked()
                raise CorruptRecordError("broken")

    async def wait() -> None:
        await started.wait()
        async with given.turn("k"):
            outcomes.append("written")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)
        tasks.start_soon(wait)
    assert outcomes == ["written"]


async def test_a_cancelled_turn_passes_to_the_next() -> None:
    given = Turns(Clock())
    with anyio.move_on_after(0.01) as scope:
        async with given.turn("k"):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    with anyio.fail_after(5):
        async with given.turn("k"):
            pass


@pytest.mark.parametrize("step", [1, 0, -1], ids=["forwards", "still", "backwards"])
async def test_memory_does_not_grow_with_the_keys(
    step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "REMEMBERED", 50)
    clock = Clock()
    given = Turns(clock)
    for number in range(300):
        clock.ms += step
        async with given.turn(f"k{number}"):
            pass
    assert not given._lanes
    assert len(given._last_names) <= (1 if step > 0 else 50)


async def test_a_write_whose_name_another_store_used_gets_one_that_no_later_turn_has() -> None:
    given = Turns(lambda: 1000)
    async with given.turn("k") as name:
        other = given.rename("k", 1000)
        assert name < other
    async with given.turn("k") as following:
        assert following > other
