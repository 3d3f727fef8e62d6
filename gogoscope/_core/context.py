"""What the current code runs in: a task, or the body of a scope, and the slots held around it.

The frames of running code form a chain, from the innermost outward: a task stands in the body of
its scope, the body of a scope in the task (or the body) that opened the scope's block.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol

from gogoscope._core.background import Home
from gogoscope._core.slots import Slot, Slots


class Frame(Protocol):
    """A task, or the body of a scope."""

    @property
    def _outer(self) -> Frame | None:
        """The frame around it."""
        ...

    @property
    def _home(self) -> Home:
        """The scope that it belongs to, as capabilities know it."""
        ...

    @property
    def _inside(self) -> set[Frame]:
        """The bodies of scopes whose blocks are open directly inside it."""
        ...

    @property
    def _slot(self) -> Slot | None:
        """The slot that it holds itself."""
        ...

    @property
    def _bounded_by(self) -> Slots | None:
        """The slots that it needs one of to run; ``None`` where nothing bounds it."""
        ...


current: ContextVar[Frame | None] = ContextVar("current", default=None)


def lent_to(slots: Slots | None) -> AbstractAsyncContextManager[None]:
    """Lend the slot in ``slots`` that the current task holds, or a task around it."""
    frame = None if slots is None else current.get()
    while frame is not None:
        slot = frame._slot
        if slot is not None and slot.slots is slots:
            return slot.lent()
        if frame._bounded_by is slots:
            break  # it runs without a slot; that of a task around it is in use
        frame = frame._outer
    return nullcontext()


@asynccontextmanager
async def slots_lent() -> AsyncIterator[None]:
    """Lend the slots of the current task and of those around it while the caller waits."""
    async with AsyncExitStack() as stack:
        frame = current.get()
        while frame is not None:
            if frame._slot is not None:
                await stack.enter_async_context(lent_to(frame._slot.slots))
            frame = frame._outer
        yield
