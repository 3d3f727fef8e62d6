"""What happens in scopes, tasks, locks, circuits, caches, runs and jobs.

An event is frozen, and can be compared, hashed, pickled and matched. Its class has no generated
code, since generating it for all events would take as long as importing the rest of the package.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar, dataclass_transform

from gogoscope.events.log import description


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


class JobStarted(Event):
    """The job ``key`` is held here; ``resumed`` tells if it goes on from a saved state."""

    key: str
    fencing_token: int
    resumed: bool


class JobSaved(Event):
    """The state of the job ``key`` was saved; ``done`` of ``total`` parts are done, if known."""

    key: str
    done: int | None
    total: int | None


class JobEnded(Event):
    """The job ``key`` is held here no more; ``finished`` tells if its block ended without error."""

    key: str
    finished: bool


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
