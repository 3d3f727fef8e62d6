"""A cluster of Redis works like one server, and needs no option."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import anyio
import pytest

from gogoscope.stores.redis.store import RedisStore
from tests.support.redis_faults import FaultyRedis
from tests.support.redis_server import RedisServer, running_redis

pytestmark = [pytest.mark.anyio, pytest.mark.engine, pytest.mark.slow]

NODES = 3
SLOTS = 16_384


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def cluster() -> Iterator[list[RedisServer]]:
    """Three servers, each of which has a third of the slots."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(running_redis("--cluster-enabled", "yes")) for _ in range(NODES)
        ]
        for number, node in enumerate(nodes):
            first, end = number * SLOTS // NODES, (number + 1) * SLOTS // NODES
            assert node.send(f"CLUSTER ADDSLOTSRANGE {first} {end - 1}") == "+OK"
            assert node.send("CONFIG SET cluster-announce-ip 127.0.0.1") == "+OK"
        for node in nodes[1:]:
            assert node.send(f"CLUSTER MEET 127.0.0.1 {nodes[0].port}") == "+OK"
        yield nodes


async def ready(nodes: list[RedisServer]) -> None:
    with anyio.fail_after(30):
        while not all("cluster_state:ok" in node.cluster_info() for node in nodes):
            await anyio.sleep(0.1)


async def test_every_capability_works_on_every_server(cluster: list[RedisServer]) -> None:
    await ready(cluster)
    async with RedisStore(cluster[0].url, key_prefix="app:") as store:
        for n in range(60):
            await store.set(f"k{n}", n)
            assert await store.record_failure(f"c{n}", 3) == 1
            handle = await store.acquire(f"job{n}", 60)
            assert handle is not None
            assert await store.acquire(f"job{n}", 60) is None
            assert await handle.release()
        assert await store.get_many([f"k{n}" for n in range(60)]) == {f"k{n}": n for n in range(60)}
        assert sorted(await store.keys()) == sorted(f"k{n}" for n in range(60))
        assert all(int(node.send("DBSIZE")[1:]) > 20 for node in cluster)
    async with RedisStore(cluster[1].url, key_prefix="app:") as store:
        faulty = FaultyRedis(store)
        assert await store.get("k7") == 7
        faulty.calls.clear()
        assert await store.get("k7") == 7
        assert faulty.calls == ["load"]  # who has the slot is known by now
        await store.clear()
        assert await store.keys() == []
        assert await store.get("k7") is None


async def test_a_slot_that_moves_is_followed(cluster: list[RedisServer]) -> None:
    await ready(cluster)
    async with RedisStore(cluster[0].url) as store:
        await store.set("k", 1)
        name = "gogoscope:cache:k"
        slot = int(cluster[0].send(f"CLUSTER KEYSLOT {name}")[1:])
        source = cluster[slot * NODES // SLOTS]
        target = next(node for node in cluster if node is not source)
        ids = {node.port: node.text("CLUSTER MYID") for node in (source, target)}
        assert target.send(f"CLUSTER SETSLOT {slot} IMPORTING {ids[source.port]}") == "+OK"
        assert source.send(f"CLUSTER SETSLOT {slot} MIGRATING {ids[target.port]}") == "+OK"
        assert await store.get("k") == 1
        moved = source.send(f"MIGRATE 127.0.0.1 {target.port} {name} 0 5000")
        assert moved == "+OK"
        assert await store.get("k") == 1  # the source says whom to ask
        for node in (target, source):
            assert node.send(f"CLUSTER SETSLOT {slot} NODE {ids[target.port]}") == "+OK"
        assert await store.get("k") == 1
        await store.set("k", 2)
        assert await store.get("k") == 2
