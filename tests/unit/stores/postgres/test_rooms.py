"""Requests wait for connections; what is not urgent waits in two queues, one after the other."""

from __future__ import annotations

from functools import partial

import anyio
import pytest

from gogoscope.persistence import NoRoomError, monotonic, urgently
from gogoscope.stores.postgres.client import PostgresClient
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend

pytest.importorskip("psycopg")


@BOTH
def test_a_silent_store_is_waited_for_no_longer_in_two_queues_than_in_one(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def main() -> None:
        client = PostgresClient("postgresql://localhost/db", 1.0, 2)

        async def hold(seconds: float) -> None:
            async with client.place(10):
                await anyio.sleep(seconds)

        async def wait() -> None:
            with pytest.raises(NoRoomError):
                async with client.place(3):
                    pytest.fail("there is no connection")
            assert monotonic() - began == pytest.approx(3)

        began = monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(hold, 2)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(wait)
            await anyio.sleep(1)
            # One of these has the other connection, and the next one that is free.
            for _ in range(2):
                group.start_soon(partial(urgently, hold(5)))

    virtual_clock.run(main, backend=backend)
