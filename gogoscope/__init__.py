"""Structured concurrency whose safety nets are shared by the whole fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gogoscope._core.faces import face

if TYPE_CHECKING:
    from gogoscope.cache.cache import Cache
    from gogoscope.cache.decorator import cached
    from gogoscope.cache.local import LocalCache
    from gogoscope.circuit_breakers.breaker import CircuitBreaker
    from gogoscope.exceptions import (
        AmbiguousBackendError,
        BackendUnavailableError,
        CapabilityNotSupportedError,
        CircuitOpenError,
        ConfigurationError,
        CorruptRecordError,
        GogoscopeError,
        InvalidURLError,
        JobVersionError,
        KeptError,
        LeaseLostError,
        LockError,
        LockTimeoutError,
        OutcomeUnknownError,
        PayloadMismatchError,
        PersistenceError,
        RateLimitExceededError,
        RecordTooLargeError,
        ResultNotKeptError,
        RunError,
        RunInProgressError,
        ScopeClosedError,
        StoreConnectionError,
        StoreTimeoutError,
        TaskCancelled,
        ThrottledError,
        UnexpectedStoreError,
        UnknownBackendError,
        UnsupportedEventLoopError,
    )
    from gogoscope.jobs.progress import JobProgress
    from gogoscope.persistence.bundle import Persistence
    from gogoscope.persistence.lock_handle import LockHandle
    from gogoscope.persistence.sharing import open_persistence
    from gogoscope.persistence.url import PersistenceURL
    from gogoscope.rate_limits.limit import RateLimit
    from gogoscope.retry import Retry, decorrelated, exponential, fixed, linear
    from gogoscope.runs.once import Once
    from gogoscope.schedules.cron import cron
    from gogoscope.schedules.tick import Tick
    from gogoscope.schedules.when import interval
    from gogoscope.scopes.results import Err, Ok, Result
    from gogoscope.scopes.scope import Scope, current_scope, scope
    from gogoscope.scopes.task import Task

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
    "JobProgress",
    "JobVersionError",
    "KeptError",
    "LeaseLostError",
    "LocalCache",
    "LockError",
    "LockHandle",
    "LockTimeoutError",
    "Ok",
    "Once",
    "OutcomeUnknownError",
    "PayloadMismatchError",
    "Persistence",
    "PersistenceError",
    "PersistenceURL",
    "RateLimit",
    "RateLimitExceededError",
    "RecordTooLargeError",
    "Result",
    "ResultNotKeptError",
    "Retry",
    "RunError",
    "RunInProgressError",
    "Scope",
    "ScopeClosedError",
    "StoreConnectionError",
    "StoreTimeoutError",
    "Task",
    "TaskCancelled",
    "ThrottledError",
    "Tick",
    "UnexpectedStoreError",
    "UnknownBackendError",
    "UnsupportedEventLoopError",
    "cached",
    "cron",
    "current_scope",
    "decorrelated",
    "exponential",
    "fixed",
    "interval",
    "linear",
    "open_persistence",
    "scope",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = face(
        __name__,
        {
            "gogoscope.cache.cache": ("Cache",),
            "gogoscope.cache.decorator": ("cached",),
            "gogoscope.cache.local": ("LocalCache",),
            "gogoscope.circuit_breakers.breaker": ("CircuitBreaker",),
            "gogoscope.exceptions": (
                "AmbiguousBackendError",
                "BackendUnavailableError",
                "CapabilityNotSupportedError",
                "CircuitOpenError",
                "ConfigurationError",
                "CorruptRecordError",
                "GogoscopeError",
                "InvalidURLError",
                "JobVersionError",
                "KeptError",
                "LeaseLostError",
                "LockError",
                "LockTimeoutError",
                "OutcomeUnknownError",
                "PayloadMismatchError",
                "PersistenceError",
                "RateLimitExceededError",
                "RecordTooLargeError",
                "ResultNotKeptError",
                "RunError",
                "RunInProgressError",
                "ScopeClosedError",
                "StoreConnectionError",
                "StoreTimeoutError",
                "TaskCancelled",
                "ThrottledError",
                "UnexpectedStoreError",
                "UnknownBackendError",
                "UnsupportedEventLoopError",
            ),
            "gogoscope.jobs.progress": ("JobProgress",),
            "gogoscope.persistence.bundle": ("Persistence",),
            "gogoscope.persistence.lock_handle": ("LockHandle",),
            "gogoscope.persistence.sharing": ("open_persistence",),
            "gogoscope.persistence.url": ("PersistenceURL",),
            "gogoscope.rate_limits.limit": ("RateLimit",),
            "gogoscope.retry": ("Retry", "decorrelated", "exponential", "fixed", "linear"),
            "gogoscope.runs.once": ("Once",),
            "gogoscope.schedules.cron": ("cron",),
            "gogoscope.schedules.tick": ("Tick",),
            "gogoscope.schedules.when": ("interval",),
            "gogoscope.scopes.results": ("Err", "Ok", "Result"),
            "gogoscope.scopes.scope": ("Scope", "current_scope", "scope"),
            "gogoscope.scopes.task": ("Task",),
        },
        modules=("events", "exceptions", "persistence", "stores", "testing"),
    )
