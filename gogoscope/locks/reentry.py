"""Telling that a task waits for a lock which it holds itself."""

from __future__ import annotations

from contextvars import ContextVar

import anyio
from attrs import define

from gogoscope.exceptions import LockError
from gogoscope.persistence.protocols.locks import LockProvider


@define(eq=False)
class Mark:
    """Says that a task holds a lock, for as long as its block is open.

    Tasks inherit it, and the id of an ended task may be given to a new one.
    """

    provider: int
    key: str
    task: int
    open: bool = True


held: ContextVar[tuple[Mark, ...]] = ContextVar("held", default=())


def refuse_reentry(provider: LockProvider, key: str) -> Mark:
    """Raise if the current task holds the lock already; give what marks that it does.

    :raises LockError: waiting for it would never end
    """
    task = anyio.get_current_task().id
    for mark in held.get():
        if mark.open and (mark.provider, mark.key, mark.task) == (id(provider), key, task):
            raise LockError(
                f"this task holds the lock {key!r} already; waiting for it would never end"
            )
    return Mark(id(provider), key, task)
