"""Task groups that asyncio's own ``Task.cancel()`` of one of their tasks does not cut.

It knows no task groups: whoever cancels all tasks of a program, say, cancels those of a library,
too, even before their first step. Then anyio cancels the rest of the group, and says so to nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TypeAlias

from gogoscope._core.cancellation import unwrapped
from gogoscope._core.errors import raise_again
from gogoscope._core.event_loop import running
from gogoscope._core.interrupts import uninterrupted
from gogoscope._core.launches import Launch, end_what_never_began

Call: TypeAlias = Callable[[], Awaitable[object]]


async def run_all(calls: Iterable[Call]) -> None:
    """Run functions side by side, each to its end.

    :param calls: what raises nothing; if there is only one, it is called here
    """
    left = list(calls)
    if len(left) > 1:
        handles: list[Launch] = []
        async with running().open_group(_do_nothing) as group:
            handles += [
                group.create_task(_run(call, left), name="one of several calls")
                for call in list(left)
            ]
        end_what_never_began([(handle, _do_nothing) for handle in handles])
    for call in left:  # and what asyncio itself cancelled before its first step: that comes once
        await call()


class Companion:
    """Runs a function beside some code, in a task of its own that ends before the code goes on.

    :param work: raises nothing, and ends when it is told so
    :param name: the name of the task
    :param never_begun: called if asyncio itself cancelled the task before its first step
    """

    # Set on beginning: _handle (of its task).

    def __init__(
        self,
        work: Call,
        name: str,
        never_begun: Callable[[], object],
    ) -> None:
        self._work = work
        self._name = name
        self._never_begun = never_begun
        self._loop = running()
        self._group = self._loop.open_group(self._look_for_it)
        self._handle: Launch | None = None

    async def begin(self) -> None:
        """Start it, in the task in which it is to :meth:`end`."""
        await self._group.__aenter__()
        self._handle = self._group.create_task(self._run(), name=self._name)

    async def end(self) -> None:
        """Wait for its end.

        :raises BaseException: a cancellation from outside, or an interrupt
        """
        try:
            await self._group.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            raise_again(unwrapped(group))

    @uninterrupted
    async def _run(self) -> None:
        await self._work()

    def _look_for_it(self) -> None:
        if self._handle is not None:
            launched = [(self._handle, self._never_begun)]
            self._loop.call_soon(partial(end_what_never_began, launched))


@uninterrupted
async def _run(call: Call, left: list[Call]) -> None:
    left.remove(call)
    await call()


def _do_nothing() -> None:
    """Do nothing: it is found afterwards."""
