"""What happened in scopes and in what they use, and who is told about it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from gogoscope.events.event import NUMBERS, Event, new_id
from gogoscope.events.kinds import (
    CacheHit,
    CacheLoaded,
    CacheLoadFailed,
    CacheLoadStarted,
    CacheMissed,
    CacheStaleGiven,
    CacheStoreFailed,
    CacheStoreRecovered,
    CircuitCallRejected,
    CircuitEvent,
    CircuitProbeEnded,
    CircuitProbeStarted,
    CircuitStateChanged,
    CircuitStoreFailed,
    CircuitStoreRecovered,
    ErrorUnseen,
    JobEnded,
    JobSaved,
    JobStarted,
    LeaseLost,
    LockAcquired,
    LockReleased,
    LockTimedOut,
    LockWaiting,
    LockWaitStopped,
    PermitAcquired,
    PermitReleased,
    RateLimitEvent,
    RateLimitExceeded,
    RateLimitPaused,
    RateLimitStoreFailed,
    RateLimitStoreRecovered,
    RateLimitWaited,
    RetryScheduled,
    RunAbandoned,
    RunCompleted,
    RunFound,
    RunStarted,
    ScopeCancelled,
    ScopeEnded,
    ScopeStarted,
    StoreAsked,
    TaskFailed,
    TaskQueued,
    TaskStarted,
    TaskStopped,
    TaskSucceeded,
    TaskTimedOut,
)
from gogoscope.events.log import description, log_error, log_info, log_warning
from gogoscope.events.schedules import (
    ScheduleEvent,
    ScheduleStoreFailed,
    ScheduleStoreRecovered,
    TickEnded,
    TickFailed,
    TicksMissed,
    TickStarted,
    TickStopped,
)
from gogoscope.events.subscribing import added, subscribe, subscribers
from gogoscope.exceptions import CircuitOpenError, RateLimitExceededError

if TYPE_CHECKING:
    from gogoscope.events.traces import record_trace

__all__ = [
    "CacheHit",
    "CacheLoadFailed",
    "CacheLoadStarted",
    "CacheLoaded",
    "CacheMissed",
    "CacheStaleGiven",
    "CacheStoreFailed",
    "CacheStoreRecovered",
    "CircuitCallRejected",
    "CircuitEvent",
    "CircuitProbeEnded",
    "CircuitProbeStarted",
    "CircuitStateChanged",
    "CircuitStoreFailed",
    "CircuitStoreRecovered",
    "ErrorUnseen",
    "Event",
    "JobEnded",
    "JobSaved",
    "JobStarted",
    "LeaseLost",
    "LockAcquired",
    "LockReleased",
    "LockTimedOut",
    "LockWaitStopped",
    "LockWaiting",
    "OnError",
    "OnEvent",
    "PermitAcquired",
    "PermitReleased",
    "RateLimitEvent",
    "RateLimitExceeded",
    "RateLimitPaused",
    "RateLimitStoreFailed",
    "RateLimitStoreRecovered",
    "RateLimitWaited",
    "RetryScheduled",
    "RunAbandoned",
    "RunCompleted",
    "RunFound",
    "RunStarted",
    "ScheduleEvent",
    "ScheduleStoreFailed",
    "ScheduleStoreRecovered",
    "ScopeCancelled",
    "ScopeEnded",
    "ScopeStarted",
    "StoreAsked",
    "TaskFailed",
    "TaskQueued",
    "TaskStarted",
    "TaskStopped",
    "TaskSucceeded",
    "TaskTimedOut",
    "TickEnded",
    "TickFailed",
    "TickStarted",
    "TickStopped",
    "TicksMissed",
    "description",
    "log_error",
    "log_events",
    "log_info",
    "log_warning",
    "new_id",
    "notify",
    "record_trace",
    "subscribe",
    "subscribers",
    "tell_of_holders",
    "told_of_holder",
]

lookers: list[Callable[[], Mapping[str, str]]] = []


if not TYPE_CHECKING:  # it is loaded when it is first used

    def __getattr__(name: str) -> Any:
        if name == "record_trace":
            return import_module("gogoscope.events.traces").record_trace
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


OnEvent = Callable[[Event], object]
OnError = Callable[[Exception], object]


def tell_of_holders(look: Callable[[], Mapping[str, str]]) -> Callable[[], None]:
    """Tell those who wait for a lock more about who holds it.

    :param look: returns what to add to the metadata of a lock that is about to be taken, such as a
        trace. It is called in the code that takes it, and must be fast; its exceptions are logged.
    :returns: a function that ends it
    """
    return added(lookers, look)


def told_of_holder() -> dict[str, str]:
    """Return what is to be told about the code that takes a lock here."""
    told: dict[str, str] = {}
    for look in lookers:
        try:
            told.update(look())
        except Exception as error:  # noqa: BLE001 - logged; the lock is taken all the same
            log_error("%s failed", description(look), error=error)
    return told


_REJECTIONS = (CircuitOpenError, RateLimitExceededError)


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
        RateLimitStoreFailed,
        RateLimitStoreRecovered,
        TickFailed,
        TicksMissed,
        ScheduleStoreFailed,
        ScheduleStoreRecovered,
    )

    def __init__(self, logger: logging.Logger, level: int) -> None:
        self.logger = logger
        self.normal = level
        self.failure = max(level, logging.WARNING)
        self.rejection = min(level, logging.DEBUG)

    def __call__(self, event: Event) -> None:
        level = self._level(event)
        if self.logger.isEnabledFor(level):
            fields = (*event.__match_args__, *(name for name in NUMBERS if getattr(event, name)))
            text = " ".join(f"{name}={description(getattr(event, name))}" for name in fields)
            self.logger.log(level, "%s %s", type(event).__name__, text, extra={"event": event})

    def _level(self, event: Event) -> int:
        match event:
            case CircuitCallRejected() | RateLimitExceeded():
                return self.rejection
            case TaskFailed() if issubclass(type(event.error), _REJECTIONS):
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
