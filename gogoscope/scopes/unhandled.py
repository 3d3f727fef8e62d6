"""Errors of tasks that nobody has read.

Each failed result is watched from the moment that the task ends, by an :class:`Unread` of its own,
until one of these happens:

- Somebody reads it, in any thread: it is handled.
- ``on_error`` takes it: when the task ends and nobody awaits it, else when its result is dropped.
- Its result is dropped, so that nobody can read it any more: it is logged and sent as an event at
  once, and raised at the block's end.
- The block ends: it is raised, unless somebody awaits it still. Then the block leaves it alone; it
  is logged if it is dropped unread after all.

A result is dropped in the thread that held it last, or by the garbage collector, in any thread and
in the middle of anything. What follows is done by the event loop of the scope, soon; or when the
block ends, if that comes first.

Results that their holders may still read are known by weak references (``_readable``): an error
leads to the frames of its task, and so maybe to its own result, which would then never be dropped.
Of those that were dropped (``_dropped``), a hundred are kept, and more are ``_counted``. Both are
by number, in the order in which they came. ``_told_soon`` says that the event loop will tell of
those that were dropped.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterable
from typing import Protocol

from gogoscope._core.background import Observer
from gogoscope._core.cancellation import split_cancellation
from gogoscope._core.errors import annotate, led_to_by
from gogoscope._core.event_loop import EventLoop, running
from gogoscope.events import ErrorUnseen, OnError, description, log_error, notify
from gogoscope.scopes.results import Err

KEPT_WHOLE = 100
"""How many unhandled errors a block raises; further ones are counted."""


class Raiser(Protocol):
    """The scope that raises the errors that nobody read."""

    @property
    def _home(self) -> Observer:
        """Receives its events."""
        ...

    def _exit_with(self, raised: BaseException) -> None:
        """Cancel the scope, which then raises what an observer exits with."""
        ...


class Handle(Protocol):
    """What a failed result may be awaited through."""

    _awaiters: int
    _on_error: OnError | None


class Unhandled:
    """The errors of one block that nobody has read."""

    __slots__ = ("_counted", "_dropped", "_loop", "_numbers", "_readable", "_told_soon")

    def __init__(self) -> None:
        self._readable: dict[int, weakref.ref[Unread]] = {}
        self._dropped: dict[int, Unread] = {}
        self._counted = 0
        self._numbers = itertools.count()
        self._loop: EventLoop | None = None
        self._told_soon = False

    def watch(self, failed: Err, scope: Raiser, on_error: OnError | None) -> Unread:
        """Watch a result until somebody reads its error; called in the scope's event loop.

        :param on_error: takes the error if no handle of the result has an ``on_error`` of its own
        """
        self._loop = self._loop or running()
        unread = Unread(self, scope, on_error, next(self._numbers), failed._unread)
        self._readable[unread.number] = weakref.ref(unread)
        failed._watched_by(unread)
        return unread

    def forget(self, unread: Unread) -> None:
        """Keep an error no longer, since it is handled."""
        self._readable.pop(unread.number, None)
        self._dropped.pop(unread.number, None)

    def dropped(self, unread: Unread) -> None:
        """Keep an error that nobody can read any more, and tell of it soon."""
        self._dropped[unread.number] = unread
        self._readable.pop(unread.number, None)
        if not self._told_soon and self._loop is not None:
            self._told_soon = True
            self._loop.call_from_anywhere(self._tell)

    def _tell(self) -> None:
        """Tell of the errors that nobody can read any more, and count those that are too many."""
        self._told_soon = False
        for unread in list(self._dropped.values()):
            unread.tell()
        for number in list(self._dropped)[KEPT_WHOLE:]:
            del self._dropped[number]
            self._counted += 1

    def take(self, others: Iterable[Exception]) -> Lost:
        """Return what nobody has read, and watch it no longer: the block ends.

        :param others: further errors that are to be raised like these
        """
        self._tell()
        readable = {number: found() for number, found in list(self._readable.items())}
        errors: dict[int, Exception] = {}
        told: set[int] = set()
        further = self._counted
        for _, unread in sorted({**readable, **self._dropped}.items()):
            if unread is None or unread.awaited or unread.taken():
                continue
            unread.close()
            number = id(unread.error)
            if number in errors or len(errors) < KEPT_WHOLE:
                errors[number] = unread.error
                if unread.told:
                    told.add(number)
            else:
                further += 1
        self._readable, self._dropped = {}, {}
        errors.update((id(error), error) for error in others)
        return Lost(list(errors.values()), further, told)


class Unread:
    """An error that nobody has read yet.

    ``told`` tells that it was logged. ``_observers`` are to be called with it, once; if there are
    none, ``_on_error``, the scope's. ``_handles`` are the task, or all that share its result: only
    weakly, since they lead to the result, which must not be kept from being dropped.
    """

    __slots__ = (
        *("__weakref__", "_all", "_handles", "_observers", "_on_error", "_scope"),
        *("error", "number", "told"),
    )

    def __init__(
        self,
        everything: Unhandled,
        scope: Raiser,
        on_error: OnError | None,
        number: int,
        error: Exception,
    ) -> None:
        self._all: Unhandled | None = everything
        self._scope: Raiser | None = scope
        self._handles: list[weakref.ref[Handle]] = []
        self._observers: list[OnError] = []
        self._on_error = on_error
        self.number = number
        self.error = error
        self.told = False

    def read(self) -> None:
        """Note that somebody reads it."""
        if self._all is not None:
            self._all.forget(self)
            self.close()

    def dropped(self) -> None:
        """Note that nobody can read it any more."""
        if self._all is not None:
            self._all.dropped(self)

    def shared_by(self, handle: Handle) -> None:
        """Note that the error may be awaited through a handle."""
        self._handles.append(weakref.ref(handle))
        on_error = handle._on_error
        if on_error is not None and all(known is not on_error for known in self._observers):
            self._observers.append(on_error)

    @property
    def awaited(self) -> bool:
        """Whether somebody awaits it now."""
        handles = [handle() for handle in self._handles]
        return any(handle is not None and handle._awaiters for handle in handles)

    def taken(self) -> bool:
        """Call the observers that were not called yet; return whether one took the error."""
        scope = self._scope  # an observer may read the error, and so end the watch
        observers: list[OnError | None] = [*self._observers] or [self._on_error]
        self._observers, self._on_error = [], None
        taken = [_notify(on_error, self.error, scope) for on_error in observers]
        if any(taken):
            self.read()
        return any(taken)

    def close(self) -> None:
        """Watch it no longer."""
        self._all = self._scope = None

    def tell(self) -> None:
        """Call the observers, or else log it and send it as an event, once."""
        scope = self._scope
        if self.told or scope is None:
            return
        try:
            if not self.taken():
                self.told = True
                tell(scope._home, self.error)
        except BaseException as exits:  # noqa: BLE001 - this is called where nothing can be raised
            self.told = True
            scope._exit_with(exits)


def _notify(on_error: OnError | None, error: Exception, scope: Raiser | None) -> bool:
    try:
        return notify(on_error, error)
    except BaseException as exits:
        if scope is None:
            raise
        scope._exit_with(exits)
        return False


class Lost:
    """The errors that a block has to raise, unless it raises another: each once.

    :param further: how many more there were

    ``_told`` are the ids of those that were logged.
    """

    __slots__ = ("_errors", "_further", "_told")

    def __init__(self, errors: list[Exception], further: int, told: set[int]) -> None:
        self._errors = errors
        self._further = further
        self._told = told

    def group(self, scope: str) -> ExceptionGroup[Exception] | None:
        """Return the exception that a block raises for them, if there are any."""
        errors, further = self._errors, self._further
        if not errors:
            return None
        number = "1 unhandled error" if len(errors) == 1 else f"{len(errors)} unhandled errors"
        more = f" and {further} more, not kept," if further else ""
        return ExceptionGroup(f"{number}{more} of tasks of scope {scope!r}", errors)

    def report(self, home: Observer, leaving: BaseException, fatal: Exception | None) -> None:
        """Tell of them where another exception leaves the scope.

        They are added to it as notes (to a cancellation not), logged, and sent as events, unless
        they are part of it.

        :param fatal: the error that cancelled the scope, which is not raised either
        """
        noted = split_cancellation(leaving)[0] is None
        known = {id(error) for error in led_to_by(leaving, contexts=False)}
        for error in [*([] if fatal is None else [fatal]), *self._errors]:
            if id(error) in known:
                continue
            known.add(id(error))
            if noted:
                note = f"unhandled error of a task of scope {home.name!r}: {description(error)}"
                annotate(leaving, note, KEPT_WHOLE)
            if id(error) not in self._told:
                tell(home, error)
        if self._further:
            log_error("%d more errors of scope %r were not handled", self._further, home.name)


def tell(home: Observer, error: Exception) -> None:
    """Log an error that nobody will see otherwise, and send it as an event."""
    log_error("an error of scope %r was not handled", home.name, error=error)
    home.emit(ErrorUnseen(home.name, error))
