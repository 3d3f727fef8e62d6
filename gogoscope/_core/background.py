"""How a capability and the scope that uses it know each other.

A capability knows the scope only as its :class:`Home`, which offers a store, background work and
events. The scope knows the capability only as a :class:`Service` that is attached to it, and
settles the service when its tasks have ended. Neither knows the inside of the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from gogoscope._core.place import placed
from gogoscope.events import Event, OnEvent, notify, subscribers

S = TypeVar("S", bound="Service")


class Observer(Protocol):
    """Receives events: a scope, or the process outside of any scope."""

    @property
    def name(self) -> str:
        """The name in its events; empty for the process."""
        ...

    @property
    def observed(self) -> bool:
        """Whether anybody listens to its events."""
        ...

    def emit(self, event: Event) -> None:
        """Send an event to those who listen, with the place where it happened."""
        ...


class Spawn(Protocol):
    """Runs work in the background."""

    def __call__(self, work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
        """Run it beside the tasks; work raises no errors.

        :param brief: whether the end of the scope waits a moment for it to finish by itself
        :returns: ``False`` if nothing is run, since the scope has ended, or since another event
            loop than its own runs the caller
        """
        ...


class Service(Protocol):
    """What a capability has to finish when a scope ends."""

    def begin_end(self) -> float:
        """Note that the scope begins to end: its last task has ended.

        :returns: seconds to wait for brief background work of this service
        """
        ...

    async def settle(self) -> None:
        """Send the store what it does not know yet, and release what is held, after the last task.

        The scope shields and bounds it.
        """
        ...


class Home(Observer, Protocol):
    """A scope, as its capabilities know it."""

    on_event: OnEvent | None
    """What is called with its events."""

    @property
    def id(self) -> int:
        """Its number in events."""
        ...

    @property
    def spawn(self) -> Spawn:
        """Runs work beside the scope's tasks."""
        ...

    def check_open(self) -> object:
        """Make sure that the scope's block is open.

        :raises ScopeClosedError: if it is not
        """
        ...

    def check_here(self) -> None:
        """Make sure that the event loop of the scope runs the caller.

        :raises RuntimeError: in another thread or event loop
        """
        ...

    def store(self) -> object:
        """Return the open store, or bundle of stores, of the scope."""
        ...

    def attach(self, kind: type[S], make: Callable[[Home], S]) -> S:
        """Return the scope's only service of a kind, made when it is first used."""
        ...


class ProcessObserver:
    """Receives the events of what is used outside of any scope."""

    __slots__ = ()

    name = ""

    @property
    def observed(self) -> bool:
        """Whether anybody listens to the whole process."""
        return bool(subscribers)

    def emit(self, event: Event) -> None:
        """Send an event to those who listen to the whole process."""
        tell_subscribers(placed(event))


def tell_subscribers(event: Event) -> None:
    """Send an event to those who listen to the whole process."""
    for subscriber in list(subscribers):
        notify(subscriber, event)


def run_nothing(work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
    """Run no work: there is no background."""
    return False
