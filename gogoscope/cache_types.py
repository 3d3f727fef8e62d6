"""What a cache is given and what its decorator gives, for type checkers; never imported to run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from gogoscope.events import Event

P = ParamSpec("P")
T = TypeVar("T")

Spawn = Callable[[Callable[[], Awaitable[None]]], object]


class CacheHost(Protocol):
    """Who uses a cache: a scope."""

    @property
    def name(self) -> str:
        """Its name, for events."""
        ...

    @property
    def observed(self) -> bool:
        """Whether anybody wants its events."""
        ...

    def emit(self, event: Event) -> None:
        """Send an event to those who want it."""
        ...


class CachedDecorator(Protocol):
    """Gives a function that takes the same arguments and gives the same, from the cache."""

    def __call__(self, fn: Callable[P, Awaitable[T]], /) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate an async function."""
        ...
