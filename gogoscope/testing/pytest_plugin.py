"""Fixtures for programs that use scopes; what they need is imported when one of them is used.

An async test that asks for the virtual clock runs in virtual time, whichever plugin runs it: those
of anyio and pytest-asyncio both call the test's function, which is wrapped before that.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from gogoscope.testing import VirtualClock


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """Run the test in virtual time, if it is async; else ``virtual_clock.run(main)``.

    The test's fixtures are set up and torn down in real time. Override this fixture for a clock
    with options: ``return VirtualClock(start=0, patience=0.1)``.
    """
    from gogoscope.testing.virtual_clock import VirtualClock  # noqa: PLC0415 - only when used

    return VirtualClock()


@pytest.fixture
def instant_retries() -> Iterator[None]:
    """Make every delay between attempts zero during the test."""
    from gogoscope.testing.instant_retries import (  # noqa: PLC0415 - only when used
        instant_retries,
    )

    with instant_retries():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run an async test that asks for the virtual clock in virtual time."""
    clock = getattr(item, "funcargs", {}).get("virtual_clock")
    if clock is None:
        return (yield)
    holder, name = _where_the_function_is(item)
    test = getattr(holder, name)
    if inspect.iscoroutinefunction(test):
        setattr(holder, name, _in_virtual_time(clock, test))
    try:
        return (yield)
    finally:
        setattr(holder, name, test)


def _where_the_function_is(item: Any) -> tuple[Any, str]:
    """Return the object and its attribute that the plugin for async tests calls."""
    hypothesis = getattr(item.obj, "hypothesis", None)
    return (item, "obj") if hypothesis is None else (hypothesis, "inner_test")


def _in_virtual_time(clock: VirtualClock, test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def run(*args: Any, **kwargs: Any) -> None:
        with clock.installed():
            await test(*args, **kwargs)

    return run
