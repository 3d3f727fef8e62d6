"""Asking a store: the one place where what a store raises of its own becomes an error of ours.

A store may be anybody's, and may have bugs: so any await of it may raise anything. Every
capability asks its store through :func:`ask`, and then has three cases to think of, and no more:

- A :class:`~gogoscope.exceptions.GogoscopeError` says that the store failed.
- A cancellation says that the code which asks is being cancelled.
- Any other ``BaseException``, such as ``KeyboardInterrupt``, ends the program, and passes through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from types import TracebackType
from typing import ParamSpec, TypeVar

from gogoscope._core.background import Observer
from gogoscope._core.cancellation import cancellation_requested, split_cancellation
from gogoscope._core.context import get_current, observer_here
from gogoscope.events import StoreAsked, description, subscribers
from gogoscope.exceptions import Effect, GogoscopeError, UnexpectedStoreError

P = ParamSpec("P")
T = TypeVar("T")


async def ask(method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a method of a store, and return its answer.

    :raises GogoscopeError: if the store fails; what is none of our errors becomes an
        ``UnexpectedStoreError`` with that as its cause
    """
    frame = get_current()  # told(), without its calls
    if subscribers or (frame is not None and frame._home.on_event is not None):
        method = told(method)
    try:
        return await method(*args, **kwargs)
    except GogoscopeError:
        raise
    except BaseException as raised:
        cancelled, own = split_cancellation(raised)
        if own is not None and not isinstance(own, Exception):
            raise
        if cancelled is not None and cancellation_requested():
            raise _one_of(cancelled) from own
        raise UnexpectedStoreError(f"the store failed with {description(raised)}") from raised


def told(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """Return a method of a store, with an event for each answer if anybody listens."""
    observer = observer_here()
    return method if observer is None else partial(_call_and_tell, observer, method)


async def _call_and_tell(
    observer: Observer, method: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
) -> T:
    began = monotonic()
    error: BaseException | None = None
    try:
        return await method(*args, **kwargs)
    except BaseException as raised:
        error = raised
        raise
    finally:
        seconds = monotonic() - began
        observer.emit(StoreAsked(observer.name, _request(method), seconds, error))
        del error  # whose traceback has this frame


def _request(method: Callable[..., object]) -> str:
    """Return the name of a request: that of the method, which says what is leased."""
    while isinstance(method, partial):
        method = method.func
    name: str = getattr(method, "__name__", type(method).__name__).strip("_")
    leased = getattr(getattr(method, "__self__", None), "leased", "lock")
    return name.replace("lock", leased) if isinstance(leased, str) else name


class _NothingDone:
    """Says of every exception that leaves its block, cancellations included, what a store knows.

    That is: nothing was done of what it was asked for.
    """

    def __enter__(self) -> None:
        return

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is not None:
            with suppress(Exception):
                exc.effect = Effect.NOT_SENT  # type: ignore[attr-defined]


nothing_done = _NothingDone()


def _one_of(cancelled: BaseException) -> BaseException:
    """Return a cancellation, or one out of a group of them, which says as much."""
    while isinstance(cancelled, BaseExceptionGroup):
        cancelled = cancelled.exceptions[0]
    return cancelled
