"""Rule 12: all of them, the first of them, the first that succeeds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from gogoscope import Ok, Scope, scope

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


async def fail(error: Exception) -> int:
    await anyio.sleep(0)
    raise error


Contestant = Callable[[], Awaitable[object]]


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


async def test_rule_12_all_returns_a_tuple_of_results() -> None:
    async with scope() as s:
        results = await s.all(s.task(give, 1), s.task(fail, ValueError("no")), s.task(give, 3))
        assert results[0] == Ok(None, 1)
        assert isinstance(results[1].error, ValueError)
        assert results[2] == Ok(None, 3)
        assert await s.all() == ()
        with pytest.raises(TypeError, match=r"start functions with s\.task"):
            await s.all(give)  # type: ignore[call-overload]


async def test_rule_12_all_that_is_cancelled_cancels_every_task() -> None:
    finish = Finish()
    async with scope() as s:
        tasks = [s.task(finish.sleep, str(number)) for number in range(3)]
        with anyio.move_on_after(0.01):
            await s.all(*tasks)
    assert sorted(finish.ended) == ["0", "1", "2"]


async def test_rule_12_race_returns_the_first_to_settle_and_ends_the_losers() -> None:
    finish = Finish()
    async with scope() as s:
        result = await s.race([partial(finish.sleep, "slow"), partial(finish.sleep, "fast", 0)])
        assert result == Ok(None, "fast")
        assert sorted(finish.ended) == ["fast", "slow"]
        contest: list[Contestant] = [
            partial(finish.sleep, "slow"),
            partial(fail, ValueError("first")),
        ]
        lost = await s.race(contest)
        assert isinstance(lost.error, ValueError)


async def test_rule_12_any_returns_the_first_success_or_raises_all_errors() -> None:
    finish = Finish()
    async with scope() as s:
        contest: list[Contestant] = [
            partial(fail, OSError("no")),
            partial(finish.sleep, "slow"),
            partial(give, 3),
        ]
        result = await s.any(contest)
        assert result == Ok(None, 3)
        assert finish.ended == ["slow"]
        err, _ = await s.any([partial(fail, OSError("a")), partial(fail, KeyError("b"))])
        assert isinstance(err, ExceptionGroup)
        assert {type(error) for error in err.exceptions} == {OSError, KeyError}


async def test_rule_12_stagger_starts_the_next_when_the_first_is_slow_or_failed() -> None:
    started: list[str] = []

    async def attempt(name: str, seconds: float, error: Exception | None = None) -> str:
        started.append(name)
        await anyio.sleep(seconds)
        if error is not None:
            raise error
        return name

    async with scope() as s:
        result = await s.any([partial(attempt, "a", 0), partial(attempt, "b", 0)], stagger=10)
        assert (result.value, started) == ("a", ["a"])
        started.clear()
        with anyio.fail_after(5):
            result = await s.any(
                [partial(attempt, "a", 0, OSError()), partial(attempt, "b", 0)], stagger=100
            )
        assert (result.value, started) == ("b", ["a", "b"])
        started.clear()
        with anyio.fail_after(5):
            race = [partial(attempt, "a", 60), partial(attempt, "b", 60), partial(attempt, "c", 0)]
            result = await s.race(race, stagger=0.01)
        assert (result.value, started) == ("c", ["a", "b", "c"])


@pytest.mark.parametrize("name", ["race", "any"])
async def test_rule_12_a_contest_needs_somebody(name: str) -> None:
    async with scope() as s:
        with pytest.raises(ValueError, match=f"s.{name} needs at least one function"):
            await getattr(s, name)([])


async def test_rule_12_a_contest_that_is_cancelled_ends_everybody() -> None:
    finish = Finish()
    async with scope() as s:
        with anyio.move_on_after(0.01):
            await s.race([partial(finish.sleep, "a"), partial(finish.sleep, "b")])
        assert sorted(finish.ended) == ["a", "b"]


async def test_rule_12_all_loses_no_error_when_a_function_was_no_task() -> None:
    def plain() -> Any:
        return 5

    with pytest.raises(TypeError, match="cannot be awaited") as caught:
        async with scope() as s:
            await s.all(s.task(fail, ValueError("of another")), s.task(plain))
    assert any("of another" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("combine", [Scope.race, Scope.any])
async def test_rule_12_all_functions_are_checked_before_the_first_starts(combine: Any) -> None:
    started: list[int] = []

    async def start() -> None:
        started.append(1)

    async with scope() as s:
        with pytest.raises(TypeError, match=rf"s\.{combine.__name__}\(\[partial\(start, \*args\)"):
            await combine(s, [start, start()])
        with pytest.raises(TypeError, match=r"s\.every\(interval, partial\(start, \*args\)\)"):
            s.every(1, start())  # type: ignore[arg-type]
    assert not started
