"""The client for code without an event loop: Django, Flask, Celery, scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial, wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, TypeVarTuple

from gogoscope._core.arguments import check_name, check_observer
from gogoscope._core.callables import callable_name, name_of_code, told
from gogoscope.blocking.blocks import Acquiring, Run
from gogoscope.blocking.cache import BlockingCache, CachedDecorator, cached_by
from gogoscope.blocking.functions import async_form, sync_function
from gogoscope.blocking.hosts import Hosts, Options, ask
from gogoscope.blocking.leases import Leases
from gogoscope.blocking.marks import marked, running
from gogoscope.blocking.refusals import refuse_event_loop, refuse_green_threads
from gogoscope.cache.local import LocalCache
from gogoscope.events import OnEvent
from gogoscope.persistence.registry import find_opener
from gogoscope.persistence.run_records import AfterCrash
from gogoscope.persistence.url import PersistenceURL, redacted
from gogoscope.rate_limits.limit import RateLimit
from gogoscope.runs.once import KeptErrors, Once
from gogoscope.scopes.options import CircuitOption, RetryOption
from gogoscope.scopes.scope import Scope

T = TypeVar("T")
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")


class Client(Leases):
    """Locks, runs, limits, circuit breakers and a cache for threads; made by :func:`connect`.

    Any number of threads may use it. What is called through it runs in the thread that calls.
    """

    def __init__(self, url: str, name: str, on_event: OnEvent | None) -> None:
        super().__init__(Hosts(Options(url, name, on_event)))
        self._cache = BlockingCache(self._hosts)

    def __repr__(self) -> str:
        options = self._hosts.options
        return f"<blocking Client {options.name!r} of {redacted(options.url)}>"

    @property
    def name(self) -> str:
        """Its name in events and errors."""
        return self._hosts.options.name

    def __enter__(self) -> Self:
        """Open the store.

        :raises PersistenceError: if it cannot be reached
        """

        async def nothing(_: Scope) -> None:
            return

        ask(self._hosts, nothing, "with connect(url)", "async with scope(persistence=url)")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release what is held, cancel calls in progress, and close the store.

        A client for the life of a process need not be closed: that happens at its end.
        """
        refuse_event_loop("db.close()", "async with scope(persistence=url)")
        self._hosts.close()

    def claim(
        self,
        key: str,
        keep: float | timedelta | None,
        *,
        lease: float | timedelta = 30,
        wait: float | timedelta | None = None,
        payload: Any = None,
        after_crash: AfterCrash = "run",
        keep_errors: KeptErrors = (),
        local: LocalCache | None = None,
    ) -> Run:
        """Have the effect of a block happen once for a key, in the whole fleet.

        ::

            with db.claim(f"charge:{order.id}", keep=86_400) as run:
                if not run.done:
                    run.complete(charge(order))
            return run.result

        The options are those of :class:`gogoscope.Once`, and the errors those of
        :meth:`gogoscope.Scope.claim`.
        """
        Once(
            key,
            keep,
            lease=lease,
            wait=wait,
            payload=payload,
            after_crash=after_crash,
            keep_errors=keep_errors,
            local=local,
        )
        claim = partial(
            Scope.claim,
            key=key,
            keep=keep,
            lease=lease,
            wait=wait,
            payload=payload,
            after_crash=after_crash,
            keep_errors=keep_errors,
            local=local,
        )
        return Run(self._hosts, claim, key)

    def once(
        self,
        key: str | Callable[P, str],
        keep: float | timedelta | None,
        *,
        lease: float | timedelta = 30,
        wait: float | timedelta | None = None,
        payload: Callable[P, Any] | None = None,
        after_crash: AfterCrash = "run",
        keep_errors: KeptErrors = (),
        local: LocalCache | None = None,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Have the effect of a function happen once for a key, in the whole fleet.

        ::

            @db.once(lambda order: f"charge:{order.id}", keep=86_400)
            def charge(order): ...

        It is ``db.call(charge, order, once=Once(key, keep))`` as a decorator.

        :param key: what is done once, or a function of the arguments that returns it
        :param payload: a function of the arguments that returns what is to be done
        :raises TypeError: when decorating an async function
        """
        if not (isinstance(key, str) or callable(key)):
            raise TypeError(f"key must be a str, or a function that returns one, got {told(key)}")
        if not (payload is None or callable(payload)):
            raise TypeError(f"payload must be a function of the arguments, got {told(payload)}")
        make = partial(
            Once,
            keep=keep,
            lease=lease,
            wait=wait,
            after_crash=after_crash,
            keep_errors=keep_errors,
            local=local,
        )
        make("checked" if callable(key) else key)

        def decorate(fn: Callable[P, T]) -> Callable[P, T]:
            sync_function(fn, "db.once")

            @wraps(fn)
            def run_once(*args: P.args, **kwargs: P.kwargs) -> T:
                name = key(*args, **kwargs) if callable(key) else key
                what = None if payload is None else payload(*args, **kwargs)
                return self.call(partial(fn, *args, **kwargs), once=make(name, payload=what))

            return run_once

        return decorate

    def call(
        self,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        name: str | None = None,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
        once: Once | None = None,
    ) -> T:
        """Call a function with safety nets, in this thread, and return its value.

        :param fn: a function that is not async
        :param args: its positional arguments; pass keyword arguments with ``functools.partial``
        :param name: names the call in events; the function's name if left out
        :param timeout: seconds for all attempts together. The function is not interrupted: this
            raises ``TimeoutError`` when it has returned, and no further attempt starts
        :param retry: a policy, or a number of attempts
        :param circuit_breaker: a policy; without a name, its circuit has that of the client
        :param once: has its effect happen once for a key, in the whole fleet
        :raises Exception: what the function raised
        :raises CircuitOpenError: if the circuit is open; ``fn`` is not called
        :raises TypeError: if ``fn`` is async, or no function
        """
        run = async_form(sync_function(fn, "db.call"), *args)
        if once is not None and not isinstance(once, Once):
            raise TypeError(f"once must be a Once, got {told(once)}")
        refuse_event_loop(f"db.call({callable_name(fn)})", "await s.call(fn, *args)")
        call = self._hosts.call(
            lambda _: run(),
            name=name or callable_name(fn),
            timeout=timeout,
            retry=retry,
            circuit_breaker=circuit_breaker,
            once=once,
        )
        if once is None:
            return call.value()
        with running(marked(self._hosts, "claim", once.key)):
            return call.value()

    def guarded(
        self,
        *,
        timeout: float | timedelta | None = None,
        retry: RetryOption = None,
        circuit_breaker: CircuitOption = None,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Guard a function: ``@db.guarded(retry=3, circuit_breaker=payments)``.

        Each call of it goes through :meth:`call` with these options.

        :raises TypeError: when decorating an async function
        """

        def decorate(fn: Callable[P, T]) -> Callable[P, T]:
            sync_function(fn, "db.guarded")

            @wraps(fn)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
                return self.call(
                    partial(fn, *args, **kwargs),
                    timeout=timeout,
                    retry=retry,
                    circuit_breaker=circuit_breaker,
                )

            return guarded

        return decorate

    def acquire(
        self, limit: RateLimit, cost: float = 1, wait: float | timedelta | None = None
    ) -> Acquiring:
        """Wait for a permit of a rate limit: ``with db.acquire(limit, cost=1200) as permit``.

        :param limit: the limit
        :param cost: what the block costs, in units of the rate
        :param wait: seconds to wait at most; if left out, those of the limit; ``math.inf`` for no
            bound
        :raises RateLimitExceededError: on entering, if it would have to wait for longer
        :raises TypeError: if an argument is of the wrong type
        :raises ValueError: if the cost is more than the burst, or an argument is out of range
        """
        if not isinstance(limit, RateLimit):
            raise TypeError(f"limit must be a RateLimit, got {told(limit)}")
        limit._checked_cost_us(cost)
        limit._patience(wait)
        return Acquiring(self._hosts, lambda _: limit.acquire(cost, wait), limit.name)

    @property
    def cache(self) -> BlockingCache:
        """The cache on the store."""
        return self._cache

    def cached(
        self,
        ttl: float | timedelta | None,
        *,
        key: Callable[..., str] | None = None,
        stale_while_revalidate: float | timedelta = 0,
        stale_if_error: float | timedelta = 0,
        negative_ttl: float | timedelta | None = None,
        lease: float | timedelta = 10,
    ) -> CachedDecorator:
        """Keep the results of a function in the cache: ``@db.cached(60)``.

        The options are those of :func:`gogoscope.cached`, and so are the keys.
        """
        return cached_by(
            self._hosts,
            ttl,
            key=key,
            stale_while_revalidate=stale_while_revalidate,
            stale_if_error=stale_if_error,
            negative_ttl=negative_ttl,
            lease=lease,
        )


def connect(url: str, *, name: str | None = None, on_event: OnEvent | None = None) -> Client:
    """Return a client for code without an event loop; it connects with the first call.

    ::

        db = connect("redis://127.0.0.1/0")

        with db.lock("invoice:42") as lock:
            ...

    Make one for each process, at module level, or for a block: ``with connect(url) as db``. All
    clients of a process share one thread with an event loop, which starts with the first call, and
    those of one URL a store. A process that is forked starts its own.

    :param url: the store, as for :func:`gogoscope.open_persistence`
    :param name: names the client in events, errors and its circuit; module and qualified name of
        the calling function if left out
    :param on_event: is called with the client's events, in the thread of the loop
    :raises InvalidURLError: if the URL or an option is malformed or unknown
    :raises UnknownBackendError: if no installed backend has the scheme
    :raises BackendUnavailableError: if a package that the backend needs is not installed
    :raises UnsupportedEventLoopError: if gevent or eventlet has patched the standard library
    """
    if not isinstance(url, str):
        shown = redacted(repr(url))
        raise TypeError(f"url must be a str, got {shown} of type {type(url).__name__}")
    if name is not None:
        check_name(name)
    if on_event is not None:
        check_observer("on_event", on_event)
    refuse_green_threads()
    parsed = PersistenceURL.parse(url)
    find_opener(parsed)(parsed)
    frame = sys._getframe(1)
    return Client(url, name or name_of_code(frame.f_code, frame.f_globals), on_event)
