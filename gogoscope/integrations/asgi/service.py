"""The service while its server runs, and how it ends.

The end begins when a signal asks the server to end, or when the server shuts the lifespan down.
Most servers do that only when all requests have ended, so a stream or a WebSocket that waits for
``stopping`` would wait for ever without the signal. From its beginning the end has a bound: what
still runs after the grace is cancelled. The server answers the signal itself, in its own way.
"""

from __future__ import annotations

import math
from functools import partial

import anyio
from attrs import define, field

from gogoscope import Scope
from gogoscope._core.between import Between
from gogoscope.scopes.signals import handled_by_others, listen

STOPPING = "the service is stopping"


@define(eq=False)
class Service:
    """The scope of a service, and the requests in flight.

    ``_asked`` is set when the end is to begin; ``_began`` tells that it has. ``_ends_at`` is when
    the grace is over.

    The application's lifespan runs in ``starting``, which ``has_started`` lets alone: it tells that
    the application has answered the startup.

    :param scope: the open scope
    :param grace: how many seconds the end may take before what still runs is cancelled
    """

    scope: Scope
    _grace: float
    starting: anyio.CancelScope = field(factory=anyio.CancelScope)
    has_started: bool = False
    _ends_at: float = math.inf
    _asked: anyio.Event = field(factory=anyio.Event)
    _began: bool = False
    _requests: set[Scope] = field(factory=set)

    @property
    def is_over(self) -> bool:
        """Whether nothing runs any more, since the grace is over."""
        return anyio.current_time() >= self._ends_at

    def watch(self) -> None:
        """Begin the end when a signal asks for it that the server handles."""
        self.scope._home.spawn(self._cut_off, brief=False)
        if signals := handled_by_others():
            listen(self.scope._home, signals, lambda _: self._asked.set())

    def begin_end(self) -> None:
        """Begin the end, if it has not begun."""
        self._asked.set()
        if not self._began:
            self._began = True
            self._ends_at = anyio.current_time() + self._grace
            self.scope.stopping.set()

    async def end(self) -> None:
        """Let what still runs end within what is left of the grace, then cancel it."""
        self.begin_end()
        await self.scope.stop(max(self._ends_at - anyio.current_time(), 0.0))

    def check_started(self) -> None:
        """Make sure that the startup was not cancelled.

        :raises TimeoutError: saying so
        """
        if self.starting.cancelled_caught:
            raise TimeoutError("the service had to end before its startup was answered")

    def in_flight(self, request: Scope) -> Between:
        """Have the scope of a request, which is open, cancelled at the end of the grace."""

        def begin() -> None:
            self._requests.add(request)
            if self.is_over:
                request.cancel(STOPPING)

        return Between(begin, partial(self._requests.discard, request))

    async def _cut_off(self) -> None:
        await self._asked.wait()  # by a callback of the event loop, which runs in no task
        self.begin_end()
        await anyio.sleep_until(self._ends_at)
        if not self.has_started:
            self.starting.cancel()
        for request in list(self._requests):
            request.cancel(STOPPING)
