"""What happens in scopes, tasks, locks, permits, circuits, caches, runs, jobs and rate limits."""

from __future__ import annotations

from gogoscope.events.event import Event


class ScopeStarted(Event):
    """The block of a scope began."""


class ScopeCancelled(Event):
    """A scope was cancelled, with its block and its tasks; ``reason`` says why."""

    reason: str | None


class ScopeEnded(Event):
    """The block of a scope ended after ``seconds``; ``error`` is what it raised, or ``None``."""

    error: BaseException | None
    seconds: float


class TaskQueued(Event):
    """``task`` waits for a slot, since its scope bounds how many tasks run at a time."""

    task: str


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


class LockWaiting(Event):
    """A lock is held by somebody else, and waited for.

    ``holder`` is its owner, if known; ``held_by`` is the ``id`` of the lock's other events if it is
    held in this process, else 0; ``traceparent`` is what an instrumented holder told of its trace.
    """

    key: str
    holder: str | None
    held_by: int
    traceparent: str | None


class LockTimedOut(Event):
    """A lock was not free in time, after ``seconds`` of waiting."""

    key: str
    seconds: float


class LockWaitStopped(Event):
    """The wait for a lock ended with ``error``, or was cancelled if that is ``None``."""

    key: str
    seconds: float
    error: Exception | None


class LockAcquired(Event):
    """A lock was acquired, after ``seconds`` of waiting."""

    key: str
    fencing_token: int
    seconds: float


class LockReleased(Event):
    """A lock was released; ``freed`` is ``False`` if it was lost, or ends with its lease."""

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


class RunAbandoned(Event):
    """A run of ``key`` ended here without a result: the next caller runs."""

    key: str


class RunFound(Event):
    """``key`` was done before: its result was returned, and nothing was called."""

    key: str


class JobStarted(Event):
    """The job ``key`` is held here; ``resumed`` tells if it goes on from a saved state."""

    key: str
    fencing_token: int
    resumed: bool


class JobSaved(Event):
    """The state of the job ``key`` was saved.

    ``done`` of ``total`` parts of the work are done, at ``rate`` parts a second, if known.
    """

    key: str
    done: int | None
    total: int | None
    rate: float | None


class JobEnded(Event):
    """The job ``key`` is held here no more; ``finished`` tells if its block ended without error."""

    key: str
    finished: bool


class CacheHit(Event):
    """A fresh value of ``key`` was found; ``local`` tells if in the memory of the process."""

    key: str
    local: bool


class CacheMissed(Event):
    """No fresh value of ``key`` was found."""

    key: str


class CacheLoadStarted(Event):
    """The function that loads ``key`` is about to be called."""

    key: str


class CacheLoadFailed(Event):
    """The function that loads ``key`` raised ``error``, or was cancelled if that is ``None``."""

    key: str
    seconds: float
    error: Exception | None


class PermitAcquired(Event):
    """A permit of ``key`` was acquired, after ``seconds`` of waiting.

    ``what`` is ``"semaphore"``, ``"read_lock"`` or ``"write_lock"``.
    """

    what: str
    key: str
    fencing_token: int
    seconds: float


class PermitReleased(Event):
    """A permit was released; ``freed`` is ``False`` if it was lost, or ends with its lease."""

    what: str
    key: str
    freed: bool


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


class StoreAsked(Event):
    """A store was asked for ``request`` and answered after ``seconds``, or failed with ``error``.

    What the store does by itself for one request, such as trying again, is not told apart.
    """

    request: str
    seconds: float
    error: BaseException | None


class RateLimitEvent(Event):
    """Something that happened to the rate limit ``limit``.

    ``scope`` is empty if it is used outside of any scope.
    """

    limit: str


class RateLimitWaited(RateLimitEvent):
    """A call may go, after ``seconds`` of waiting for its place."""

    seconds: float


class RateLimitExceeded(RateLimitEvent):
    """A call was refused; one may go in ``retry_after`` seconds."""

    retry_after: float


class RateLimitPaused(RateLimitEvent):
    """This process asked the whole fleet to pause for ``seconds``."""

    seconds: float


class RateLimitStoreFailed(RateLimitEvent):
    """The store of a rate limit failed; until it is back, this process has a bucket of its own."""

    error: Exception


class RateLimitStoreRecovered(RateLimitEvent):
    """The store of a rate limit answers again."""
