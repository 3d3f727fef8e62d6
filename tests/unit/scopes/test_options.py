"""Options of scopes and tasks: checked, inherited, switched off."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from gogoscope import open_persistence, scope

pytestmark = pytest.mark.anyio


async def give(value: int) -> int:
    await anyio.sleep(0)
    return value


@pytest.mark.parametrize(
    ("option", "value", "error", "text"),
    [
        ("timeout", -1, ValueError, "timeout must be more than 0 seconds"),
        ("timeout", math.nan, ValueError, "timeout"),
        ("timeout", "1", TypeError, "timeout must be a number of seconds"),
        ("concurrency", 0, ValueError, "concurrency must be 1 or more"),
        ("concurrency", 1.5, TypeError, "concurrency must be an int"),
        ("retry", True, TypeError, "retry must be"),
        ("retry", 0, ValueError, "retry must be 1 or more"),
        ("circuit_breaker", "x", TypeError, "circuit_breaker must be"),
        ("on_exit", "stop", ValueError, "on_exit must be 'wait' or 'cancel'"),
        ("persistence", 3, TypeError, "persistence must be a URL"),
        ("persistence", open_persistence("memory:"), TypeError, "enter it first: async with"),
        ("name", 5, TypeError, "name must be a str"),
        ("on_error", 5, TypeError, "on_error must be a function that is not async"),
        ("on_error", give, TypeError, "on_error must be a function that is not async"),
        ("on_event", 5, TypeError, "on_event must be a function that is not async"),
        ("on_event", give, TypeError, "on_event must be a function that is not async"),
        ("unknown", 1, TypeError, "unknown"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(
    option: str, value: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        scope(**{option: value})


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("timeout", -1, ValueError),
        ("retry", 0, ValueError),
        ("retry", "3", TypeError),
        ("circuit_breaker", 1, TypeError),
        ("priority", "high", TypeError),
        ("priority", math.nan, ValueError),
        ("name", 5, TypeError),
        ("on_error", give, TypeError),
    ],
)
async def test_bad_options_of_a_task_are_refused_and_take_no_slot(
    option: str, value: Any, error: type[Exception]
) -> None:
    async with scope(concurrency=1) as s:
        with pytest.raises(error, match=option):
            s.task(give, 1, **{option: value})
        if option in ("timeout", "retry", "circuit_breaker"):
            with pytest.raises(error, match=option):
                s.map(give, [1], **{option: value})
        assert (await s.task(give, 1)).unwrap() == 1


async def test_options_are_inherited_and_can_be_switched_off() -> None:
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    async with scope(retry=3) as s:
        assert (await s.task(work, timeout=math.inf)).error is not None
        assert calls == 3
        calls = 0
        assert (await s.task(work, retry=False)).error is not None
        assert calls == 1


async def test_the_tests_of_the_rules_run_with_the_runner_on_and_off(inline: bool) -> None:
    async with scope() as s, s.child() as child:
        assert (s._inline, child._inline) == (inline, inline)
