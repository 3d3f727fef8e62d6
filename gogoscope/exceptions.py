"""The whole error tree.

::

    GogoscopeError
    ├── ConfigurationError
    │   ├── InvalidURLError
    │   ├── UnknownBackendError
    │   ├── AmbiguousBackendError
    │   ├── CapabilityNotSupportedError
    │   └── UnsupportedEventLoopError
    ├── BackendUnavailableError        (also ImportError)
    ├── TaskCancelled
    ├── ScopeClosedError
    ├── CircuitOpenError
    ├── LockError
    │   └── LockTimeoutError           (also TimeoutError)
    ├── LeaseLostError
    ├── JobVersionError
    ├── RateLimitExceededError
    ├── RunError
    │   ├── RunInProgressError         (also TimeoutError)
    │   ├── OutcomeUnknownError
    │   ├── PayloadMismatchError
    │   ├── ResultNotKeptError
    │   └── KeptError
    └── PersistenceError
        ├── StoreConnectionError
        ├── StoreTimeoutError
        ├── ThrottledError
        ├── CorruptRecordError
        ├── RecordTooLargeError
        └── UnexpectedStoreError

Bad arguments raise the standard ``TypeError`` or ``ValueError``. Cancellation is the event loop's
own exception. It is never wrapped and never a result.
"""

from __future__ import annotations

from enum import Enum


class GogoscopeError(Exception):
    """The base of every error that gogoscope defines."""


class ConfigurationError(GogoscopeError):
    """Something is configured wrongly; a retry does not help."""


class InvalidURLError(ConfigurationError):
    """A persistence URL is malformed, or its backend does not know one of its options."""


class UnknownBackendError(ConfigurationError):
    """No installed distribution registers the scheme of a persistence URL."""


class AmbiguousBackendError(ConfigurationError):
    """Two installed distributions register the same scheme with different values."""


class CapabilityNotSupportedError(ConfigurationError):
    """The store does not support a capability that was used.

    ``capability`` is its name: that of its store in ``Persistence``, or that of its Protocol if
    somebody else has written it; ``backend`` is the store.
    """

    def __init__(self, capability: str, backend: str) -> None:
        super().__init__(capability, backend)
        self.capability = capability
        self.backend = backend

    def __str__(self) -> str:
        return (
            f"{self.backend} does not support {self.capability}; pass a store that does, or mix "
            "stores with Persistence(...)"
        )


class UnsupportedEventLoopError(ConfigurationError):
    """The backend cannot run on the current event loop."""


class BackendUnavailableError(GogoscopeError, ImportError):
    """A backend is registered, but a package that it needs is not installed."""


class TaskCancelled(GogoscopeError):  # noqa: N818 - a result, named for what happened
    """The result of a task that was cancelled; ``reason`` says why.

    It is also raised by what must not start any more, since its scope is stopping.
    """

    _of_stopping = False

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return "the task was cancelled" if self.reason is None else self.reason


class ScopeClosedError(GogoscopeError):
    """A scope was used before its block began or after it ended."""


class CircuitOpenError(GogoscopeError):
    """A circuit breaker rejected a call; the function was not called.

    ``name`` is the circuit, ``retry_after`` the seconds until a call may be admitted.
    """

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(name, retry_after)
        self.name = name
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"circuit {self.name!r} is open; retry after {self.retry_after:.3g} s"


class LockError(GogoscopeError):
    """The base of the errors of locks."""


class LockTimeoutError(LockError, TimeoutError):
    """A lock was not acquired in the time given for it."""


