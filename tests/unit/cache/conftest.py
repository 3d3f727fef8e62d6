"""Every test of the cache runs in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from gogoscope.testing import VirtualClock
from tests.unit.cache.sources import Run


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a program in virtual time, and return the virtual seconds that it took."""

    def run_program(program: Callable[[], Awaitable[None]]) -> float:
        clock = VirtualClock(start=1_800_000_000.0)
        clock.run(program, backend=request.param)
        return clock.elapsed()

    return run_program
