"""What is written to errors: notes, tracebacks, contexts.

An error is an object of the user. It may refuse to have its attributes set, and its attributes,
its text and its comparison may be code that raises anything. So nothing of it is looked at but
what the interpreter itself keeps in it, and that as the interpreter does it.
"""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Iterator
from typing import NoReturn, TypeGuard, TypeVar

KEPT_ATTEMPTS = 10
"""How many errors of the attempts of one call are kept whole."""

_attributes = vars(BaseException)["__dict__"]
_traceback = vars(BaseException)["__traceback__"]
_cause = vars(BaseException)["__cause__"]
_context = vars(BaseException)["__context__"]
_hides_context = vars(BaseException)["__suppress_context__"]
_arguments = vars(BaseException)["args"]
_members = vars(BaseExceptionGroup)["exceptions"]
_message = vars(BaseExceptionGroup)["message"]


E = TypeVar("E", bound=BaseException)


def is_a(error: object, kind: type[E] | tuple[type[E], ...]) -> TypeGuard[E]:
    """Return whether an error is of a kind; ``isinstance`` would ask the error, too."""
    return issubclass(type(error), kind)


def members_of(group: BaseExceptionGroup[BaseException]) -> tuple[BaseException, ...]:
    """Return the errors in a group."""
    members: tuple[BaseException, ...] = _members.__get__(group)
    return members


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Return what is in a group and in the groups inside; an exception that is none, itself."""
    unvisited = [error]
    while unvisited:
        found = unvisited.pop()
        if is_a(found, BaseExceptionGroup):
            unvisited += reversed(members_of(found))
        else:
            yield found


def split_group(
    group: BaseExceptionGroup[BaseException], kind: type[BaseException]
) -> tuple[BaseException | None, BaseException | None]:
    """Return a group of the errors in a group that are of a kind, and one of the others.

    A group of a class of its own makes its parts itself. If it cannot, they are plain and flat.
    """
    try:
        return BaseExceptionGroup.split(group, kind)
    except BaseException:  # noqa: BLE001 - of the code of the user, or too deep
        found: list[BaseException] = []
        others: list[BaseException] = []
        for leaf in leaves_of(group):
            (found if is_a(leaf, kind) else others).append(leaf)
        return _part_of(group, found), _part_of(group, others)


def _part_of(
    group: BaseExceptionGroup[BaseException], errors: list[BaseException]
) -> BaseException | None:
    if not errors:
        return None
    part = BaseExceptionGroup(_message.__get__(group), errors)
    for attribute in (_traceback, _cause, _context):
        attribute.__set__(part, attribute.__get__(group))
    return part


def traceback_of(error: BaseException) -> types.TracebackType | None:
    """Return the traceback of an error."""
    traceback: types.TracebackType | None = _traceback.__get__(error)
    return traceback


def forget_traceback(error: BaseException) -> None:
    """Remove the traceback of an error, which is to be raised once more."""
    _traceback.__set__(error, None)


def arguments_of(error: BaseException) -> tuple[object, ...]:
    """Return the arguments that an error was made with."""
    arguments: tuple[object, ...] = _arguments.__get__(error)
    return arguments


def raise_again(error: BaseException) -> NoReturn:
    """Raise an error that shows what it has shown before: its cause, or else its context.

    ``raise`` makes what is handled here its context, and ``raise ... from`` hides that.

    :raises BaseException: the error
    """
    context, hides = _context.__get__(error), _hides_context.__get__(error)
    try:
        raise error
    finally:
        _context.__set__(error, context)
        _hides_context.__set__(error, hides)
        del error, context  # it keeps this frame


def annotate(error: BaseException, note: str, most: int) -> None:
    """Add a note to an error, once, unless it has as many notes of that kind.

    :param note: its first word is its kind
    :param most: how many notes of a kind an error has, whoever holds it
    """
    attributes = _attributes.__get__(error)
    found = dict.get(attributes, "__notes__", ())
    notes = list(found) if type(found) in (list, tuple) else []
    texts = [text for text in notes if type(text) is str]
    kind = note.partition(" ")[0] + " "
    if note not in texts and sum(text.startswith(kind) for text in texts) < most:
        dict.__setitem__(attributes, "__notes__", [*notes, note])


def forget_own_frames(error: BaseException, caller: types.FrameType) -> None:
    """Remove the frames of this package from the tracebacks of an error and of its contexts.

    They say nothing about the code of the user, and they keep the scope alive as long as the error.

    :param caller: the frame whose call has ended and raised the error
    """
    for raised in led_to_by(error, contexts=True):
        traceback = _from_user(traceback_of(raised))
        _traceback.__set__(raised, traceback)
        if traceback is not None:
            _clear_callers(traceback.tb_frame, caller)


def led_to_by(error: BaseException, *, contexts: bool) -> Iterator[BaseException]:
    """Return an error, and the errors that it leads to through causes and groups.

    :param contexts: whether to follow contexts, too; the event loop may set some by accident
    """
    seen: set[int] = set()
    unvisited: list[BaseException | None] = [error]
    while unvisited:
        found = unvisited.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        unvisited.append(_cause.__get__(found))
        if contexts:
            unvisited.append(_context.__get__(found))
        if is_a(found, BaseExceptionGroup):
            unvisited += members_of(found)


class Origin:
    """Where an error came from, before others raised it again.

    :param error: the error, as it is now
    :param of_user: whether the frames of this package that led to it are left out
    """

    __slots__ = ("_context", "_traceback")

    def __init__(self, error: BaseException, *, of_user: bool = False) -> None:
        traceback = traceback_of(error)
        self._traceback = _from_user(traceback) if of_user else traceback
        self._context = _context.__get__(error)

    def restore(self, error: BaseException) -> None:
        """Take from the error what those who raised it again added."""
        _traceback.__set__(error, self._traceback)
        _context.__set__(error, self._context)


def has_only_own_frames(error: BaseException) -> bool:
    """Return whether an error was raised in this package, without code of the user in between."""
    traceback = traceback_of(error)
    return traceback is not None and _from_user(traceback) is None


def _from_user(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without the frames of this package that it begins with."""
    while traceback is not None and _is_own(traceback.tb_frame):
        traceback = traceback.tb_next
    return traceback


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
        following = _context.__get__(following)
    return False


