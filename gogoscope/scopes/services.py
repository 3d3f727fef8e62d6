"""What a scope offers to capabilities: events, its store, a background, and a settled end.

Capabilities attach what they have to finish (:class:`~gogoscope._core.background.Service`); nothing
here knows what that is. The order at the end of a scope, when its last task has ended:

1. background work that is brief has a moment to finish by itself,
2. what still runs in the background is cancelled, and nothing more begins there,
3. every service settles: all of them side by side, each within a bound of its own,
4. the store is closed, if the scope opened it.

``_bundle`` is the open store, once it was needed, and ``_shared`` what closes it. ``_group``
carries the background while the block is open; ``_work`` is what runs in it. ``_on_exit`` takes
what an observer exits with: events are sent in the middle of anything, which must be done all the
same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from gogoscope._core.background import Home, Service, tell_subscribers
from gogoscope._core.cancellation import cancelled_by_scope, says_cancelled
from gogoscope._core.event_loop import EventLoop
from gogoscope._core.groups import run_all
from gogoscope._core.launches import Group, Launch, Launched
from gogoscope._core.place import placed
from gogoscope.events import Event, OnEvent, new_id, notify, subscribers
from gogoscope.exceptions import ScopeClosedError
from gogoscope.scopes import doors

if TYPE_CHECKING:
    from gogoscope.persistence.bundle import Persistence
    from gogoscope.persistence.sharing import SharedStore

S = TypeVar("S", bound=Service)

BRIEF_SECONDS = 1.0
"""How long the end of a scope waits for brief background work."""
CLOSE_SECONDS = 5.0
"""How long it waits for a store to be closed."""


class Services:
    """The :class:`~gogoscope._core.background.Home` of one scope.

    :param name: the scope's name, or what returns it
    :param persistence: a URL, a store, a bundle of stores, or ``None`` for the default one
    :param on_event: is called with the scope's events
    """

    __slots__ = (
        "_attached",
        "_bundle",
        "_group",
        "_loop",
        "_name",
        "_number",
        "_on_exit",
        "_persistence",
        "_shared",
        "_work",
        "on_event",
    )

    def __init__(
        self, name: str | Callable[[], str], persistence: object, on_event: OnEvent | None
    ) -> None:
        self._name = name
        self._persistence = persistence
        self.on_event = on_event
        self._shared: SharedStore | None = None
        self._bundle: Persistence | None = None
        self._group: Group | None = None
        self._loop: EventLoop | None = None
        self._work: dict[_Background, Launch] = {}
        self._on_exit: Callable[[BaseException], object] | None = None
        self._attached: dict[type[Any], Any] = {}
        if not isinstance(persistence, str | None):
            self._bundle = doors.bundle(persistence)

    @property
    def name(self) -> str:
        """The name of the scope."""
        if not isinstance(self._name, str):
            self._name = self._name()
        return self._name

    @property
    def id(self) -> int:
        """The number of the scope in events."""
        try:
            return self._number
        except AttributeError:
            self._number: int = new_id()
            return self._number

    @property
    def observed(self) -> bool:
        """Whether anybody wants the scope's events."""
        return self.on_event is not None or bool(subscribers)

    def emit(self, event: Event) -> None:
        """Send an event to the scope's observer and to those who listen to the whole process."""
        placed(event)
        try:
            notify(self.on_event, event)
            tell_subscribers(event)
        except BaseException as exits:
            if self._on_exit is None or self._loop is None or not self._loop.is_here():
                raise
            self._on_exit(exits)

    @property
    def inherited(self) -> object:
        """The store that a scope inside inherits: the open one, if there is one by now."""
        return self._persistence if self._bundle is None else self._bundle

    def store(self) -> Persistence:
        """Return the open store."""
        if self._bundle is None:
            self._bundle = doors.bundle(doors.process_store())
        return self._bundle

    def attach(self, kind: type[S], make: Callable[[Home], S]) -> S:
        """Return the only service of a kind, made when it is first asked for."""
        service: S | None = self._attached.get(kind)
        if service is None:
            service = self._attached[kind] = make(self)
        return service

    def check_open(self) -> None:
        """Make sure that the block is open, and that its own event loop runs the caller.

        :raises ScopeClosedError: outside the block
        :raises RuntimeError: in another thread or event loop
        """
        if self._group is None:
            raise ScopeClosedError(
                f"the block of <Scope {self.name!r}> is not open; nothing can start in it"
            )
        self.check_here()

    def check_here(self) -> None:
        """Make sure that the event loop of the block, which was opened, runs the caller.

        :raises RuntimeError: in another thread or event loop
        """
        if self._loop is None or not self._loop.is_here():
            raise RuntimeError(
                f"<Scope {self.name!r}> belongs to another event loop than the one that runs here, "
                "if any does; from a worker thread of its loop, call its methods with "
                "anyio.from_thread.run_sync(method, *args), and await with anyio.from_thread.run"
            )

    async def open(self) -> None:
        """Open the store, if it was given as a URL."""
        if isinstance(self._persistence, str):
            shared = doors.shared_store(self._persistence)
            store = await shared.__aenter__()
            self._shared = shared
            try:
                self._bundle = doors.bundle(store)
            except TypeError:
                await self.close()
                raise

    def start(
        self, group: Group, loop: EventLoop, on_exit: Callable[[BaseException], object]
    ) -> None:
        """Begin the block.

        :param group: carries the work in the background
        :param on_exit: takes what an observer exits with, until the block has ended
        """
        self._group = group
        self._loop = loop
        self._on_exit = on_exit

    def end(self) -> None:
        """Note that the block has ended."""
        self._on_exit = None

    def spawn(self, work: Callable[[], Awaitable[object]], *, brief: bool = True) -> bool:
        """Run something in the background, beside the scope's tasks.

        :param brief: whether the end of the scope waits a moment for it to finish by itself
        :returns: ``False`` if nothing is run, since the scope has ended, or since another event
            loop than its own runs the caller
        """
        if self._group is None or self._loop is None or not self._loop.is_here():
            return False
        begun = _Background(work, brief)
        self._work[begun] = self._group.create_task(self._serve(begun), name="gogoscope background")
        return True

    def _launched(self) -> list[Launched]:
        """Return what runs in the background; what never began is begun again."""
        return [(handle, partial(self._begin_again, lost)) for lost, handle in self._work.items()]

    def _begin_again(self, lost: _Background) -> None:
        del self._work[lost]
        self.spawn(lost.work, brief=lost.brief)

    async def settle(self) -> None:
        """Let the store know everything, bounded, and release the locks; the tasks have ended."""
        bounds = [service.begin_end() for service in self._attached.values()]
        try:
            brief = [handle for begun, handle in self._work.items() if begun.brief]
            if brief:
                patience = min(bounds, default=BRIEF_SECONDS)
                with anyio.move_on_after(min(patience, BRIEF_SECONDS), shield=True):
                    for handle in brief:
                        await handle.wait()
        finally:
            for handle in self._work.values():
                handle.cancel()
            self._group = None
            await run_all([service.settle for service in self._attached.values()])

    async def close(self) -> None:
        """Close the store, if this scope opened it."""
        if self._shared is not None:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._shared.__aexit__(None, None, None)

    async def _serve(self, begun: _Background) -> None:
        try:
            await begun.work()
        except BaseException as raised:
            if not says_cancelled(raised) or cancelled_by_scope():
                raise
        finally:
            del self._work[begun]


class _Background:
    """Something that runs in the background."""

    __slots__ = ("brief", "work")

    def __init__(self, work: Callable[[], Awaitable[object]], brief: bool) -> None:
        self.work = work
        self.brief = brief
