"""Who waits is told at once; and waits no longer than it would if nobody told it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest

from gogoscope import Once, Tick, interval, scope
from gogoscope.cache import loading
from gogoscope.locks import line, polling
from gogoscope.permits import polling as permit_polling
from gogoscope.persistence import PersistenceURL, watching
from gogoscope.persistence.watching import Listener
from gogoscope.schedules import keeper
from gogoscope.stores.memory import MemoryStore
from gogoscope.stores.postgres.store import from_url as open_postgres
from gogoscope.stores.redis.store import from_url as open_redis
from tests.support.postgres_server import POSTGRES, running_pgbouncer
from tests.support.redis_server import REDIS

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]

PATIENCE = 30.0
NEVER = 3600.0

Open = Callable[[], AbstractAsyncContextManager[Any]]
"""Opens one more store on the data of the test, as another process would."""


@pytest.fixture(params=["memory", REDIS, POSTGRES])
def open_store(request: pytest.FixtureRequest) -> Open:
    if request.param == "memory":
        common, prefix = MemoryStore(), f"{secrets.token_hex(8)}:"

        @asynccontextmanager
        async def open_memory() -> AsyncIterator[Any]:
            yield common.with_prefix(prefix)

        return open_memory
    if request.param == "redis":
        redis = PersistenceURL.parse(request.getfixturevalue("redis_url"))
        return lambda: open_redis(redis)
    postgres = PersistenceURL.parse(request.getfixturevalue("postgres_url"))
    return lambda: open_postgres(postgres)


@pytest.fixture
def never_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look again before it is told."""
    for module in (polling, line, loading, permit_polling):
        monkeypatch.setattr(module, "FIRST_POLL_SECONDS", NEVER)
        monkeypatch.setattr(module, "LONGEST_POLL_SECONDS", NEVER)
    monkeypatch.setattr(polling, "BUSY_POLL_SECONDS", NEVER)
    monkeypatch.setattr(polling, "RESERVE_AFTER_SECONDS", NEVER)
    monkeypatch.setattr(permit_polling, "BUSY_POLL_SECONDS", NEVER)


async def heard(store: Any) -> None:
    """Wait until the server knows what the store waits for."""
    place = getattr(store._records, "_place", None)
    with anyio.fail_after(PATIENCE):
        while not store._records._watchers if place is None else not _hears(place.listener):
            await anyio.sleep(0.01)
    await anyio.sleep(0.05)  # the answer to it may be under way


def _hears(listener: Listener) -> bool:
    return bool(listener) and listener._calls.keys() <= listener._heard


@pytest.mark.usefixtures("never_polls")
async def test_a_lock_that_is_released_elsewhere_is_had_at_once(open_store: Open) -> None:
    async with open_store() as mine, open_store() as theirs:
        handle = await theirs.acquire("k", 600)

        async def wait() -> None:
            async with scope(persistence=mine) as s, s.lock("k", ttl=600):
                pass

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await heard(mine)
                assert await handle.release()


@pytest.mark.usefixtures("never_polls")
async def test_a_permit_that_is_freed_elsewhere_is_had_at_once(open_store: Open) -> None:
    async with open_store() as mine, open_store() as theirs:
        end = anyio.Event()

        async def hold(store: Any, begun: anyio.Event) -> None:
            async with scope(persistence=store) as s, s.semaphore("k", 1, ttl=600):
                begun.set()
                await end.wait()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                begun = anyio.Event()
                group.start_soon(hold, theirs, begun)
                await begun.wait()
                group.start_soon(hold, mine, anyio.Event())
                await heard(mine)
                # Who has waited for a quarter of a second takes a turn, and is told of it.
                while not (await theirs.read_permits("semaphore", "k")).waiting:
                    await anyio.sleep(0.01)
                end.set()


@pytest.mark.usefixtures("never_polls")
async def test_the_value_of_a_run_that_ends_elsewhere_is_had_at_once(open_store: Open) -> None:
    async with open_store() as mine, open_store() as theirs:
        end, values = anyio.Event(), list[int]()

        async def run(store: Any, begun: anyio.Event) -> None:
            async def effect() -> int:
                begun.set()
                await end.wait()
                return 42

            async with scope(persistence=store) as s:
                values.append(await s.call(effect, once=Once("k", 60, lease=600)))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                begun = anyio.Event()
                group.start_soon(run, theirs, begun)
                await begun.wait()
                group.start_soon(run, mine, anyio.Event())
                await heard(mine)
                end.set()
        assert values == [42, 42]


