"""What one event loop knows of a rate limit in its store, and the requests that it makes.

Mutable state: ``tat_us`` and ``_now_us`` are what the last answer has shown, and ``told_at`` is
when it came, by ``monotonic()``; ``until_us`` is when the longest pause ends that any answer has
shown. All but ``told_at`` are by the store's clock. ``_pause_ends`` is when a pause ends, by
``monotonic()``, that the store has not been told of, since it failed.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio

from gogoscope._core.background import Home
from gogoscope._core.clock import monotonic
from gogoscope.events import RateLimitStoreFailed, RateLimitStoreRecovered, log_warning
from gogoscope.exceptions import GogoscopeError, RateLimitExceededError, StoreTimeoutError
from gogoscope.persistence.asking import ask
from gogoscope.persistence.protocols.rate_limits import RateLimitProvider
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateLimitState, RateReply
from gogoscope.rate_limits.outage import Outage, microseconds, whole_ms

STORE_SECONDS = 2.0
"""How long a request may take before this process goes on without the store."""
LOOK_AFTER = 1.0
"""How old an answer may be for a call to go without another look, in seconds."""
KNOWN_SECONDS = 0.25
"""How long an answer is good for refusing others without asking."""

T = TypeVar("T")


class Contact:
    """A rate limit, as its store tells of it.

    :param name: the limit
    :param burst_us: what its bucket holds
    :param provider: keeps it
    :param patience: how long a request may take, in seconds
    """

    def __init__(
        self, name: str, burst_us: int, provider: RateLimitProvider, patience: float
    ) -> None:
        self.name = name
        self._burst_us = burst_us
        self._provider = provider
        self._patience = patience
        self.outage = Outage()
        self.tat_us = 0
        self._now_us = 0
        self.told_at = -math.inf
        self.until_us = 0
        self._pause_ends = -math.inf

    async def reserve(self, cost_us: int, wait_us: int) -> RateReply:
        """Reserve what costs so much, if it comes in time.

        :raises GogoscopeError: if the store fails
        """
        if self._pause_ends != -math.inf:
            await self._tell_of_pause()
        wait_us = min(wait_us, LONGEST_WAIT_US)
        return await self._learn(self._provider.reserve_rate, cost_us, self._burst_us, wait_us)

    async def charge(self, cost_us: int) -> None:
        """Take what was spent already: all of it, or as much as a place may be ahead.

        :raises GogoscopeError: if the store fails
        """
        reply = await self.reserve(cost_us, LONGEST_WAIT_US)
        if not reply.granted:
            furthest_us = reply.now_us + self._burst_us + LONGEST_WAIT_US
            room_us = furthest_us - max(reply.tat_us, reply.now_us)
            if room_us > 0:
                await self.reserve(room_us, LONGEST_WAIT_US)

    async def pause(self, seconds: float) -> None:
        """Admit nobody for a while.

        :raises GogoscopeError: if the store fails; this process pauses all the same
        """
        if self.told_at != -math.inf:
            self.until_us = max(self.until_us, self.time_us() + microseconds(seconds))
        self._pause_ends = max(self._pause_ends, monotonic() + seconds)
        await self._tell_of_pause()

    async def look(self) -> None:
        """Find out whether the limit is paused, unless that is known, or the store fails.

        :raises GogoscopeError: if the store fails
        """
        if monotonic() - self.told_at > LOOK_AFTER and self.outage.may_look():
            await self._learn(self._provider.read_rate)

    async def state(self) -> RateLimitState:
        """Return how much is used up.

        :raises GogoscopeError: if the store fails
        """
        reply = await self._ask(partial(self._provider.read_rate, self.name))
        return RateLimitState(0.0, 0.0) if reply is None else reply.state()

    async def give_back(self, tat_us: int, cost_us: int) -> bool:
        """Return what was reserved last; ``False`` if something was reserved after it.

        :param tat_us: what the bucket was with it
        :raises GogoscopeError: if the store fails
        """
        request = partial(self._provider.return_rate, self.name, tat_us, cost_us)
        returned = await self._ask(request)
        if returned and self.tat_us == tat_us:
            self.tat_us -= cost_us
        return returned

    def time_us(self) -> int:
        """Return the store's time, after its first answer."""
        passed = monotonic() - self.told_at
        return 0 if passed == math.inf else self._now_us + round(passed * 1e6)

    def paused_for(self) -> float:
        """Return how many more seconds nobody is admitted, as far as this process knows."""
        left = (self.until_us - self.time_us()) / 1e6
        return max(0.0, left, self._pause_ends - monotonic())

    def free_us(self, cost_us: int) -> int | None:
        """Return when a call may go at the earliest, by the last answer; ``None`` if not known.

        The time at which a place is free only goes forward, unless somebody returns one.
        """
        if monotonic() - self.told_at <= KNOWN_SECONDS:
            tat_us = self.tat_us
        elif self.until_us:
            tat_us = self.until_us + self._burst_us
        else:
            return None
        return tat_us + cost_us - self._burst_us

    def exceeded(self, free_us: int) -> RateLimitExceededError:
        """Return the error for a call that does not wait until it may go.

        :param free_us: when that is
        """
        return RateLimitExceededError(self.name, max(0, whole_ms(free_us) - self.time_us()) / 1e6)

    async def quietly(self, home: Home, work: Callable[[], Awaitable[object]]) -> None:
        """Do what no call depends on: that the store fails is only noted."""
        try:
            await work()
        except GogoscopeError as error:
            self.failed(home, error)

    def failed(self, home: Home, error: GogoscopeError) -> None:
        """Note that the store fails."""
        if self.outage.begin():
            log_warning("the store of rate limit %r fails", self.name, error=error)
            if home.observed:
                home.emit(RateLimitStoreFailed(home.name, self.name, error))

    def answered(self, home: Home) -> None:
        """Note that the store does not fail."""
        if self.outage.end() and home.observed:
            home.emit(RateLimitStoreRecovered(home.name, self.name))

    async def _tell_of_pause(self) -> None:
        """Tell the store of a pause, as soon as it answers.

        :raises GogoscopeError: if the store fails
        """
        ends = self._pause_ends
        left = ends - monotonic()
        if left > 0:
            await self._learn(self._provider.pause_rate, microseconds(left), self._burst_us)
        if self._pause_ends == ends:  # otherwise there was another one meanwhile
            self._pause_ends = -math.inf

    async def _learn(
        self, request: Callable[..., Awaitable[RateReply | None]], *arguments: int
    ) -> RateReply:
        reply = await self._ask(partial(request, self.name, *arguments))
        if reply is None:  # nobody has ever used it
            reply = RateReply(True, 0, 0, self.time_us())
        self.tat_us, self._now_us = reply.tat_us, reply.now_us
        self.told_at = monotonic()
        self.until_us = max(self.until_us, reply.until_us)
        return reply

    async def _ask(self, request: Callable[[], Awaitable[T]]) -> T:
        """Make a request, for as long as one may take.

        :raises GogoscopeError: if the store fails
        """
        with anyio.move_on_after(self._patience):
            return await ask(request)
        raise StoreTimeoutError(
            f"the store of rate limit {self.name!r} did not answer within {self._patience:g} s"
        )
