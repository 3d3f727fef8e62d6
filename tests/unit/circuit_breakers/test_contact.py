"""What is noted of the requests to the store of a circuit."""

from __future__ import annotations

import anyio
import pytest

from gogoscope.circuit_breakers.contact import SLOW_SECONDS, Contact
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend


@BOTH
@pytest.mark.parametrize("second_begins_at", [0, 0.1])
def test_a_request_takes_too_long_though_one_that_began_before_it_was_answered(
    virtual_clock: VirtualClock, backend: Backend, second_begins_at: float
) -> None:
    contact = Contact()

    async def ask(at: float, seconds: float) -> None:
        await anyio.sleep(at)
        await contact.bounded(anyio.sleep(seconds), 10)

    async def program() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ask, 0, 0.2)
            group.start_soon(ask, second_begins_at, 1)
            await anyio.sleep(0.3)
            assert not contact.is_slow
            await anyio.sleep(SLOW_SECONDS)
            assert contact.is_slow
        assert not contact.is_slow

    virtual_clock.run(program, backend=backend)
