"""Calling a hook after each step of a program, to make something happen at any of its moments."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, cast

import anyio


class Stepped(Coroutine[Any, Any, Any]):
    """A coroutine that tells when it has taken a step."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], after: Callable[[], object]) -> None:
        self._coroutine = coroutine
        self._after = after

    def send(self, value: Any) -> Any:
        try:
            return self._coroutine.send(value)
        finally:
            self._after()

    def throw(self, *raised: Any) -> Any:
        try:
            return self._coroutine.throw(*raised)
        finally:
            self._after()

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)


@contextmanager
def calling_after_each_step(hook: Callable[[], object]) -> Iterator[None]:
    """Call a hook after each step of the tasks that start in the block."""
    if "asyncio" in anyio.get_cancelled_exc_class().__module__:
        import asyncio

        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(
            lambda loop, coroutine, **options: asyncio.Task(
                Stepped(cast("Coroutine[Any, Any, Any]", coroutine), hook), loop=loop, **options
            )
        )
        try:
            yield
        finally:
            loop.set_task_factory(before)
    else:
        import trio

        class Steps(trio.abc.Instrument):
            def __init__(self) -> None:
                self.tasks: set[object] = set()

            def task_spawned(self, task: object) -> None:
                self.tasks.add(task)

            def after_task_step(self, task: object) -> None:
                if task in self.tasks:
                    hook()

        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        try:
            yield
        finally:
            trio.lowlevel.remove_instrument(steps)
