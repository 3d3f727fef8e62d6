"""What the current code runs in: a task, or the body of a scope, and the slots held around it.

The frames of running code form a chain, from the innermost outward: a task stands in the body of
its scope, the body of a scope in the task (or the body) that opened the scope's block.
"""

from __future__ import annotations

import functools
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import ContextVar
from threading import get_ident
from typing import Protocol

from gogoscope._core import place
from gogoscope._core.background import Home, Observer, ProcessObserver
from gogoscope._core.forks import after_fork
from gogoscope._core.slots import Lent, Slot, Slots
from gogoscope.events import subscribers


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
    def _number(self) -> int:
        """Its number in events."""
        ...

    _depth: int
    """How many tasks run inside each other here, each inside its awaiter."""

    @property
    def _slot(self) -> Slot | None:
        """The slot that it holds itself."""
        ...

    @property
    def _bounded_by(self) -> Slots | None:
        """The slots that it needs one of to run; ``None`` where nothing bounds it."""
        ...


current: ContextVar[Frame | None] = place.current

get_current, set_current = current.get, current.set  # quicker for what is called for each task

# A forked process goes on in the context of what forked it, but in no scope of its parent.
after_fork(functools.partial(current.set, None))


_process = ProcessObserver()


def observer_here() -> Observer | None:
    """Return what receives the events of the code that runs here; ``None`` if nobody listens."""
    frame = get_current()
    if frame is None:
        return _process if subscribers else None
    home = frame._home
    return home if subscribers or home.on_event is not None else None


def slots_around() -> list[Slot]:
    """Return the slots held around the running code, from the innermost outward.

    One of each limit: the others of that limit are held by tasks further out, which may be running.
    For the same reason none is looked for beyond a task that runs without the slot that the limit
    of its scope asks for, as what ticks does, or takes the items of a map from their source; and
    none beyond one of another event loop: a worker thread of that may run a loop of its own.
    """
    held: list[Slot] = []
    frame = current.get()
    while frame is not None:
        slot = frame._slot
        if slot is None:
            if frame._bounded_by is not None:
                break
        elif slot.thread != get_ident():
            break
        elif not any(slot.slots is other.slots for other in held):
            held.append(slot)
        frame = frame._outer
    return held


def slots_lent() -> AbstractAsyncContextManager[None]:
    """Lend every slot held around the running code while it waits for other tasks.

    Everything in this package that waits for something that a task may bring about waits inside
    this. A wait for time alone lends nothing: it ends by itself.
    """
    held = slots_around()
    return Lent(held) if held else nullcontext()
