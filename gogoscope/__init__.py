"""Structured concurrency whose safety nets are shared by the whole fleet."""

from gogoscope.cache import Cache
from gogoscope.cache_decorator import cached
from gogoscope.circuit_breaker import CircuitBreaker
from gogoscope.delays import decorrelated, exponential, fixed, linear
from gogoscope.exceptions import (
    AmbiguousBackendError,
    BackendUnavailableError,
    CapabilityNotSupportedError,
    CircuitOpenError,
    ConfigurationError,
    CorruptRecordError,
    GogoscopeError,
    InvalidURLError,
    LeaseLostError,
    LockError,
    LockTimeoutError,
    PersistenceError,
    RecordTooLargeError,
    ScopeClosedError,
    StoreConnectionError,
    StoreTimeoutError,
    TaskCancelled,
    ThrottledError,
    UnknownBackendError,
    UnsupportedEventLoopError,
)
from gogoscope.local_cache import LocalCache
from gogoscope.persistence.bundle import Persistence
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.registry import PersistenceURL, open_persistence
from gogoscope.results import Err, Ok
from gogoscope.retry import Retry
from gogoscope.scope import Scope, current_scope, scope
from gogoscope.task import Task

__all__ = [
    "AmbiguousBackendError",
    "BackendUnavailableError",
    "Cache",
    "CapabilityNotSupportedError",
    "CircuitBreaker",
    "CircuitOpenError",
    "ConfigurationError",
    "CorruptRecordError",
    "Err",
    "GogoscopeError",
    "InvalidURLError",
    "LeaseLostError",
    "LocalCache",
    "LockError",
    "LockHandle",
    "LockTimeoutError",
    "Ok",
    "Persistence",
    "PersistenceError",
    "PersistenceURL",
    "RecordTooLargeError",
    "Retry",
    "Scope",
    "ScopeClosedError",
    "StoreConnectionError",
    "StoreTimeoutError",
    "Task",
    "TaskCancelled",
    "ThrottledError",
    "UnknownBackendError",
    "UnsupportedEventLoopError",
    "cached",
    "current_scope",
    "decorrelated",
    "exponential",
    "fixed",
    "linear",
    "open_persistence",
    "scope",
]
