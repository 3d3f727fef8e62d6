"""Stopping a scope gracefully: what ``s.stop`` does.

The event ``stopping`` is set, the other tasks have some time to end, then the scope is cancelled.
"Other" are all tasks but those that the caller runs in: none of these can end while it waits. If
several callers stop one scope, none waits for another, so :class:`~gogoscope.scopes.works.Works`
knows all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import anyio

from gogoscope._core.cancellation import checkpoint
from gogoscope._core.context import Frame, current, slots_lent
from gogoscope._core.durations import seconds
from gogoscope.scopes.block import Block
from gogoscope.scopes.outcome import Outcome

STOPPED = "the scope was stopped"


async def stop(scope: Block, grace: float | timedelta) -> None:
    """Set a scope's ``stopping``, wait for its other tasks, and cancel it.

    :param grace: seconds to wait
    """
    patience = seconds("grace", grace, zero=True, infinite=True)
    scope.stopping.set()
    if scope._group is None:
        return
    around = set(_frames_inside(scope))
    with scope._works.stopped_by({work for work in scope._works if work in around}):
        async with slots_lent():
            with anyio.move_on_after(patience):
                await _wait_for_others(scope)
            if scope._group is None:
                return
            if not scope._cancelling:
                scope.cancel_reason = STOPPED
                # A body that stops its own scope goes on: what it does next may be its clean-up.
                scope._cancel(STOPPED, body=not _is_body(scope))
            await checkpoint()
            await _wait_for_others(scope)


async def _wait_for_others(scope: Block) -> None:
    while not scope._works.is_idle():
        await scope._works.idle().wait()


def _frames_inside(scope: Block) -> Iterator[object]:
    """Yield what the current code runs in, from the innermost outwards, inside a scope."""
    frame: Frame | None = current.get()
    while frame is not None and frame is not scope:
        yield frame
        frame = frame._outer


def _is_body(scope: Block) -> bool:
    """Return whether the current code is the body of a scope, or of a block in that body."""
    if not scope._is_in_body():
        return False
    return not any(isinstance(frame, Outcome) for frame in _frames_inside(scope))
