"""AWS Lambda: an async function as a handler, with one event loop and one store a container.

::

    from gogoscope.integrations.aws import lambda_handler

    async def handle(event, context): ...

    handler = lambda_handler(handle, store="dynamodb://locks")

It needs no package besides gogoscope and that of its store. The event loop runs in a thread of its
own and is kept between the invocations, and so are the connections of the store. An invocation is a
scope: when its answer goes out, its tasks have ended, and the store knows what its circuit breakers
have counted. So nothing is left to do while the container is frozen.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial, wraps
from typing import Any, TypeVar, cast

from gogoscope import scope
from gogoscope._core.arguments import check_name, check_observer
from gogoscope._core.callables import async_function, callable_name, stable_name
from gogoscope._core.durations import seconds
from gogoscope.blocking.calls import call_here
from gogoscope.blocking.hosts import Hosts, Options
from gogoscope.blocking.refusals import refuse_event_loop
from gogoscope.events import OnEvent
from gogoscope.persistence.registry import find_opener
from gogoscope.persistence.url import PersistenceURL, redacted
from gogoscope.scopes.options import CircuitOption, RetryOption
from gogoscope.scopes.scope import Scope

T = TypeVar("T")

__all__ = ["lambda_handler"]


def lambda_handler(
    fn: Callable[[Any, Any], Awaitable[T]],
    *,
    store: str,
    margin: float | timedelta = 0.5,
    name: str | None = None,
    concurrency: int | None = None,
    retry: RetryOption = None,
    circuit_breaker: CircuitOption = None,
    on_event: OnEvent | None = None,
) -> Callable[[Any, Any], T]:
    """Return a Lambda handler that runs an async function in a scope of its own.

    :param fn: an async function of the event and the context; in it, ``current_scope()`` is the
        scope of the invocation
    :param store: the URL of the store; it is opened once for each container
    :param margin: how many seconds before the time of the invocation is over it is cancelled, and
        raises ``TimeoutError``; in these it releases what it holds
    :param name: names the scope in errors and events, and its circuit; module and name of ``fn`` if
        left out
    :param concurrency: how many tasks of an invocation run at a time
    :param retry: what its tasks inherit: a policy, or a number of attempts
    :param circuit_breaker: what its tasks inherit
    :param on_event: is called with the events of the scope
    :raises TypeError: if ``fn`` is not async, or an argument is of the wrong type
    :raises ValueError: if an argument is out of range
    :raises InvalidURLError: if the URL or an option of it is malformed or unknown
    """
    awaited = async_function(fn, "lambda_handler({}, store=URL)")
    if not isinstance(store, str):
        shown = redacted(repr(store))
        raise TypeError(f"store must be a URL, got {shown} of type {type(store).__name__}")
    if name is not None:
        check_name(name)
    if on_event is not None:
        check_observer("on_event", on_event)
    url = PersistenceURL.parse(store)
    find_opener(url)(url)
    spare = seconds("margin", margin, zero=True)
    named = name or stable_name(fn)
    new_scope = partial(
        scope,
        name=named,
        concurrency=concurrency,
        retry=retry,
        circuit_breaker=circuit_breaker,
        on_event=on_event,
    )
    new_scope()  # which checks the options
    hosts = Hosts(Options(store, f"{named} container", None))

    @wraps(fn)
    def handler(event: Any, context: Any) -> T:
        exits: list[SystemExit] = []  # in the loop it would end the loop

        async def invoke(container: Scope) -> T | None:
            kept = container._home.inherited
            try:
                async with new_scope(persistence=kept, timeout=_time_left(context, spare)):
                    try:
                        return await awaited(event, context)
                    except Exception as error:
                        call_here().ran(error)
                        raise
            except SystemExit as exit_:
                exits.append(exit_)
                return None

        refuse_event_loop(callable_name(fn), f"await {callable_name(fn)}(event, context)")
        patience = _time_left(context, spare)
        value = hosts.call(invoke, patience=patience, name=callable_name(fn)).value()
        if exits:
            raise exits[0]
        return cast("T", value)

    return handler


def _time_left(context: object, margin: float) -> float | None:
    """Return the seconds that an invocation has, without the margin; ``None`` if nobody says."""
    remaining = getattr(context, "get_remaining_time_in_millis", None)
    return None if remaining is None else max(remaining() / 1000 - margin, 0.001)