@pytest.mark.usefixtures("never_polls")
async def test_a_job_that_is_left_elsewhere_is_had_at_once(open_store: Open) -> None:
    async with open_store() as mine, open_store() as theirs:
        end = anyio.Event()

        async def work(store: Any, begun: anyio.Event) -> None:
            async with scope(persistence=store) as s, s.job("k", state={}, lease=600):
                begun.set()
                await end.wait()

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                begun = anyio.Event()
                group.start_soon(work, theirs, begun)
                await begun.wait()
                group.start_soon(work, mine, anyio.Event())
                await heard(mine)
                end.set()


async def test_a_schedule_that_is_triggered_elsewhere_runs_at_once(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "FIRST_LOOK_SECONDS", NEVER)
    monkeypatch.setattr(keeper, "LOOK_SECONDS", NEVER)
    async with open_store() as mine, open_store() as theirs:
        ran = anyio.Event()

        async def job(tick: Tick) -> None:
            ran.set()

        with anyio.fail_after(PATIENCE):
            async with scope(persistence=mine) as s:
                s.schedule("k", interval(86_400), job)
                await heard(mine)
                while not await theirs.trigger_schedule("k"):
                    await anyio.sleep(0.01)
                await ran.wait()
                await s.stop()


@pytest.mark.usefixtures("never_polls")
async def test_a_value_that_is_loaded_elsewhere_is_had_at_once(open_store: Open) -> None:
    async with open_store() as mine, open_store() as theirs:
        end, values = anyio.Event(), list[int]()

        async def get(store: Any, begun: anyio.Event) -> None:
            async def load() -> int:
                begun.set()
                await end.wait()
                return 42

            async with scope(persistence=store) as s:
                values.append(await s.cache.get_or_set("k", load, ttl=60))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                begun = anyio.Event()
                group.start_soon(get, theirs, begun)
                await begun.wait()
                group.start_soon(get, mine, anyio.Event())
                await heard(mine)
                end.set()
        assert values == [42, 42]


async def test_a_wait_that_nobody_ends_by_a_hint_ends_by_polling(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching.Watchers, "tell", lambda self, name: None)
    async with open_store() as mine, open_store() as theirs:
        handle = await theirs.acquire("k", 600)

        async def wait() -> None:
            async with scope(persistence=mine) as s, s.lock("k", ttl=600):
                pass

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await heard(mine)
                assert await handle.release()


async def test_waits_that_are_cancelled_leave_nothing_behind(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LINGER_SECONDS", 0.05)
    async with open_store() as mine, open_store() as theirs:
        for n in range(20):
            assert await theirs.acquire(f"k{n}", 600)

        async def wait(n: int) -> None:
            async with scope(persistence=mine) as s, s.lock(f"k{n}", ttl=600):
                pytest.fail("it was held")

        async with anyio.create_task_group() as group:
            for n in range(20):
                group.start_soon(wait, n)
            await heard(mine)
            group.cancel_scope.cancel()
        place = getattr(mine._records, "_place", None)
        if place is None:
            assert not mine._records._watchers
            return
        assert not place.listener
        with anyio.fail_after(PATIENCE):
            while place.listener._running:
                await anyio.sleep(0.01)
        assert not place.listener._heard


async def test_a_lock_that_is_released_in_another_thread_is_had_at_once(
    never_polls: None,
) -> None:
    common = MemoryStore()
    mine, begun, end = common.with_prefix("a:"), threading.Event(), threading.Event()

    def hold() -> None:
        async def main() -> None:
            async with scope(persistence=common.with_prefix("a:")) as s, s.lock("k", ttl=600):
                begun.set()
                await anyio.to_thread.run_sync(end.wait)

        anyio.run(main)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, hold)
            await anyio.to_thread.run_sync(begun.wait)

            async def wait() -> None:
                async with scope(persistence=mine) as s, s.lock("k", ttl=600):
                    pass

            group.start_soon(wait)
            await heard(mine)
            end.set()


@pytest.mark.engine
async def test_behind_a_pooler_nobody_listens_and_polling_goes_on(
    on_asyncio: None, postgres_url: str
) -> None:
    port = int(postgres_url.rpartition("@")[2].partition(":")[2].partition("/")[0])
    with running_pgbouncer(port) as pooled:
        url = f"{pooled}?{postgres_url.partition('?')[2]}"
        parsed = PersistenceURL.parse(url)
        async with open_postgres(parsed) as mine, open_postgres(parsed) as theirs:
            handle = await theirs.acquire("k", 600)
            assert handle is not None
            listener = mine._listener

            async def wait() -> None:
                async with scope(persistence=mine) as s, s.lock("k", ttl=600):
                    pass

            with anyio.fail_after(PATIENCE):
                async with anyio.create_task_group() as group:
                    group.start_soon(wait)
                    while not listener._deaf:
                        await anyio.sleep(0.01)
                    await handle.release()
            assert not listener._running
