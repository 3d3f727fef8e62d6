"""Telling a cancellation from other exceptions, on every event loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import anyio
import anyio.lowlevel

from gogoscope._core.errors import is_a, leaves_of, members_of, split_group, traceback_of
from gogoscope.exceptions import TaskCancelled

T = TypeVar("T")


def split_cancellation(
    raised: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Return the cancellation inside an exception, and the rest; either may be ``None``."""
    cancelled = anyio.get_cancelled_exc_class()
    found = {issubclass(type(leaf), cancelled) for leaf in leaves_of(raised)}
    if found == {True}:
        return raised, None
    if found == {True, False} and is_a(raised, BaseExceptionGroup):
        return split_group(raised, cancelled)
    return None, raised


def is_cancellation_of_caller(error: BaseException) -> bool:
    """Return whether an exception only says that the current code is being cancelled.

    It is that cancellation, or the :class:`TaskCancelled` of a task that was cancelled likewise, or
    a group of nothing else. So is what :func:`says_stopping`. Ask where the exception arrives,
    before any block is left.
    """
    return says_stopping(error) or (says_cancelled(error) and cancellation_requested())


def says_stopping(error: BaseException) -> bool:
    """Return whether an exception only says that something did not start in a stopping scope."""
    return all(is_a(leaf, TaskCancelled) and leaf._of_stopping for leaf in leaves_of(error))


def error_of_call(raised: BaseException) -> Exception | None:
    """Return the error that a call ended with, or ``None`` if it did not end by an error.

    It did not if the caller is being cancelled, or if the exception ends the program. A
    cancellation from inside the call that nobody asked for is an error: a ``TaskCancelled``.
    """
    if is_cancellation_of_caller(raised):
        return None
    if is_a(raised, Exception):
        return raised
    if not says_cancelled(raised):
        return None
    stray = TaskCancelled("the function ended with a cancellation nobody asked for")
    stray.__cause__ = raised
    return stray


def says_cancelled(error: BaseException) -> bool:
    """Return whether an exception says that something was cancelled, and nothing else."""
    cancelled = (anyio.get_cancelled_exc_class(), TaskCancelled)
    return all(is_a(leaf, cancelled) for leaf in leaves_of(error))


def without_echo(raised: BaseException) -> BaseException:
    """Return an exception without what only echoes a cancellation that is part of it.

    That is a ``TaskCancelled`` in one group with the event loop's own exception, which a cancel
    scope would take out of the group, and let the echo pass as an error.
    """
    if not says_cancelled(raised):
        return raised
    cancellation = split_cancellation(raised)[0]
    return raised if cancellation is None else cancellation


def is_cancellation(raised: BaseException) -> bool:
    """Return whether an exception is a cancellation by the event loop, and nothing else."""
    return split_cancellation(raised)[1] is None


def unwrapped(raised: BaseException) -> BaseException:
    """Return the only exception in a group, such as the KeyboardInterrupt of a task."""
    while is_a(raised, BaseExceptionGroup) and len(members_of(raised)) == 1:
        (raised,) = members_of(raised)
    return raised


def left_by(scope: anyio.CancelScope, leaving: BaseException | None) -> BaseException | None:
    """Leave a cancel scope with an exception; return what leaves it."""
    try:
        if leaving is None or split_cancellation(leaving)[0] is None:
            scope.__exit__(None, None, None)
        elif scope.__exit__(type(leaving), leaving, traceback_of(leaving)):
            return None
    except BaseException as rest:  # noqa: BLE001 - it is returned
        return rest
    return leaving


async def checkpoint() -> None:
    """Let other tasks run; raise a pending cancellation here."""
    await anyio.lowlevel.checkpoint()


async def checkpoint_if_cancelled() -> None:
    """Raise a pending cancellation here; else go on at once."""
    await anyio.lowlevel.checkpoint_if_cancelled()


async def pending_exception() -> BaseException | None:
    """Return the cancellation, or the Ctrl-C, that waits for a checkpoint, if there is one."""
    try:
        await checkpoint_if_cancelled()
    except BaseException as raised:  # noqa: BLE001 - it is returned
        return raised
    return None


def cancellation_requested() -> bool:
    """Return whether the current task has been cancelled."""
    return cancelled_by_scope() or cancelled_natively()


def cancelled_by_scope() -> bool:
    """Return whether a cancel scope around the current code is cancelled."""
    return anyio.current_effective_deadline() == -math.inf


def cancelled_natively() -> bool:
    """Return whether asyncio's own ``Task.cancel()``, which knows no cancel scopes, was called."""
    if not on_asyncio():
        return False
    task = sys.modules["asyncio"].current_task()  # loaded, since it runs us
    return task is not None and task.cancelling() > 0


def on_asyncio() -> bool:
    """Return whether the event loop is asyncio's, whose own cancellation knows no cancel scopes."""
    return anyio.get_cancelled_exc_class().__module__.startswith("asyncio")


async def finish(work: Callable[[], Awaitable[T]], seconds: float) -> T | None:
    """Do what must be done at the end of a block, whatever cancels the block meanwhile.

    It is shielded and bounded. asyncio's own cancellation, which knows no shield, comes once, and
    so does a ``KeyboardInterrupt``: then the work is done once more, and the exception goes on; an
    error of that second time is dropped for it.

    :param work: what is to be done; it may be called twice
    :param seconds: how long it may take
    :returns: what the work returned, or ``None`` if it took longer
    """
    try:
        return await _shielded(work, seconds)
    except (Exception, GeneratorExit):
        raise
    except BaseException:
        with suppress(Exception):
            await _shielded(work, seconds)
        raise


async def _shielded(work: Callable[[], Awaitable[T]], seconds: float) -> T | None:
    with anyio.move_on_after(seconds, shield=True):
        return await work()
    return None


def interrupts_event_loop(handler: object) -> bool:
    """Return whether a handler of SIGINT is the event loop's own, which ends the whole program."""
    function = handler.func if isinstance(handler, partial) else handler
    return getattr(function, "__module__", None) in ("asyncio.runners", "trio._core._ki")
