"""The tries of one request, which has a budget in seconds for all of them."""

from __future__ import annotations

import anyio

from gogoscope._core.clock import monotonic

LEAST_PART = 0.25


async def pause_before_try(delay: float, *, timeout: float, deadline: float) -> bool:
    """Wait before the next try of a request; return whether there is still time for it.

    A try that has little time is likely to be carried out and not answered, which leaves its caller
    in doubt. So each has a quarter of its timeout at least, and the last one begins while it has.

    :param delay: how long to wait at most, in seconds
    :param timeout: for how long a try may wait for its answer, in seconds
    :param deadline: when the budget ends, on the event loop's clock
    """
    left = deadline - LEAST_PART * timeout - monotonic()
    if left <= 0:
        return False
    await anyio.sleep(min(delay, left))
    return True
