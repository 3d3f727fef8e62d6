"""Who is told of events, and who runs work beside the tasks.

A capability knows the scope that uses it only as its :class:`Home`, so that neither has to know the
inside of the other: the scope offers its store, its background and its events, and the capability
attaches a :class:`Service` of its own, which the scope settles when its tasks have ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from gogoscope.events import Event, notify, subscribers

S = TypeVar("S", bound="Service")


class Observer(Protocol):
    """Who is told of events: a scope, or the process where there is none."""

    @property
    def name(self) -> str:
        """Its name, which events carry; empty for the process."""
        ...

    @property
    def observed(self) -> bool:
        """Whether anybody wants its events."""
        ...

    def emit(self, event: Event) -> None:
        """Send an event to those who want it."""
        ...


class Spawn(Protocol):
    """Runs work in the background."""

    def __call__(self, work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
        """Run it beside the tasks; work raises no errors.

        :param brief: whether the end of the scope waits a moment for it to finish by itself
        :returns: ``False`` if nothing is run any more
        """
        ...


class Service(Protocol):
    """What a capability has to finish with its store when a scope ends."""

    @property
    def patience(self) -> float:
        """Seconds that the scope's end waits for brief background work of this service."""
        ...

    async def settle(self) -> None:
        """Tell the store everything, and release what is held, after the last task.

        The scope shields and bounds it.
        """
        ...


class Home(Observer, Protocol):
    """A scope, as capabilities know it."""

    @property
    def spawn(self) -> Spawn:
        """Runs work beside the scope's tasks."""
        ...

    def check_open(self) -> object:
        """Raise outside of the scope's block.

        :raises ScopeClosedError: there
        """
        ...

    def store(self) -> object:
        """Return the open store, or bundle of stores, of the scope."""
        ...

    def attach(self, kind: type[S], make: Callable[[Home], S]) -> S:
        """Return the scope's only service of a kind, made when it is first asked for."""
        ...


class ProcessObserver:
    """The process, as the user of what is outside of any scope."""

    __slots__ = ()

    name = ""

    @property
    def observed(self) -> bool:
        """Whether anybody listens to the whole process."""
        return bool(subscribers)

    def emit(self, event: Event) -> None:
        """Send an event to those who listen to the whole process."""
        tell_subscribers(event)


def tell_subscribers(event: Event) -> None:
    """Send an event to those who listen to the whole process."""
    for subscriber in list(subscribers):
        notify(subscriber, event)


def run_nothing(work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
    """Run no work, where there is no background."""
    return False
