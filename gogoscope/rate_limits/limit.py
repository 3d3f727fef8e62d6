"""Rate limits as the public API has them: a policy, and what can be done with it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, cast

from attrs import frozen

from gogoscope._core.callables import explain_misuse, is_misuse, told
from gogoscope._core.cancellation import error_of_call
from gogoscope._core.context import current
from gogoscope._core.durations import seconds as checked_seconds
from gogoscope.persistence.rate_records import RateLimitState
from gogoscope.rate_limits.permit import Acquiring, Limiter
from gogoscope.rate_limits.policy import RatePolicy
from gogoscope.rate_limits.registry import PROCESS, bucket_in, home_here, keep_ready, ready

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


@frozen(eq=False)
class RateLimit(RatePolicy):
    """Bounds how often the whole fleet does something: a frozen policy with a shared state.

    Make one for each thing that has a limit, at module level, and pass it to scopes or tasks; or
    limit a block with ``async with limit.acquire()``, or a function by ``@limit``. The state lives
    in the scope's store under ``name``; outside of any scope it lives in the default store of the
    process, or in its memory. All processes that share the store share the limit.

    In any ``t`` seconds at most ``rate / per * (t + d) + burst`` calls begin, and those for which
    processes hold batches. ``d`` is the spread of the clocks that the store counts by, and the
    longest time from a place's reservation to the call. Calls go in the order in which they asked.

    :param name: the name of the limit
    :param rate: how many calls may begin, or units be spent, in ``per`` seconds
    :param per: that many seconds
    :param burst: how many may begin at once, after a time without any
    :param wait: seconds that a call may wait for its turn; ``None`` waits as long as it takes, a
        day at most
    :param batch: how many places a process reserves at once; ``"auto"`` reserves what it has used
        in the last quarter of a second, at most a quarter of the burst. Fewer requests; what a
        process that dies holds is lost.
    :param local_share: the share of this process in the rate while the store is down; with 0 calls
        fail then
    :param retry_after: a function of the value or the error of a call. If it returns seconds, the
        whole fleet pauses for so long: a service says so with its status 429 and ``Retry-After``.
        What it raises is raised in place of the value, or of the error, which is its context.
    """

    def acquire(self, cost: float = 1, wait: float | timedelta | None = None) -> Acquiring:
        """Wait for a permit: ``async with limit.acquire(cost=1200) as permit``.

        :param cost: what the block costs, in units of the rate
        :param wait: seconds to wait at most; if left out, those of the limit; ``math.inf`` for no
            bound
        :raises RateLimitExceededError: on entering, if it would have to wait for longer
        :raises RuntimeError: on entering, if this very block was entered and not left
        :raises TypeError: if an argument is of the wrong type
        :raises ValueError: if the cost is more than the burst, or an argument is out of range
        """
        cost_us, patience = self._checked_cost_us(cost), self._patience(wait)
        return Acquiring(limiter_in(self), cost, cost_us, patience)

    async def call(self, fn: Callable[[*Ts], Awaitable[T]], /, *args: *Ts) -> T:
        """Wait until a call may go, call a function, and return its value.

        :param fn: an async function, or any that returns an awaitable
        :param args: its positional arguments
        :raises RateLimitExceededError: if it would have to wait for too long; ``fn`` is not called
        :raises TypeError: if ``fn`` is no function, or does not take these arguments
        :raises TaskCancelled: if ``fn`` ended with a cancellation that nobody asked for
        :raises Exception: what ``fn`` raised
        """
        places = ready.get(self)
        if not places or _scope_here() is not None or not _took_one(places):
            limiter = limiter_in(self)
            await limiter.admit()
            if limiter.home is PROCESS and self.batch != 1:
                keep_ready(self, limiter.bucket)
        awaitable: Any = fn
        try:
            awaitable = fn(*args)
            value: T = await awaitable
        except BaseException as raised:
            error = error_of_call(raised)
            if error is None:
                raise
            try:
                if is_misuse(error):
                    explain_misuse(fn, awaitable, _USAGE)
                if self.retry_after is not None:
                    await limiter_in(self).heed(error)
                if error is raised:
                    raise
                raise error
            finally:
                del error  # whose traceback has this frame
        if self.retry_after is not None:
            await limiter_in(self).heed(value)
        return value

    def __call__(self, fn: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Limit an async function, as ``@limit``: each call of it goes through :meth:`call`.

        :raises TypeError: if ``fn`` is not an async function
        """
        if not (inspect.iscoroutinefunction(fn) or _has_async_call(fn)):
            raise TypeError(
                f"a rate limit limits async functions, got {told(fn)}; for a function that is not "
                "async, limit an async one that calls anyio.to_thread.run_sync(fn, *args)"
            )
        call = cast("Callable[..., Awaitable[T]]", self.call)
        unbound = cast("Callable[..., Awaitable[T]]", fn)

        @functools.wraps(fn)
        async def limited(*args: P.args, **kwargs: P.kwargs) -> T:
            return await call(functools.partial(unbound, **kwargs) if kwargs else unbound, *args)

        return limited

    async def pause(self, seconds: float | timedelta, store: object = None) -> None:
        """Admit nobody for a while, in the whole fleet; a longer pause stays as it is.

        Other processes follow within a second. After the pause the calls go at the rate, without
        a burst.

        :param seconds: how long, a day at most
        :param store: an open store, or a bundle of stores; if left out, that of the current scope,
            or of the process outside of any scope
        :raises PersistenceError: if the store fails; this process pauses all the same
        """
        ready.clear()
        limiter = limiter_in(self, store)
        await limiter.bucket.pause(limiter.home, checked_seconds("seconds", seconds))

    async def state(self, store: object = None) -> RateLimitState:
        """Return how much is used up, from the store, in one read.

        :param store: as for :meth:`pause`
        :raises PersistenceError: if the store fails
        """
        return await limiter_in(self, store).bucket.contact.state()


# A call that finds a place ready uses it; an attribute of a module would cost a lookup.
_scope_here = current.get


def _took_one(places: list[None]) -> bool:
    """Take a place that is ready, unless another thread has taken the last one."""
    try:
        places.pop()
    except IndexError:
        return False
    return True


def limiter_in(policy: RatePolicy, store: object = None) -> Limiter:
    """Return a rate limit at work where the calling code is.

    :param store: the store to use instead of that of the current scope
    :raises CapabilityNotSupportedError: if it keeps no rate limits
    """
    home = home_here()
    return Limiter(policy, bucket_in(policy, home.store() if store is None else store), home)


def _has_async_call(fn: object) -> bool:
    return inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - how, not if


_USAGE = "limit.call({}, *args)"
