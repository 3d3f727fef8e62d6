"""What a PostgreSQL server, and what a user may do there, are found to be."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest

from gogoscope import open_persistence
from tests.support.postgres_server import PostgresTable, execute

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Examine on asyncio alone: the client runs on nothing else."""
    return request.param


async def test_a_table_of_ones_own_is_fine(postgres_table: PostgresTable) -> None:
    async with open_persistence(postgres_table.url) as opened:
        store: Any = opened
        found = {one.check: one for one in await store.examine()}
        assert found["server"].found.startswith("PostgreSQL ")
        assert found["privileges"].found == "SELECT, INSERT, UPDATE, DELETE"
        assert found["clock"].state == found["role"].state == "fine"
        assert found["durability"].state == "doubtful"  # this one runs without fsync
        assert postgres_table.name in await store.describe_scan()


async def test_what_a_user_may_not_do_is_wrong(
    postgres_table: PostgresTable, postgres_engine: str
) -> None:
    async with open_persistence(postgres_table.url) as store:
        await store.set("k", 1)
    user = postgres_table.name.replace("gogoscope", "user")
    execute(postgres_engine, f"CREATE ROLE {user} LOGIN PASSWORD 'pw'")
    execute(postgres_engine, f"GRANT SELECT, INSERT ON {postgres_table.name} TO {user}")
    try:
        parts = urlsplit(postgres_table.url)
        server = parts.netloc.rpartition("@")[2]
        url = parts._replace(netloc=f"{user}:pw@{server}").geturl()
        async with open_persistence(url) as opened:
            store_of_user: Any = opened
            found = {one.check: one for one in await store_of_user.examine()}
        assert found["privileges"].state == "wrong"
        assert found["privileges"].found == "no UPDATE, DELETE"
        assert found["privileges"].advice.startswith("GRANT UPDATE, DELETE ON ")
    finally:
        execute(postgres_engine, f"DROP OWNED BY {user}")
        execute(postgres_engine, f"DROP ROLE {user}")


async def test_keys_of_every_prefix_are_sampled(postgres_table: PostgresTable) -> None:
    async with (
        open_persistence(f"{postgres_table.url}&key_prefix=a:") as one,
        open_persistence(f"{postgres_table.url}&key_prefix=b:") as other,
    ):
        await one.set("k", 1)
        await other.acquire("k", 60)
        store: Any = one
        sampled = await store.sample_keys(10)
        assert (sampled["cache"], sampled["lock"]) == (["a:k"], ["b:k"])
