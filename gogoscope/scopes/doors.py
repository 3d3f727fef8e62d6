"""The doors from a scope to the rooms that many programs never enter, loaded when first used.

Besides the faces of the packages, only here does a function import anything of this package.
"""
# ruff: noqa: PLC0415 - that is what this module is for

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from gogoscope._core.background import Home
    from gogoscope._core.stopping import Stopping
    from gogoscope.cache.cache import Cache
    from gogoscope.cache.decorator import CachedDecorator
    from gogoscope.cache.local import LocalCache
    from gogoscope.circuit_breakers.breaker import CircuitBreaker
    from gogoscope.circuit_breakers.circuit import Circuit
    from gogoscope.events import OnError
    from gogoscope.jobs.block import JobBlock, OpenJob
    from gogoscope.jobs.options import Migrate
    from gogoscope.locks.block import LockBlock
    from gogoscope.locks.leader import Campaign, Term
    from gogoscope.locks.lease_block import Held
    from gogoscope.permits.block import PermitBlock
    from gogoscope.permits.wish import What, Wish
    from gogoscope.persistence.bundle import Persistence
    from gogoscope.persistence.lock_handle import LockHandle
    from gogoscope.persistence.run_records import AfterCrash
    from gogoscope.persistence.sharing import SharedStore
    from gogoscope.rate_limits.limit import RateLimit
    from gogoscope.rate_limits.permit import Limiter
    from gogoscope.retry import Retry
    from gogoscope.runs.block import InRun, OpenRun, RunBlock
    from gogoscope.runs.once import KeptErrors, Once
    from gogoscope.schedules.block import InTick, OpenTick
    from gogoscope.schedules.keeper import Keeper
    from gogoscope.schedules.options import Missed, Scheduled
    from gogoscope.schedules.when import When

    B = TypeVar("B", bound=Held)
    J = TypeVar("J", bound=Held)
    R = TypeVar("R", bound=InRun)
    TermT = TypeVar("TermT", bound=Term)
    TickT = TypeVar("TickT", bound=InTick)


def bundle(store: object) -> Persistence:
    """Return the capabilities of an open store, or of a bundle of stores.

    :raises TypeError: if it has none
    """
    from gogoscope.persistence.bundle import Persistence

    return Persistence.of(store)


def process_store() -> object:
    """Return the store of all scopes of this process that name none: the default one, or memory."""
    from gogoscope.persistence.default import default_home

    home = default_home()
    if home is not None:
        return home.store()
    from gogoscope.stores.memory import process_store

    return process_store()


def shared_store(url: str) -> SharedStore:
    """Return what opens the store of a URL, once for all scopes that name it."""
    from gogoscope.persistence.sharing import SharedStore

    return SharedStore(url)


def retry(option: Retry | int) -> Retry:
    """Return the policy of an option ``retry=``.

    :raises TypeError: if it is neither a policy nor a number of attempts
    :raises ValueError: if the number is less than 1
    """
    from gogoscope.retry import Retry

    return Retry.of(option)


def circuit(home: Home, policy: CircuitBreaker) -> Circuit:
    """Return the circuit of a policy in a scope's store."""
    from gogoscope.circuit_breakers.registry import Circuits

    return home.attach(Circuits, Circuits).circuit(policy)


def check_circuit_breaker(option: object) -> CircuitBreaker:
    """Return a policy that is one.

    :raises TypeError: if it is not
    """
    from gogoscope.circuit_breakers.breaker import CircuitBreaker

    if not isinstance(option, CircuitBreaker):
        raise TypeError(
            "circuit_breaker must be a CircuitBreaker, or False to switch it off, "
            f"got {option!r} of type {type(option).__name__}"
        )
    return option


def limiter(home: Home, policy: RateLimit) -> Limiter:
    """Return a rate limit at work in a scope's store."""
    from gogoscope.rate_limits.permit import Limiter
    from gogoscope.rate_limits.registry import bucket_in

    return Limiter(policy, bucket_in(policy, home.store()), home)


def check_rate_limit(option: object) -> RateLimit:
    """Return a rate limit that is one.

    :raises TypeError: if it is not
    """
    from gogoscope.rate_limits.limit import RateLimit

    if not isinstance(option, RateLimit):
        raise TypeError(
            "rate_limit must be a RateLimit, or False to switch it off, "
            f"got {option!r} of type {type(option).__name__}"
        )
    return option


