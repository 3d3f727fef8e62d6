"""What is written to errors: notes, tracebacks, contexts.

An error may refuse to have its attributes set, for example if it is a frozen dataclass. So these
attributes are set as the interpreter does it.
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
    """Return the ``repr`` of an error, or a substitute if that fails."""
    try:
        return repr(error)
    except Exception:  # noqa: BLE001 - any error must be described
        return f"<{type(error).__name__}, whose repr fails>"


def forget_own_frames(error: BaseException, caller: types.FrameType) -> None:
    """Remove the frames of this package from the tracebacks of an error and of its contexts.

    They say nothing about the code of the user, and they keep the scope alive as long as the error.

    :param caller: the frame whose call has ended and raised the error
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


def has_only_own_frames(error: BaseException) -> bool:
    """Return whether an error was raised in this package, without code of the user in between."""
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback is not None and _is_own(traceback.tb_frame):
        traceback = traceback.tb_next
    return traceback is None


def _clear_callers(frame: types.FrameType, last: types.FrameType) -> None:
    """Clear the frames of this package between two frames; they have returned.

    Since Python 3.12, the frame of a failed coroutine keeps the frames that awaited it.
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
    """Return the first that is not ``None``; an error may be falsy, if its length is 0."""
    for error in errors:
        if error is not None:
            return error
    return None


def leads_to(error: BaseException, earlier: BaseException) -> bool:
    """Return whether the contexts of an error lead to an earlier one."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        if following is earlier:
            return True
        seen.add(id(following))
        following = BaseException.__getattribute__(following, "__context__")
    return False


def lead_to(error: BaseException, earlier: BaseException | None) -> None:
    """Make an earlier error reachable from a later one through its contexts."""
    if earlier is not None:
        ErrorChain(earlier).add(error)


class ErrorChain:
    """Links the errors of the attempts of one call, so that the last one leads to all others."""

    __slots__ = ("_last", "_linked")

    def __init__(self, first: BaseException) -> None:
        self._last = first
        self._linked: dict[int, BaseException] = {}
        self._link(first)

    def add(self, error: BaseException) -> None:
        """Link the error of the next attempt to the earlier ones."""
        end = self._link(error)
        if end is not None:  # the earlier ones lead to all its other contexts
            _set(end, "__context__", self._last)
        self._last = error

    def _link(self, error: BaseException) -> BaseException | None:
        """Return the last context of an error that was not linked before."""
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
