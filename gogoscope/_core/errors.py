"""What is written onto errors: notes, tracebacks, contexts.

An error may refuse attributes, as one that is a frozen dataclass does; what the interpreter itself
writes onto it must be set past that.
"""

from __future__ import annotations

import types
from typing import Any


def annotate(error: BaseException, note: str) -> None:
    """Add a note to an error, once."""
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list | tuple):
        notes = ()
    if note not in notes:
        _set(error, "__notes__", [*notes, note])


def description(error: BaseException) -> str:
    """Return the ``repr`` of an error, also if that fails."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - the error is described all the same
        return f"<{type(error).__name__}, whose repr fails>"


def forget_own_frames(error: BaseException, caller: types.FrameType) -> None:
    """Take this package's frames off the tracebacks of an error and of those that led to it.

    They tell nothing about the caller's code, and would keep the scope for as long as the error.

    :param caller: the frame whose call, which is over, raised the error
    """
    seen: set[int] = set()
    unvisited: list[BaseException | None] = [error]
    while unvisited:
        raised = unvisited.pop()
        if raised is None or id(raised) in seen:
            continue
        seen.add(id(raised))
        traceback = raised.__traceback__
        while traceback is not None and _is_own(traceback.tb_frame):
            traceback = traceback.tb_next
        _set(raised, "__traceback__", traceback)
        if traceback is not None:
            _clear_callers(traceback.tb_frame, caller)
        unvisited += [raised.__cause__, raised.__context__]


def _clear_callers(frame: types.FrameType, last: types.FrameType) -> None:
    """Let go of what this package's frames between two frames hold; those have returned.

    Since Python 3.12 the frame of a coroutine that failed keeps those that awaited it.
    """
    between: list[types.FrameType] = []
    caller = frame.f_back
    while caller is not None and caller is not last and _is_own(caller):
        between.append(caller)
        caller = caller.f_back
    if caller is last:
        for returned in between:
            returned.clear()


def first_of(*errors: BaseException | None) -> BaseException | None:
    """Return the first that there is; an error may be false, as one with a length of 0 is."""
    return next((error for error in errors if error is not None), None)


def lead_to(error: BaseException, earlier: BaseException | None) -> None:
    """Make an earlier error reachable from a later one through its contexts."""
    if earlier is not None:
        ErrorChain(earlier).add(error)


class ErrorChain:
    """Makes the errors of one call's tries reachable from the last, each through its context."""

    __slots__ = ("_last", "_linked")

    def __init__(self, first: BaseException) -> None:
        self._last = first
        self._linked: dict[int, BaseException] = {}
        self._link(first)

    def add(self, error: BaseException) -> None:
        """Let the error of the next try lead to those of the tries before."""
        end = self._link(error)
        if end is not None:  # what it leads to besides, those before lead to as well
            _set(end, "__context__", self._last)
        self._last = error

    def _link(self, error: BaseException) -> BaseException | None:
        """Return the last of an error's own contexts that was not linked before."""
        end: BaseException | None = None
        following: BaseException | None = error
        while following is not None and id(following) not in self._linked:
            self._linked[id(following)] = end = following
            following = following.__context__
        return end


def _set(error: BaseException, name: str, value: Any) -> None:
    BaseException.__setattr__(error, name, value)


def _is_own(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("gogoscope.")