def cache(home: Home) -> Cache:
    """Return the cache on a scope's store."""
    from gogoscope.cache.cache import cache_of

    return cache_of(home)


async def acquire_lock(
    home: Home, key: str, ttl: float | timedelta, wait: float | timedelta | None
) -> LockHandle | None:
    """Take a lock that is released with a scope."""
    from gogoscope.locks.acquire import Locks

    return await Locks.of(home).acquire(key, ttl, wait)


def lock_block(
    home: Home,
    open_block: Callable[[LockHandle], B],
    key: str,
    ttl: float | timedelta,
    wait: float | timedelta | None,
    metadata: Mapping[str, str] | None,
) -> LockBlock[B]:
    """Return what holds a lock for a block."""
    from gogoscope.locks.block import LockBlock

    return LockBlock(home, open_block, key, ttl, wait, metadata)


def campaign(
    home: Home,
    open_term: Callable[[LockHandle], TermT],
    key: str,
    ttl: float | timedelta,
    metadata: Mapping[str, str] | None,
    stopping: Stopping,
) -> Campaign[TermT]:
    """Return what leads the fleet for a block."""
    from gogoscope.locks.leader import Campaign

    return Campaign(home, open_term, key, ttl, metadata, stopping)


def cached(cache: Cache, ttl: float | timedelta | None, **options: Any) -> CachedDecorator:
    """Return what keeps the results of a function in a cache."""
    from gogoscope.cache.decorator import cached

    return cached(cache, ttl, **options)


def run_block(
    home: Home,
    open_run: OpenRun[R],
    key: str,
    keep: float | timedelta | None,
    lease: float | timedelta,
    wait: float | timedelta | None,
    payload: Any,
    after_crash: AfterCrash,
    keep_errors: KeptErrors,
    local: LocalCache | None,
) -> RunBlock[R]:
    """Return what begins a run for a block."""
    from gogoscope.runs.block import RunBlock
    from gogoscope.runs.once import Once

    once = Once(
        key,
        keep,
        lease=lease,
        wait=wait,
        payload=payload,
        after_crash=after_crash,
        keep_errors=keep_errors,
        local=local,
    )
    return RunBlock(home, open_run, once)


def runner(
    home: Home, open_run: OpenRun[R], once: Once
) -> Callable[[Callable[[], Awaitable[Any]]], Coroutine[Any, Any, Any]]:
    """Return what calls a function once.

    :raises TypeError: if ``once`` says nothing of that
    """
    from gogoscope.runs.block import RunBlock, run_once
    from gogoscope.runs.once import Once

    if not isinstance(once, Once):
        raise TypeError(f"once must be a Once, got {once!r} of type {type(once).__name__}")
    return lambda call: run_once(RunBlock(home, open_run, once), call)


def job_block(
    home: Home,
    open_job: OpenJob[J],
    key: str,
    state: Any,
    version: int,
    lease: float | timedelta,
    wait: float | timedelta | None,
    restart: bool,
    keep: float | timedelta | None,
    migrate: Migrate | None,
) -> JobBlock[J]:
    """Return what holds a job for a block."""
    from gogoscope.jobs.block import JobBlock
    from gogoscope.jobs.options import job_options

    options = job_options(key, state, version, lease, wait, restart, keep, migrate)
    return JobBlock(home, open_job, options)


def permit_block(
    home: Home,
    open_block: Callable[[Wish, LockHandle], B],
    what: What,
    key: str,
    limit: int | None,
    ttl: float | timedelta,
    wait: float | timedelta | None,
    metadata: Mapping[str, str] | None,
) -> PermitBlock[B]:
    """Return what holds a permit for a block."""
    from gogoscope.permits.block import PermitBlock
    from gogoscope.permits.wish import wish

    return PermitBlock(home, open_block, wish(what, key, limit, ttl, wait, metadata))


def keeper(
    home: Home,
    open_tick: OpenTick[TickT],
    stopping: Stopping,
    name: str,
    when: When,
    fn: Scheduled,
    missed: Missed,
    max_missed: int,
    lease: float | timedelta,
    retries: int,
    on_error: OnError | None,
) -> Keeper[TickT]:
    """Return what runs the ticks of a schedule."""
    from gogoscope.schedules.keeper import Keeper
    from gogoscope.schedules.options import schedule_options

    options = schedule_options(name, when, fn, missed, max_missed, lease, retries, on_error)
    return Keeper(home, open_tick, stopping, options)
