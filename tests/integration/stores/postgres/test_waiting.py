"""Waiting for a connection costs a request nothing as long as the server answers others."""

from __future__ import annotations

import anyio
import pytest

from gogoscope.stores.postgres.store import PostgresStore
from tests.support.postgres_server import PostgresTable

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_a_queue_that_moves_is_waited_in_for_as_long_as_it_takes(
    postgres_table: PostgresTable,
) -> None:
    slow = b'SELECT clock_timestamp() AS "%TAG", pg_sleep(0.3)::text'
    async with (
        PostgresStore(
            postgres_table.database_url,
            table=postgres_table.name,
            create=True,
            pool_size=2,
            request_timeout=1,
        ) as store,
        anyio.create_task_group() as group,
    ):
        for _ in range(15):  # one after the other, they take longer than three timeouts
            group.start_soon(store._client.run, slow)
