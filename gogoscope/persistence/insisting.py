"""The last request of a block, on which everything depends: made until the store answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from gogoscope._core.cancellation import finish
from gogoscope._core.jitter import jittered
from gogoscope.exceptions import PersistenceError, StoreTimeoutError
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS
from gogoscope.persistence.urgency import urgently

T = TypeVar("T")

AGAIN_SECONDS = 0.2
"""How long to wait before it is made once more, since the store failed."""


async def until_answered(
    request: Callable[[], Awaitable[T]], what: str, seconds: float = CLEAN_UP_SECONDS
) -> T:
    """Make a request until the store answers, whatever cancels the caller; within a bound.

    :param request: may be made twice: what was done by then is not done once more
    :param what: what the store is to say, for the error
    :param seconds: the bound
    :raises PersistenceError: if the store failed until then, or for good
    """
    failure: PersistenceError | None = None
    answers: list[T] = []

    async def insist() -> None:
        nonlocal failure
        while True:
            try:
                answers.append(await urgently(request()))
            except PersistenceError as error:
                if not error.retryable:
                    raise
                failure = error
            else:
                return
            await anyio.sleep(jittered(AGAIN_SECONDS))

    await finish(insist, seconds)
    if not answers:
        raise failure or StoreTimeoutError(f"the store did not say within {seconds:g} s {what}")
    return answers[0]