class LeaseLostError(GogoscopeError):
    """A lease ended while its holder still relied on it.

    ``key`` is the lock, or whatever else is leased; ``reason`` says how it was lost.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def _explain(self, reason: str, cause: Exception | None) -> None:
        """Say better how it was lost."""
        self.args = (self.key, reason)
        self.reason = reason
        self.__cause__ = cause

    def __str__(self) -> str:
        return f"the lease of {self.key!r} is lost: {self.reason}"


class JobVersionError(GogoscopeError):
    """The state of a job was saved by another version of the program.

    ``key`` is the job, ``saved`` the version that saved it, ``wanted`` that of this program.
    """

    def __init__(self, key: str, saved: int, wanted: int) -> None:
        super().__init__(key, saved, wanted)
        self.key = key
        self.saved = saved
        self.wanted = wanted

    def __str__(self) -> str:
        found = f"the state of job {self.key!r} was saved by version {self.saved}"
        if self.saved > self.wanted:
            return f"{found}, which is newer than this one, {self.wanted}"
        return f"{found}; pass migrate=, which returns it in the form of version {self.wanted}"


class RateLimitExceededError(GogoscopeError):
    """A call would have had to wait for its rate limit for too long; it was not made.

    ``name`` is the limit, ``retry_after`` the seconds until such a call may go, if nobody else
    comes first.
    """

    def __init__(self, name: str, retry_after: float) -> None:
        super().__init__(name, retry_after)
        self.name = name
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"rate limit {self.name!r} is exceeded; retry after {self.retry_after:.3g} s"


class RunError(GogoscopeError):
    """The base of the errors of runs; ``key`` is the run, ``reason`` says more."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"run {self.key!r}: {self.reason}"


class RunInProgressError(RunError, TimeoutError):
    """Somebody else runs, and did not end within the time given for it."""


class OutcomeUnknownError(RunError):
    """The last run died, nobody knows whether it had its effect, and it is not to be repeated.

    ``store.resolve_run(key, result=...)`` or ``store.resolve_run(key, repeat=True)`` decides.
    """


class PayloadMismatchError(RunError):
    """The key was used before, to do something else."""


class ResultNotKeptError(RunError):
    """The run is done, and is never repeated; its result could not be kept."""


class KeptError(RunError):
    """The error that a run raised, which was kept.

    ``error_type`` is the name of its class, ``message`` its text, ``arguments`` its arguments, as
    far as they are JSON-shaped.
    """

    def __init__(
        self, key: str, error_type: str, message: str, arguments: tuple[object, ...]
    ) -> None:
        Exception.__init__(self, key, error_type, message, arguments)
        self.key = key
        self.error_type = error_type
        self.message = message
        self.arguments = arguments
        self.reason = f"it raised {error_type}: {message}"


class Effect(Enum):
    """What a request to a store that failed has done."""

    NOT_SENT = "not sent"
    """Nothing: the store never saw it."""
    FAILED = "failed"
    """Nothing: the store refused it, or it only reads."""
    MAYBE_APPLIED = "maybe applied"
    """Nobody knows: it may have been carried out, or may be at any time from now on."""


class PersistenceError(GogoscopeError):
    """A store failed; ``retryable`` tells whether the same request may succeed later.

    ``effect`` tells what the request has done. It is ``Effect.MAYBE_APPLIED`` unless a store knows
    better: then it sets another one on the error.
    """

    retryable = False
    effect = Effect.MAYBE_APPLIED


class StoreConnectionError(PersistenceError):
    """The store could not be reached, or the connection broke."""

    retryable = True


class StoreTimeoutError(PersistenceError):
    """The store did not answer in time; ``effect`` tells whether it may have been carried out."""

    retryable = True


class ThrottledError(PersistenceError):
    """The store refused the request because of load."""

    retryable = True
    effect = Effect.FAILED


class CorruptRecordError(PersistenceError):
    """A stored record cannot be decoded."""

    effect = Effect.FAILED


class RecordTooLargeError(PersistenceError):
    """A value is larger than the store accepts."""

    effect = Effect.FAILED


class UnexpectedStoreError(PersistenceError):
    """The store raised an error that is none of these, which is the cause of this one.

    Nobody knows whether the request was carried out or not.
    """
