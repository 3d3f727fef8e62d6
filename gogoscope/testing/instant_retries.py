"""Retries without delays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gogoscope import retry
from gogoscope._core.cancellation import checkpoint


@contextmanager
def instant_retries() -> Iterator[None]:
    """Make every delay between attempts zero, in the whole process, for the length of a block.

    All else of a policy works as usual: ``attempts``, ``retry_on`` and ``max_elapsed`` count, and
    ``on_retry`` gets the delay that there would have been.
    """
    before = retry.pause
    retry.pause = _no_pause
    try:
        yield
    finally:
        retry.pause = before


async def _no_pause(delay: float) -> None:
    await checkpoint()
