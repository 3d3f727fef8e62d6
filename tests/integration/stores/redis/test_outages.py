"""A Redis that is restarted, replaced by its replica, full, busy, or not set up for locks."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gogoscope import (
    ConfigurationError,
    LeaseLostError,
    PersistenceError,
    StoreConnectionError,
    StoreTimeoutError,
    scope,
)
from gogoscope.exceptions import Effect
from gogoscope.stores.redis.store import RedisStore
from tests.support.redis_faults import Switch
from tests.support.redis_server import RedisServer, running_redis

pytestmark = [pytest.mark.anyio, pytest.mark.engine]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def lasting() -> Iterator[RedisServer]:
    """A server that keeps what it has answered when it is killed."""
    with running_redis(persistent=True) as server:
        yield server


async def test_what_was_answered_is_there_after_the_server_was_killed_and_started_again(
    lasting: RedisServer,
) -> None:
    async with RedisStore(lasting.url, request_timeout=1) as store:
        handle = await store.acquire("job", 60)
        assert handle is not None
        for n in range(1, 4):
            assert await store.record_failure("c", 9) == n
        await store.set("k", "v", 60)
        lasting.kill()
        with pytest.raises(StoreConnectionError) as caught:
            await store.get("k")
        assert caught.value.effect is not Effect.MAYBE_APPLIED
        lasting.start()
        assert await handle.extend()
        assert await store.acquire("job", 60) is None
        assert await store.record_failure("c", 9) == 4
        assert await store.get("k") == "v"
        assert await handle.release()
        again = await store.acquire("job", 60)
        assert again is not None
        assert again.fencing_token > handle.fencing_token


async def test_a_restart_that_is_quick_is_only_a_slow_answer(lasting: RedisServer) -> None:
    def restart() -> None:
        lasting.kill()
        lasting.start()

    in_doubt: list[Effect] = []

    async def count(store: RedisStore) -> None:
        for _ in range(200):
            try:
                await store.record_failure("c", 10_000)
            except StoreTimeoutError as error:
                in_doubt.append(error.effect)
            await anyio.sleep(0.005)

    async with RedisStore(lasting.url) as store:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(count, store)
            await anyio.sleep(0.3)
            await anyio.to_thread.run_sync(restart)
        counted = await store.record_failure("c", 10_000)
    # One that waits before its next try, while the others write on, may not find its id any more.
    assert in_doubt in ([Effect.MAYBE_APPLIED] * number for number in range(4))
    assert 801 - len(in_doubt) <= counted <= 801


async def test_a_lock_is_held_through_a_restart_in_its_block(lasting: RedisServer) -> None:
    async with (
        RedisStore(lasting.url) as store,
        scope(persistence=store) as s,
        s.lock("job", ttl=6) as locked,
    ):
        before = locked.expires_at
        await anyio.to_thread.run_sync(lasting.kill)
        await anyio.sleep(2.5)  # a renewal fails meanwhile
        await anyio.to_thread.run_sync(lasting.start)
        with anyio.fail_after(20):
            while locked.expires_at < before + 1:
                await anyio.sleep(0.05)
                locked.ensure()


async def test_a_server_that_was_emptied_gives_locks_anew_and_tells_the_holder() -> None:
    with running_redis() as server:
        async with RedisStore(server.url) as store:
            handle = await store.acquire("job", 60)
            assert handle is not None
            await anyio.to_thread.run_sync(server.kill)
            await anyio.to_thread.run_sync(server.start)
            assert not await handle.extend()
            again = await store.acquire("job", 60)
            assert again is not None
            assert again.fencing_token > handle.fencing_token


@asynccontextmanager
async def pair(*options: str) -> AsyncIterator[tuple[RedisServer, RedisServer, Switch]]:
    """Return a server, its replica, and a switch that clients reach one of them by."""
    async with AsyncExitStack() as stack:
        first = stack.enter_context(running_redis(*options))
        second = stack.enter_context(
            running_redis(*options, "--replicaof", f"127.0.0.1 {first.port}")
        )
        switch = Switch(first.port)
        await stack.enter_async_context(switch.running())
        with anyio.fail_after(20):
            while "master_link_status:up" not in second.info("replication"):
                await anyio.sleep(0.05)
        yield first, second, switch


def offset(server: RedisServer, of: str) -> int:
    """Return how far a server has come in what is replicated."""
    (found,) = [
        line.partition(":")[2]
        for line in server.info("replication").splitlines()
        if line.startswith(f"{of}:")
    ]
    return int(found)


async def replicated(server: RedisServer, replica: RedisServer) -> None:
    """Wait until a replica has all that its server has; WAIT knows one client's own writes only."""
    written = offset(server, "master_repl_offset")
    with anyio.fail_after(20):
        while offset(replica, "slave_repl_offset") < written:
            await anyio.sleep(0.01)


