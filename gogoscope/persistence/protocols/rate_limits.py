"""What a store must do to keep rate limits."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from gogoscope.persistence.rate_records import RateLimitState, RateReply


@runtime_checkable
class RateLimitProvider(Protocol):
    """Keeps rate limits: each is the time at which its bucket will be full again.

    Every method is atomic for its limit. All times are whole microseconds by the store's clock;
    costs are times, too: what a call takes of the rate. A request whose answer is lost may be sent
    again: what was reserved twice is lost, and admits nobody. How a limit changes is said by
    :mod:`gogoscope.persistence.rules.rate_limits`.
    """

    async def reserve_rate(self, name: str, cost_us: int, burst_us: int, wait_us: int) -> RateReply:
        """Reserve a place in one write, or learn from the refusal when there will be one.

        It is granted if ``tat``, or the present time if that is later, with the cost is no more
        than ``burst_us`` and ``wait_us`` ahead, and no place is further ahead than a day. The call
        goes when the ``tat_us`` of the reply is no more than ``burst_us`` ahead.

        :param name: the limit
        :param cost_us: what the call costs, more than 0
        :param burst_us: what the bucket holds
        :param wait_us: how long the call may wait for its place; 0 if not at all
        """
        ...

    async def return_rate(self, name: str, tat_us: int, cost_us: int) -> bool:
        """Return a place, or a part of it, if it is the last one, and the limit is not paused.

        :param tat_us: that of the reply which granted the place
        :param cost_us: what is returned of its cost
        :returns: whether it was returned
        """
        ...

    async def pause_rate(self, name: str, pause_us: int, burst_us: int) -> RateReply:
        """Admit nobody from now on for a while, a day at most; the bucket is empty then.

        A pause that lasts longer stays as it is.
        """
        ...

    async def read_rate(self, name: str) -> RateReply | None:
        """Return a limit as the newest completed write left it; ``None`` if there is none."""
        ...

    async def rate_limits(self, pattern: str | None = None) -> dict[str, RateLimitState]:
        """Return the limits that are known, by their names; one that is corrupt is left out.

        :param pattern: a glob over whole names, as for ``keys``
        """
        ...
