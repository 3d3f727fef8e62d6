"""``get_or_set`` keeps its word on every store."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import Cache
from gogoscope.cache import outages
from gogoscope.testing.conformance import OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere
from tests.conformance.places import DynamoDBPlace, MemoryPlace, RedisPlace, SQLitePlace

pytestmark = pytest.mark.anyio


class LoadingRules:
    async def test_callers_of_two_stores_on_one_place_make_one_load(
        self, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outages, "STORE_SECONDS", 30)  # no slow machine is an outage
        loads = 0

        async def load(name: str) -> list[str]:
            nonlocal loads
            loads += 1
            await anyio.sleep(0.05)
            return [name]

        async with open_store() as first, open_store() as second:
            caches = [Cache(first), Cache(second)]
            found: list[Any] = []

            async def call(number: int) -> None:
                found.append(await caches[number % 2].get_or_set("k", load, 60, "Ann"))

            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    for number in range(40):
                        group.start_soon(call, number)
        assert found == [["Ann"]] * 40
        assert loads == 1

    async def test_a_caller_cancelled_at_any_await_deprives_no_other_of_the_value(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as first, open_store() as second:

            async def attempt_at(n: int) -> CancelledAt:
                key = f"k{n}"

                async def load() -> str:
                    await anyio.sleep(0)
                    return key

                attempt = CancelledAt(Cache(first).get_or_set(key, load, 60, lease=600), n)
                found: list[str] = []

                async def call(cache: Cache) -> None:
                    found.append(await cache.get_or_set(key, load, 60, lease=600))

                with anyio.fail_after(30):
                    async with anyio.create_task_group() as group:
                        group.start_soon(attempt.run)
                        for cache in (Cache(first), Cache(second)):
                            group.start_soon(call, cache)
                assert found == [key, key]
                assert await first.holder(f"get_or_set:{key}") is None
                return attempt

            await cancel_everywhere(attempt_at)

    @pytest.mark.parametrize(
        ("paused", "then"), [("loading", "kept"), ("loading", "deleted"), ("storing", "kept")]
    )
    async def test_what_a_paused_loader_loaded_undoes_nothing_of_who_took_over(
        self, open_store: OpenStore, paused: str, then: str
    ) -> None:
        """The event loop of the first loader stands still until the other one is done."""

        async def take_over() -> None:
            async with open_store() as second:
                cache = Cache(second)
                assert await cache.get_or_set("k", load_newer, 60) == "newer"
                if then == "deleted":
                    await cache.delete("k")

        async def load_newer() -> str:
            return "newer"

        def pause() -> None:
            other = threading.Thread(target=lambda: anyio.run(take_over))
            other.start()
            other.join()

        async def load_older() -> str:
            if paused == "loading":
                pause()
            return "older"

        async with open_store() as first:
            write = first.set

            def write_later(*args: Any, **options: Any) -> Any:
                pause()
                return write(*args, **options)

            if paused == "storing":
                first.set = write_later
            cache = Cache(first)
            assert await cache.get_or_set("k", load_older, 60, lease=0.2) == "older"
            assert await cache.get("k") == ("newer" if then == "kept" else None)
            assert await first.holder("get_or_set:k") is None

    async def test_a_load_that_nobody_took_over_is_not_kept_after_its_lease(
        self, open_store: OpenStore
    ) -> None:
        async def load() -> str:
            time.sleep(0.1)  # so nothing renews the lock meanwhile
            return "late"

        async with open_store() as store:
            assert await Cache(store).get_or_set("k", load, 60, lease=0.05) == "late"
            assert not await store.has("k")

    async def test_a_key_as_long_as_a_store_holds_is_locked_as_well(
        self, open_store: OpenStore
    ) -> None:
        async def load() -> int:
            return 7

        key = "k" * 2_000
        async with open_store() as store:
            assert await Cache(store).get_or_set(key, load, 60) == 7
            assert await store.get(key) == 7


class TestMemory(LoadingRules):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return MemoryPlace().open


class TestSQLite(LoadingRules):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return SQLitePlace(tmp_path).open


@pytest.mark.usefixtures("atomic_dynamodb")
class TestDynamoDB(LoadingRules):
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Leave trio out, on which aioboto3 does not run."""
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def open_store(self, common_table_url: str) -> OpenStore:
        return DynamoDBPlace(common_table_url).open


class TestRedis(LoadingRules):
    @pytest.fixture(params=["asyncio", "uvloop"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """Leave trio out, on which redis-py does not run."""
        return "asyncio", {"use_uvloop": request.param == "uvloop"}

    @pytest.fixture
    def open_store(self, redis_engine: str) -> OpenStore:
        return RedisPlace(redis_engine).open