async def test_a_failover_keeps_what_the_replica_had(anyio_backend: Any) -> None:
    async with pair() as (first, second, switch), RedisStore(switch.url) as store:
        handle = await store.acquire("job", 60)
        assert handle is not None
        assert await store.record_failure("c", 9) == 1
        await store.set("k", "v")
        await replicated(first, second)
        first.kill()
        assert second.send("REPLICAOF NO ONE") == "+OK"
        await switch.turn_to(second.port)
        assert await store.acquire("job", 60) is None
        assert await handle.extend()
        assert await store.record_failure("c", 9) == 2
        assert await store.get("k") == "v"


async def test_a_failover_may_lose_the_last_writes_but_no_order_of_fencing_tokens() -> None:
    async with (
        pair() as (first, second, switch),
        RedisStore(switch.url) as store,
        RedisStore(switch.url) as other,
    ):
        before = await store.acquire("job", 60)
        assert before is not None
        assert await before.release()
        assert await store.record_failure("c", 9) == 1
        await store.set("k", "old")
        await replicated(first, second)
        assert second.send("REPLICAOF NO ONE") == "+OK"  # from here on it gets nothing more
        lost = await store.acquire("job", 60)
        assert lost is not None
        assert await store.record_failure("c", 9) == 2
        await store.set("k", "new")
        first.kill()
        await switch.turn_to(second.port)
        # The lock is granted a second time, though its lease is not over.
        second_holder = await other.acquire("job", 60)
        assert second_holder is not None
        # What the lock guards can tell the two apart, and the first holder learns that it lost.
        assert second_holder.fencing_token > lost.fencing_token > before.fencing_token
        assert not await lost.extend()
        with pytest.raises(LeaseLostError):
            lost.ensure()
        assert await other.get("k") == "old"
        assert await store.record_failure("c", 9) == 2


async def test_a_server_that_became_a_replica_is_left_for_the_one_that_takes_writes() -> None:
    async with pair() as (first, second, switch), RedisStore(switch.url) as store:
        await store.set("k", 1)
        assert second.send("REPLICAOF NO ONE") == "+OK"
        assert first.send(f"REPLICAOF 127.0.0.1 {second.port}") == "+OK"
        with pytest.raises(StoreConnectionError, match="read only") as caught:
            await RedisStore.set(store, "k", 2)
        assert caught.value.effect is not Effect.MAYBE_APPLIED
        switch._target = second.port
        assert await store.set("k", 3)
        assert await store.get("k") == 3


async def test_a_server_without_enough_replicas_writes_nothing() -> None:
    async with (
        pair("--min-replicas-to-write", "1", "--min-replicas-max-lag", "1") as (_, second, switch),
        RedisStore(switch.url, request_timeout=0.5) as store,
    ):
        handle = await store.acquire("job", 60)
        assert handle is not None
        second.kill()
        with anyio.fail_after(10):
            while True:
                try:
                    await store.set("k", 1)
                except StoreConnectionError as error:
                    refusal = error
                    break
                await anyio.sleep(0.1)
        assert refusal.effect is not Effect.MAYBE_APPLIED
        assert await store.acquire("job", 60) is None  # reading that it is held writes nothing


