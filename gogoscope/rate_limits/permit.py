"""A permit: what a call has that was admitted, and what it returns at its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Any

from attrs import frozen

from gogoscope._core.background import Home
from gogoscope._core.cancellation import error_of_call
from gogoscope._core.hints import explains, open_already
from gogoscope.rate_limits.bucket import Bucket
from gogoscope.rate_limits.places import Place
from gogoscope.rate_limits.policy import RatePolicy, check_spent
from gogoscope.rate_limits.registry import ready


class Permit:
    """Permission for what is done in a block; made by ``limit.acquire()``."""

    __slots__ = ("_place", "_spent", "cost")

    def __init__(self, place: Place, cost: float) -> None:
        self.cost = cost
        """What the block was to cost."""
        self._place = place
        self._spent: float | None = None

    def __repr__(self) -> str:
        spent = "" if self._spent is None else f", spent {self._spent:g}"
        return f"<Permit for {self.cost:g}{spent}>"

    def spent(self, units: float) -> None:
        """Say what the block has really cost; the limit is corrected at its end.

        What was not spent is returned if nobody has reserved anything since; otherwise it is lost.
        If more was spent, the calls to come wait for it, a day at most.

        :param units: in the units of the limit, 0 or more
        :raises TypeError: if it is no number
        :raises ValueError: if it is out of range
        """
        self._spent = check_spent(units)


@explains(
    attributes=dict.fromkeys(
        ("cost", "spent"), "enter it first: async with limit.acquire() as permit"
    )
)
class Acquiring:
    """Waits for a permit, for ``async with``; made by ``limit.acquire()``."""

    # _is_open: whether somebody has entered it, or is about to.

    def __init__(self, limiter: Limiter, cost: float, cost_us: int, patience: float) -> None:
        self._limiter = limiter
        self._cost = cost
        self._cost_us = cost_us
        self._patience = patience
        self._is_open = False

    def __repr__(self) -> str:
        return f"<Acquiring key={self._limiter.policy.name!r}>"

    async def __aenter__(self) -> Permit:
        if self._is_open:
            raise open_already(self)
        self._is_open = True
        limiter = self._limiter
        try:
            place = await limiter.bucket.take(limiter.home, self._cost_us, self._patience)
        except BaseException:
            self._is_open = False
            raise
        self._permit = Permit(place, self._cost)
        return self._permit

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        permit, self._is_open = self._permit, False
        spent = permit._spent
        if spent is not None:
            await self._limiter.correct(permit._place, spent)
        error = None if exc is None else error_of_call(exc)
        if error is not None:
            await self._limiter.heed(error)


@frozen(eq=False)
class Limiter:
    """A rate limit at work in one store, for one scope or for the process."""

    policy: RatePolicy
    bucket: Bucket
    home: Home

    async def admit(self) -> None:
        """Wait until a call may go.

        :raises RateLimitExceededError: if it would have to wait for too long
        """
        policy = self.policy
        await self.bucket.take(self.home, policy._cost_us(1), policy._patience(None))

    async def heeding(self, call: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Make a call, and pause if its value or its error asks for it."""
        try:
            value = await call(*arguments)
        except BaseException as raised:
            error = error_of_call(raised)
            if error is not None:
                await self.heed(error)
            raise
        await self.heed(value)
        return value

    async def correct(self, place: Place, spent: float) -> None:
        """Return what was reserved and not spent, or take what was spent beyond."""
        more_us = self.policy._spent_us(spent) - place.cost_us
        if more_us < 0:
            await self.bucket.give_back(self.home, place, -more_us)
        elif more_us > 0:
            await self.bucket.charge(self.home, place, more_us)

    async def heed(self, outcome: object) -> None:
        """Pause if the value or the error of a call asks for it; errors of the store are noted."""
        seconds = self.policy._pause_after(outcome)
        if seconds > 0:
            ready.clear()
            bucket, home = self.bucket, self.home
            await bucket.contact.quietly(home, partial(bucket.pause, home, seconds))
