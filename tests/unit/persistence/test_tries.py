"""The tries of a request: each has time for its answer, and none comes after its budget."""

from __future__ import annotations

from itertools import pairwise

import anyio
import pytest

from gogoscope.persistence import pause_before_try
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend


@BOTH
@pytest.mark.parametrize("delay", [0.3, 0.7, 60.0])
def test_the_last_try_has_a_quarter_of_its_timeout(
    virtual_clock: VirtualClock, backend: Backend, delay: float
) -> None:
    async def program() -> None:
        deadline = anyio.current_time() + 6.0
        tried = []
        while await pause_before_try(delay, timeout=2.0, deadline=deadline):
            tried.append(deadline - anyio.current_time())
        assert tried == sorted(tried, reverse=True)
        assert tried[-1] == pytest.approx(0.5)
        assert all(before - after == pytest.approx(delay) for before, after in pairwise(tried[:-1]))

    virtual_clock.run(program, backend=backend)