def lead_to(error: BaseException, earlier: BaseException | None) -> None:
    """Make an earlier error reachable from a later one through its contexts."""
    if earlier is not None:
        ErrorChain(earlier).add(error)


class ErrorChain:
    """Links the errors of the attempts of one call, so that the last one leads to those before.

    The last ten are kept whole, with all that they lead to; the ones before are counted.

    ``_kept`` holds for each kept attempt the errors that came with it, and the one of them whose
    context is the attempt before. ``_linked`` are the ids of all these errors.
    """

    __slots__ = ("_forgotten", "_kept", "_linked")

    def __init__(self, first: BaseException) -> None:
        self._forgotten = 0
        self._linked: set[int] = set()
        self._kept: deque[list[BaseException]] = deque([self._new_in(first)])

    def add(self, error: BaseException) -> None:
        """Link the error of the next attempt to the earlier ones."""
        last = self._kept[-1]
        new = self._new_in(error)
        if not new:  # raised once more
            return
        _context.__set__(new[-1], last[0])
        self._kept.append(new)
        if len(self._kept) > KEPT_ATTEMPTS:
            self._linked.difference_update(map(id, self._kept.popleft()))
            _context.__set__(self._kept[0][-1], None)
            self._forgotten += 1

    def end(self) -> None:
        """Note on the oldest error how many there were before."""
        if self._forgotten:
            note = f"before this, {self._forgotten} attempts failed whose errors are not kept"
            annotate(self._kept[0][0], note, 1)

    def _new_in(self, error: BaseException) -> list[BaseException]:
        """Return the errors that an error leads to through contexts, down to the known ones."""
        new: list[BaseException] = []
        following: BaseException | None = error
        while following is not None and id(following) not in self._linked:
            self._linked.add(id(following))
            new.append(following)
            following = _context.__get__(following)
        return new


def _is_own(frame: types.FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("gogoscope.")