async def test_a_server_that_stands_still_makes_nobody_wait_longer_than_the_budget() -> None:
    with running_redis() as server:
        async with RedisStore(server.url, request_timeout=0.3) as store:
            await store.set("k", 1)
            process = server.pid
            server.signal(signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.raises(StoreTimeoutError) as caught:
                    await store.record_failure("c", 3)
                assert time.monotonic() - began < 5
                assert caught.value.effect is Effect.MAYBE_APPLIED
            finally:
                server.resume(process)
            assert await store.get("k") == 1
            assert await store.record_failure("c", 9) in (1, 2)


async def test_scripts_that_a_server_forgot_are_sent_again() -> None:
    with running_redis() as server:
        async with RedisStore(server.url) as store:
            await store.set("k", 1)
            assert server.send("SCRIPT FLUSH") == "+OK"
            assert await store.get("k") == 1
            assert await store.record_failure("c", 3) == 1


async def test_a_server_that_removes_keys_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with running_redis("--maxmemory-policy", "allkeys-lru") as server:
        async with RedisStore(server.url):
            pass
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "maxmemory-policy allkeys-lru" in record.getMessage()
    assert "set maxmemory-policy to noeviction" in record.getMessage()


async def test_a_server_that_keeps_keys_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with running_redis() as server:
        async with RedisStore(server.url):
            pass
    assert not caplog.records


async def test_a_full_server_says_so_and_has_written_nothing() -> None:
    with running_redis("--maxmemory", "2mb", "--maxmemory-policy", "noeviction") as server:
        async with RedisStore(server.url) as store:
            await store.set("k", "small")
            with pytest.raises(PersistenceError, match="maxmemory") as caught:
                for n in range(100):
                    await store.set(f"k{n}", "x" * 100_000)
            assert caught.value.effect is not Effect.MAYBE_APPLIED
            assert await store.get("k") == "small"


async def test_a_wrong_password_is_told_at_once_and_never_shown() -> None:
    with running_redis("--requirepass", "hunter2") as server:
        at = f"127.0.0.1:{server.port}/0"
        async with RedisStore(f"redis://:hunter2@{at}") as store:
            await store.set("k", 1)
            assert "hunter2" not in repr(store)
        for login in (":wrong1@", "ann:wrong1@", ""):
            with pytest.raises(ConfigurationError) as caught:
                async with RedisStore(f"redis://{login}{at}"):
                    pass
            told = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__cause__}"
            assert "wrong1" not in told
            assert at in str(caught.value)


async def test_what_the_user_may_not_do_is_a_matter_of_configuration() -> None:
    with running_redis() as server:
        commands = "+eval +evalsha +get +set +getrange +scan +time"  # the page about stores says so
        server.send(f"ACL SETUSER ann on >pw ~gogoscope:*:app:* {commands}")
        url = f"redis://ann:pw@127.0.0.1:{server.port}"
        async with RedisStore(url, key_prefix="app:") as store:
            await store.set("k", 1)
            assert await store.keys() == ["k"]
            await store.clear()
            assert await store.get("k") is None
            handle = await store.acquire("job", 60)
            assert handle is not None
            assert await handle.release()
        async with RedisStore(url, key_prefix="other:") as store:
            with pytest.raises(ConfigurationError, match="permission"):
                await store.set("k", 1)


async def test_a_database_that_the_server_lacks_is_told_at_opening() -> None:
    with running_redis() as server:
        url = f"redis://127.0.0.1:{server.port}"
        with pytest.raises(PersistenceError, match="DB index is out of range"):
            async with RedisStore(f"{url}/99"):
                pass
        async with RedisStore(f"{url}/1") as first, RedisStore(f"{url}/2") as second:
            await first.set("k", 1)
            assert not await second.has("k")
