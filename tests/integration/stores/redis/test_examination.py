"""What a Redis server is found to be set up like."""

from __future__ import annotations

from typing import Any

import pytest

from gogoscope.stores import RedisStore
from tests.support.redis_server import running_redis

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Examine on asyncio alone: the client runs on nothing else."""
    return request.param


async def examined(url: str) -> dict[str, tuple[str, str]]:
    async with RedisStore(url) as store:
        return {one.check: (one.state, one.found) for one in await store.examine()}


async def test_a_server_that_keeps_everything_is_fine() -> None:
    with running_redis("--appendonly", "yes") as server:
        found = await examined(server.url)
        assert {state for state, _ in found.values()} == {"fine"}
        assert found["eviction policy"][1] == "noeviction"
        assert "give or take" in found["clock"][1]


@pytest.mark.filterwarnings("ignore")
async def test_a_server_that_removes_keys_when_it_is_full_is_wrong() -> None:
    with running_redis("--maxmemory-policy", "allkeys-lru", "--maxmemory", "1mb") as server:
        found = await examined(server.url)
        assert found["eviction policy"] == ("wrong", "allkeys-lru, 0 keys evicted")
        assert found["memory"][0] == "wrong"  # an empty server takes almost as much
        assert found["durability"][0] == "doubtful"


async def test_a_replica_is_wrong() -> None:
    with running_redis() as primary, running_redis() as replica:
        async with RedisStore(replica.url) as store:
            replica.send(f"REPLICAOF 127.0.0.1 {primary.port}")
            found = {one.check: one.state for one in await store.examine()}
        assert found["role"] == "wrong"


async def test_what_may_not_be_seen_is_doubtful() -> None:
    with running_redis() as server:
        commands = "+eval +evalsha +get +set +getrange +scan +time"
        server.send(f"ACL SETUSER ann on >pw ~gogoscope:* {commands}")
        async with RedisStore(f"redis://ann:pw@127.0.0.1:{server.port}") as store:
            first, clock = await store.examine()
            assert (first.check, first.state) == ("server", "doubtful")
            assert (clock.check, clock.state) == ("clock", "fine")
            assert "every key of the database" in await store.describe_scan()


async def test_a_scan_says_how_many_keys_there_are() -> None:
    with running_redis() as server:
        async with RedisStore(server.url) as store:
            await store.set_many(dict.fromkeys(map(str, range(1200))))
            assert "all 1,200 keys" in await store.describe_scan()


async def test_keys_of_every_prefix_are_sampled() -> None:
    with running_redis() as server:
        async with (
            RedisStore(server.url, key_prefix="a:") as one,
            RedisStore(server.url, key_prefix="b:") as other,
        ):
            await one.set("k", 1)
            await other.acquire("k", 60)
            sampled = await one.sample_keys(10)
            assert (sampled["cache"], sampled["lock"]) == (["a:k"], ["b:k"])
