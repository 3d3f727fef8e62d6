"""Stopping a scope gracefully: what ``s.stop`` does.

The event ``stopping`` is set, the other tasks have some time to end, then the scope is cancelled.
"Other" are all tasks, those of the scopes inside too, but those that the caller runs in: none of
these can end while it waits. If several callers stop one scope, none waits for another, so
:class:`~gogoscope.scopes.works.Works` knows all of them. Bodies of blocks are not waited for unless
they are part of a task.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
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
    scope._check_here()
    around: list[object] = [*_frames_inside(scope)]
    blocks = [scope, *(frame for frame in around if isinstance(frame, Block))]
    innermost = blocks[1] if len(blocks) > 1 else scope
    with ExitStack() as callers:
        # A leader that stops the scope resigns when it has done so.
        callers.enter_context(innermost.stopping.in_progress())
        scope.stopping.set()
        if scope._group is None:
            return
        for block in blocks:
            inside = {work for work in block._works if work in around}
            callers.enter_context(block._works.stopped_by(inside))
        async with slots_lent():
            with anyio.move_on_after(patience):
                await _others_ended(blocks)
            if scope._group is None:
                return
            _cancel(scope, blocks)
            await checkpoint()
            await _others_ended(blocks)


async def _others_ended(blocks: Iterable[Block]) -> None:
    """Wait until no task runs in some blocks but those that the callers run in."""
    for block in blocks:
        works = block._works
        while True:
            in_body = [work for work in works if isinstance(work, Block) and _in_body(work, block)]
            await _others_ended(in_body)
            with works.stopped_by(in_body):
                if works.is_idle():
                    break
                await works.idle().wait()


def _cancel(scope: Block, blocks: Iterable[Block]) -> None:
    """Cancel a scope, but not a body that stops its own scope: it may have to clean up.

    :param blocks: the scope, and those inside that the caller runs in
    """
    if scope._cancelling:
        return
    if not scope._is_in_body() or any(isinstance(f, Outcome) for f in _frames_inside(scope)):
        scope.cancel(STOPPED)
        return
    scope.cancel_reason = STOPPED
    for block in blocks:
        block._cancel(STOPPED, body=False)


def _in_body(inner: Block, scope: Block) -> bool:
    """Return whether a block is open in the body of a scope, and not in a task."""
    frame: object = inner
    while isinstance(frame, Block) and frame is not scope:
        frame = frame._outer
    return frame is scope


def _frames_inside(scope: Block) -> list[Frame]:
    """Return what the current code runs in inside a scope, from the innermost outward.

    That is nothing if it runs elsewhere: what stands around it there is none of that scope's.
    """
    frames: list[Frame] = []
    inside = 0
    frame: Frame | None = current.get()
    while frame is not None and frame is not scope:
        frames.append(frame)
        if scope._owns(frame):
            inside = len(frames)
        frame = frame._outer
    return frames if frame is scope else frames[:inside]
