"""The results of tasks.

An ``Err`` notes when its error is read, since an error that nobody reads must not be lost. So it is
a tuple that tells what watches it (:class:`Watch`) before it hands out the error, and when it is
dropped unread. Type checkers see a plain named tuple: they narrow the type of the value by the
error of no other class.

``_watch`` is what watches the error until it is read. ``_origin`` is where the error came from when
the task ended: each time that it is raised, the frames of the caller are added to its traceback,
and what the caller handles becomes its context. Both would add up, with all local variables of
every caller, if each time did not start from the origin.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, Protocol, TypeAlias, TypeVar

from gogoscope._core.errors import Origin
from gogoscope.events import description

T = TypeVar("T")
D = TypeVar("D")


class Watch(Protocol):
    """What an ``Err`` tells what becomes of its error; either comes once, in any thread."""

    def read(self) -> None:
        """Note that somebody reads the error."""
        ...

    def dropped(self) -> None:
        """Note that nobody can read the error any more."""
        ...


class Ok(NamedTuple, Generic[T]):
    """The result of a task that succeeded: ``(None, value)``."""

    error: None
    value: T

    def unwrap(self) -> T:
        """Return the value."""
        return self.value

    def unwrap_or(self, default: object) -> T:
        """Return the value."""
        return self.value


tuple_new: Callable[[type[Ok[Any]], tuple[None, Any]], Ok[Any]] = tuple.__new__
"""Makes the result of a success from its parts, twice as fast as a call of its class."""

NO_VALUE: Ok[Any] = Ok(None, None)
"""The result of every task that returned ``None``."""

if TYPE_CHECKING:

    class Err(NamedTuple):
        """The result of a task that failed: ``(error, None)``."""

        error: Exception
        value: Any

        def unwrap(self) -> NoReturn:
            """Raise the error."""
            raise NotImplementedError

        def unwrap_or(self, default: D) -> D:
            """Return the default, and read the error."""
            raise NotImplementedError

        def _watched_by(self, watch: Watch) -> None: ...

        @property
        def _watch(self) -> Watch | None: ...

        @property
        def _unread(self) -> Exception: ...

        def _read(self) -> None: ...

else:

    class Err(namedtuple("Err", ("error", "value"))):  # noqa: PYI024 - typed above
        """The result of a task that failed: ``(error, None)``.

        Its error is read by unpacking, ``error``, an index, a pattern for its parts, ``unwrap``,
        comparing, ``repr``, copying and pickling; not by awaiting the task, ``isinstance``,
        ``case Err():``, ``value``, ``len`` and ``bool``.
        """

        _watch: Watch | None = None
        _origin: Origin | None = None

        @property
        def error(self) -> Exception:
            """The error; this reads it."""
            self._read()
            return self._unread

        @property
        def value(self) -> Any:
            """``None``; this does not read the error."""
            return tuple.__getitem__(self, 1)

        def unwrap(self) -> NoReturn:
            """Raise the error."""
            error = self.error
            try:
                if self._origin is None:
                    self._origin = Origin(error)
                self._origin.restore(error)
                raise error
            finally:
                del error, self  # the traceback keeps this frame

        def unwrap_or(self, default: D) -> D:
            """Return the default, and read the error."""
            self._read()
            return default

        def __repr__(self) -> str:
            return f"Err(error={description(self.error)}, value={self.value!r})"

        def __reduce__(self) -> tuple[type[Err], tuple[Exception, Any]]:
            return Err, (self.error, self.value)

        def __del__(self) -> None:
            watch = self._watch
            if watch is not None:
                watch.dropped()

        @property
        def _unread(self) -> Exception:
            """The error, without reading it."""
            return tuple.__getitem__(self, 0)

        def _watched_by(self, watch: Watch) -> None:
            self._watch = watch
            self._origin = Origin(self._unread)

        def _read(self) -> None:
            watch = self._watch
            if watch is not None:
                self._watch = None
                watch.read()

    def _reading(method: Callable[..., Any]) -> Callable[..., Any]:
        def read_first(self: Err, *arguments: object) -> object:
            self._read()
            return method(self, *arguments)

        read_first.__name__ = method.__name__
        return read_first

    for _method in (
        *(tuple.__iter__, tuple.__getitem__, tuple.__contains__, tuple.index, tuple.count),
        *(tuple.__eq__, tuple.__ne__, tuple.__lt__, tuple.__le__, tuple.__gt__, tuple.__ge__),
        *(tuple.__add__, tuple.__mul__, tuple.__rmul__),
    ):
        setattr(Err, _method.__name__, _reading(_method))
    Err.__hash__ = tuple.__hash__  # an index of it, not its error


Result: TypeAlias = Ok[T] | Err
"""The result of a task: ``Ok`` or ``Err``."""
