"""What scopes tell their observers: frozen events, and who may listen."""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import asdict, field, frozen

from gogoscope.observers import subscribers


@frozen
class Event:
    """Something that happened in the scope named ``scope``."""

    scope: str


@frozen
class ScopeStarted(Event):
    """The block of a scope began."""


@frozen
class ScopeCancelled(Event):
    """A scope cancels its block and its tasks; ``reason`` says why."""

    reason: str | None


@frozen
class ScopeEnded(Event):
    """The block of a scope ended after ``seconds``; ``error`` leaves it, or ``None``."""

    error: BaseException | None
    seconds: float


@frozen
class TaskStarted(Event):
    """The function of ``task`` is about to be called."""

    task: str


@frozen
class TaskSucceeded(Event):
    """The function of ``task`` gave its value, ``seconds`` after it started."""

    task: str
    seconds: float


@frozen
class TaskFailed(Event):
    """The result of ``task`` is ``error``."""

    task: str
    seconds: float
    error: Exception


@frozen
class TaskTimedOut(Event):
    """``task`` took longer than its ``timeout`` seconds; ``TaskFailed`` follows."""

    task: str
    timeout: float


@frozen
class TaskStopped(Event):
    """``task`` was cancelled; ``reason`` says why."""

    task: str
    seconds: float
    reason: str | None


@frozen
class RetryScheduled(Event):
    """Try number ``attempt`` of ``task`` gave ``error``; the next starts in ``delay`` seconds."""

    task: str
    attempt: int
    error: Exception
    delay: float


@frozen
class ErrorUnseen(Event):
    """Another exception left the scope, so that this error of a task is not raised."""

    error: Exception


@frozen
class CircuitEvent(Event):
    """Something that happened to the circuit breaker ``circuit``.

    ``scope`` is empty where it is used outside of any scope.
    """

    circuit: str


@frozen
class CircuitStateChanged(CircuitEvent):
    """A circuit breaker went from ``old`` to ``new`` as far as this process knows."""

    old: str
    new: str


@frozen
class CircuitCallRejected(CircuitEvent):
    """A call was rejected uncalled; one may be let through in ``retry_after`` seconds."""

    retry_after: float


@frozen
class CircuitProbeStarted(CircuitEvent):
    """A call was let through a half-open circuit, to see whether what it calls works again."""


@frozen
class CircuitProbeEnded(CircuitEvent):
    """A probe ended; ``succeeded`` is ``None`` if it says nothing and gave its turn back."""

    succeeded: bool | None


@frozen
class CircuitStoreFailed(CircuitEvent):
    """The store of a circuit breaker failed; a local breaker guards until it is back."""

    error: Exception


@frozen
class CircuitStoreRecovered(CircuitEvent):
    """The store of a circuit breaker answers again."""


@frozen
class LockAcquired(Event):
    """A lock was taken, with its fencing token, after ``seconds`` of waiting."""

    key: str
    fencing_token: int
    seconds: float


@frozen
class LockReleased(Event):
    """A lock was given back; ``freed`` is false if it was lost before."""

    key: str
    freed: bool


@frozen
class LeaseLost(Event):
    """The lease of a lock was lost while its block ran."""

    key: str
    reason: str


@frozen
class CacheLoaded(Event):
    """The function that loads ``key`` was called and gave its value in ``seconds``."""

    key: str
    seconds: float


@frozen
class CacheStaleGiven(Event):
    """The old value of ``key`` was given: instead of ``error``, or while it is refreshed."""

    key: str
    error: Exception | None


@frozen
class CacheStoreFailed(Event):
    """The store of a cache failed to read, to write or to lock; ``get_or_set`` does without that.

    It calls its functions without asking, does not keep values, or calls in each process by itself.
    """

    error: Exception


@frozen
class CacheStoreRecovered(Event):
    """The store of a cache does again what it failed to do."""


def subscribe(observer: Callable[[Event], object]) -> Callable[[], None]:
    """Send the events of every scope of this process to an observer.

    An observer runs where the event happens, so it must be quick; its exceptions are logged.

    :returns: a function that ends the subscription
    """
    if not callable(observer):
        raise TypeError(f"observer must be a function of an event, got {observer!r}")
    subscribers.append(observer)

    def unsubscribe() -> None:
        if observer in subscribers:
            subscribers.remove(observer)

    return unsubscribe


@frozen
class _Log:
    """Writes events to a logger: what failed as warnings, the rest at ``level``."""

    logger: logging.Logger
    level: int
    failures: tuple[type[Event], ...] = field(
        default=(TaskFailed, TaskTimedOut, CircuitStoreFailed, LeaseLost, CacheStoreFailed)
    )

    def __call__(self, event: Event) -> None:
        level = max(self.level, logging.WARNING) if isinstance(event, self.failures) else self.level
        if self.logger.isEnabledFor(level):
            details = asdict(event, recurse=False)
            text = " ".join(f"{name}={value!r}" for name, value in details.items())
            self.logger.log(level, "%s %s", type(event).__name__, text, extra={"event": event})


def log_events(
    logger: str | logging.Logger = "gogoscope.events", level: int = logging.DEBUG
) -> Callable[[], None]:
    """Write the events of every scope of this process to the standard ``logging`` module.

    :param logger: a logger or its name
    :param level: of what went well; what failed is at least a warning
    :returns: a function that ends it
    """
    target = logging.getLogger(logger) if isinstance(logger, str) else logger
    return subscribe(_Log(target, level))
