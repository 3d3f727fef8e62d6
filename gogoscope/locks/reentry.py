"""Refusing a task that would wait for a lock which it holds itself."""

from __future__ import annotations

from contextvars import ContextVar

import anyio
from attrs import define

from gogoscope._core.context import current
from gogoscope.exceptions import LockError
from gogoscope.persistence.protocols.locks import LockProvider


@define(eq=False)
class Mark:
    """Says that a task holds a lock, for as long as its block is open.

    The tasks that it starts inherit its marks, so a mark names its task: the event loop's, and how
    deep inside it, since a task may run inside its awaiter. And the id of a task that has ended may
    become that of a new one, so a mark is closed with its block.
    """

    provider: int
    kind: str
    key: str
    task: tuple[int, int]
    open: bool = True


held: ContextVar[tuple[Mark, ...]] = ContextVar("held", default=())
"""The blocks of locks around the running code, and around what started its task."""


def mark_of(provider: object, kind: str, key: str) -> Mark:
    """Return the mark for a block of the current task.

    :param provider: the store
    :param kind: what is held, such as ``lock``
    """
    frame = current.get()
    task = (anyio.get_current_task().id, 0 if frame is None else frame._depth)
    return Mark(id(provider), kind, key, task)


def held_by_task(mark: Mark) -> int:
    """Return how many blocks of the current task hold the same."""
    same = (mark.provider, mark.kind, mark.key, mark.task)
    return sum(
        one.open and (one.provider, one.kind, one.key, one.task) == same for one in held.get()
    )


def refuse_reentry(provider: LockProvider, key: str) -> Mark:
    """Raise if the current task holds the lock already; return the mark for its block.

    :raises LockError: waiting for it would never end
    """
    mark = mark_of(provider, "lock", key)
    if held_by_task(mark):
        raise LockError(f"this task holds the lock {key!r} already; waiting for it would never end")
    return mark
