"""What happened in scopes, tasks, locks, circuits and caches, and who is told about it.

An event is frozen, and can be compared, hashed, pickled and matched. Its class has no generated
code, since generating it for all events would take as long as importing the rest of the package.
"""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable
from types import CoroutineType
from typing import Any, ClassVar, dataclass_transform

from gogoscope.exceptions import CircuitOpenError


@dataclass_transform(frozen_default=True)
class _Frozen:
    """A record whose fields are the annotations of its class, in order."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        own = inspect.get_annotations(cls)
        cls.__match_args__ = (*cls.__match_args__, *own)  # type: ignore[misc] # once a class

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        given = dict(zip(names, values, strict=False))
        repeated = given.keys() & named.keys()
        given.update(named)
        if len(values) > len(names) or repeated or given.keys() != set(names):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}, each once")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __repr__(self) -> str:
        fields = ", ".join(
            f"{name}={description(getattr(self, name))}" for name in self.__match_args__
        )
        return f"{type(self).__name__}({fields})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), *self._values()))

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__match_args__)


class Event(_Frozen):
    """Something that happened in the scope named ``scope``."""

    scope: str


subscribers: list[Callable[[Event], object]] = []

_raw_traceback = vars(BaseException)["__traceback__"]
_raw_members = vars(BaseExceptionGroup)["exceptions"]

OnEvent = Callable[[Event], object]
OnError = Callable[[Exception], object]


class ScopeStarted(Event):
    """The block of a scope began."""


class ScopeCancelled(Event):
    """A scope was cancelled, with its block and its tasks; ``reason`` says why."""

    reason: str | None


class ScopeEnded(Event):
    """The block of a scope ended after ``seconds``; ``error`` is what it raised, or ``None``."""

    error: BaseException | None
    seconds: float


class TaskStarted(Event):
    """The function of ``task`` is about to be called."""

    task: str


class TaskSucceeded(Event):
    """The function of ``task`` returned, ``seconds`` after it started."""

    task: str
    seconds: float


class TaskFailed(Event):
    """The result of ``task`` is ``error``."""

    task: str
    seconds: float
    error: Exception


class TaskTimedOut(Event):
    """``task`` took longer than its ``timeout`` seconds; ``TaskFailed`` follows."""

    task: str
    timeout: float


class TaskStopped(Event):
    """``task`` was cancelled; ``reason`` says why."""

    task: str
    seconds: float
    reason: str | None


class RetryScheduled(Event):
    """Attempt ``attempt`` of ``task`` raised ``error``; the next starts in ``delay`` seconds."""

    task: str
    attempt: int
    error: Exception
    delay: float


class ErrorUnseen(Event):
    """Nobody can read an error any more, or its scope raises something else than this error."""

    error: Exception


class CircuitEvent(Event):
    """Something that happened to the circuit breaker ``circuit``.

    ``scope`` is empty if it is used outside of any scope.
    """

    circuit: str


class CircuitStateChanged(CircuitEvent):
    """The state of a circuit changed from ``old`` to ``new``, as far as this process knows."""

    old: str
    new: str


class CircuitCallRejected(CircuitEvent):
    """A call was rejected; a call may be admitted in ``retry_after`` seconds."""

    retry_after: float


class CircuitProbeStarted(CircuitEvent):
    """A half-open circuit admitted a call, to find out whether the service works again."""


class CircuitProbeEnded(CircuitEvent):
    """A probe ended; ``succeeded`` is ``None`` if its outcome proves nothing (a cancellation)."""

    succeeded: bool | None


class CircuitStoreFailed(CircuitEvent):
    """The store of a circuit failed; until it is back, a local circuit breaker takes its place."""

    error: Exception


class CircuitStoreRecovered(CircuitEvent):
    """The store of a circuit breaker answers again."""


class LockAcquired(Event):
    """A lock was acquired, after ``seconds`` of waiting."""

    key: str
    fencing_token: int
    seconds: float


class LockReleased(Event):
    """A lock was released; ``freed`` is ``False`` if it had been lost before."""

    key: str
    freed: bool


class LeaseLost(Event):
    """A lease, of a lock or a run, was lost while its block ran."""

    key: str
    reason: str


class RunStarted(Event):
    """A run of ``key`` began here, after ``seconds`` of waiting for others."""

    key: str
    fencing_token: int
    seconds: float


class RunCompleted(Event):
    """A run of ``key`` ended here, and is not repeated; ``kept`` tells if its result is kept."""

    key: str
    kept: bool


class RunFound(Event):
    """``key`` was done before: its result was returned, and nothing was called."""

    key: str


class CacheLoaded(Event):
    """The function that loads ``key`` returned its value after ``seconds``."""

    key: str
    seconds: float


class CacheStaleGiven(Event):
    """The old value of ``key`` was returned: instead of ``error``, or while it is refreshed."""

    key: str
    error: Exception | None


class CacheStoreFailed(Event):
    """The store of a cache failed to read, to write or to lock.

    ``get_or_set`` does without that: it calls its function without reading, does not store the
    value, or loads it in each process.
    """

    error: Exception


class CacheStoreRecovered(Event):
    """The store of a cache works again."""


def subscribe(observer: Callable[[Event], object]) -> Callable[[], None]:
    """Send the events of every scope in this process to an observer.

    The observer is called where the event happens, so it must be fast. Its exceptions are logged.

    :returns: a function that ends the subscription
    :raises TypeError: if it is no function, or async
    """
    if not callable(observer) or inspect.iscoroutinefunction(observer):
        raise TypeError(
            f"observer must be a function of an event that is not async, got {observer!r} "
            f"of type {type(observer).__name__}"
        )
    subscribers.append(observer)

    def unsubscribe() -> None:
        if observer in subscribers:
            subscribers.remove(observer)

    return unsubscribe


class _Log:
    """Writes events to a logger, each at the level of what it tells.

    A failure is a warning. A circuit that opens is one, too, and so is the end of what was told as
    a warning: who reads only warnings learns that it is over. Between these two lines there is no
    other: a rejected call is told at the level ``DEBUG``, whatever the level of normal events is.
    """

    failures = (
        TaskFailed,
        TaskTimedOut,
        LeaseLost,
        CircuitStoreFailed,
        CircuitStoreRecovered,
        CacheStoreFailed,
        CacheStoreRecovered,
    )

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self.logger = logger
        self.normal = level
        self.failure = max(level, logging.WARNING)
        self.rejection = min(level, logging.DEBUG)

    def __call__(self, event: Event) -> None:
        level = self._level(event)
        if self.logger.isEnabledFor(level):
            text = " ".join(
                f"{name}={description(getattr(event, name))}" for name in event.__match_args__
            )
            self.logger.log(level, "%s %s", type(event).__name__, text, extra={"event": event})

    def _level(self, event: Event) -> int:
        match event:
            case CircuitCallRejected():
                return self.rejection
            case TaskFailed() if issubclass(type(event.error), CircuitOpenError):
                return self.rejection
            case CircuitStateChanged(old="closed") | CircuitStateChanged(new="closed"):
                return self.failure
            case _:
                return self.failure if isinstance(event, self.failures) else self.normal


def log_events(
    logger: str | logging.Logger = "gogoscope.events", level: int = logging.DEBUG
) -> Callable[[], None]:
    """Log the events of every scope in this process with the standard ``logging`` module.

    :param logger: a logger or its name
    :param level: the level of normal events. Failures are logged at least as warnings, and so is
        a circuit that opens, an outage of a store, and the end of both. Each call that a circuit
        rejects is logged at the level ``DEBUG``.
    :returns: a function that ends the logging
    """
    target = logging.getLogger(logger) if isinstance(logger, str) else logger
    return subscribe(_Log(target, level))


def notify(observer: Callable[..., object] | None, *arguments: object) -> bool:
    """Call an observer; if it raises, the exception is logged and goes no further.

    :returns: whether there is an observer, and it did not fail
    """
    if observer is None:
        return False
    try:
        answer = observer(*arguments)
    except Exception as error:  # noqa: BLE001 - logged; the code that is observed goes on
        given = ", ".join(map(description, arguments))
        log_error("an observer failed on %s", given, error=error)
        return False
    if type(answer) is CoroutineType:
        answer.close()
        log_error("an observer is called, not awaited; %s is async", description(observer))
        return False
    return True


def description(value: object) -> str:
    """Return the ``repr`` of a value of the user, or a substitute if that fails."""
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001 - it is not what the code around is about
        kind = type(value)
        if not issubclass(kind, BaseExceptionGroup):
            return f"<{kind.__name__}, whose repr fails>"
        parts = map(description, _raw_members.__get__(value))
        return f"<{kind.__name__} of {', '.join(parts)}, whose repr fails>"


def log_error(message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log an error that nobody would see otherwise."""
    _log(logging.ERROR, message, arguments, error)


def log_warning(message: str, *arguments: object, error: BaseException | None = None) -> None:
    """Log a problem that stops nothing."""
    _log(logging.WARNING, message, arguments, error)


def log_info(message: str, *arguments: object) -> None:
    """Log something that is worth knowing, and no problem."""
    _log(logging.INFO, message, arguments, None)


def _log(
    level: int, message: str, arguments: tuple[object, ...], error: BaseException | None
) -> None:
    logger = logging.getLogger("gogoscope")
    if error is None or not logger.isEnabledFor(level):
        logger.log(level, message, *arguments, stacklevel=3)
        return
    frames = _raw_traceback.__get__(error)
    try:
        "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:  # noqa: BLE001 - an error that cannot be formatted is logged all the same
        text = "".join(traceback.format_tb(frames)) + description(error)
        logger.log(level, f"{message}\n%s", *arguments, text, stacklevel=3)
    else:  # a tuple, since an error may be falsy
        logger.log(level, message, *arguments, exc_info=(type(error), error, frames), stacklevel=3)
