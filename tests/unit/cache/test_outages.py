"""A store that fails: the function is called, and what still works of the store is used."""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope import (
    Cache,
    ConfigurationError,
    CorruptRecordError,
    GogoscopeError,
    LockHandle,
    Persistence,
    RecordTooLargeError,
    StoreConnectionError,
    scope,
)
from gogoscope.cache.outages import OUTAGE_SECONDS, STORE_SECONDS
from gogoscope.events import CacheStoreFailed, CacheStoreRecovered, Event
from gogoscope.persistence.protocols.cache import CacheEntry
from gogoscope.stores.memory import MemoryStore
from tests.unit.cache.sources import DOWN, FaultyStore, Run, Source


class Failing(MemoryStore):
    """A store whose requests are counted, and of which some fail, by the names of its methods."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = failing
        self.requests: Counter[str] = Counter()

    def _request(self, name: str) -> None:
        self.requests[name] += 1
        if name in self.failing:
            raise StoreConnectionError(f"{name} fails")

    async def get_entry(self, key: str, **options: bool) -> CacheEntry | None:
        self._request("get_entry")
        return await super().get_entry(key, **options)

    async def set(self, *args: Any, **options: Any) -> bool:
        self._request("set")
        return await super().set(*args, **options)

    async def acquire(self, key: str, ttl: Any, owner: str | None = None) -> LockHandle | None:
        self._request("acquire")
        return await super().acquire(key, ttl, owner)


OWN_ERRORS: list[Exception] = [
    RuntimeError("a bug of the store"),
    KeyError("AccessKeyId"),
    TypeError("another bug"),
    json.JSONDecodeError("no JSON", "", 0),
    ExceptionGroup("of a task group", [OSError("one"), KeyError("two")]),
]
"""What a store may raise that is no error of ours."""


class Echo:
    """Loads what it is asked for, and notes it."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    async def load(self, key: str) -> str:
        self.loaded.append(key)
        return key


@pytest.mark.parametrize("failing", ["set", "acquire"])
@pytest.mark.parametrize("times", [1, 5])
def test_stored_values_are_found_while_locks_or_writes_fail(
    run: Run, failing: str, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = Failing(failing), Echo()
        await MemoryStore.set(store, "hot", "kept", 60)
        cache = Cache(store)
        for number in range(times):
            await cache.get_or_set(f"cold {number}", source.load, 60, "cold")
            assert await cache.get_or_set("hot", source.load, 60, "hot") == "kept"
        assert source.loaded == ["cold"] * times
        assert store.requests[failing] == 1
        await anyio.sleep(OUTAGE_SECONDS)
        await cache.get_or_set("another", source.load, 60, "cold")
        assert store.requests[failing] == 2

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        run(program)
    assert len(caplog.records) == 1


def test_values_are_kept_while_locks_fail_and_locks_are_used_on_another_cache(run: Run) -> None:
    async def program() -> None:
        store, locks, source = Failing(), Failing("acquire"), Echo()
        cache = Cache(Persistence(cache=store, locks=locks))
        for _ in range(3):
            assert await cache.get_or_set("k", source.load, 60, "k") == "k"
        assert source.loaded == ["k"]
        assert await Cache(store).get_or_set("other", source.load, 60, "other") == "other"
        assert (store.requests["acquire"], locks.requests["acquire"]) == (1, 1)

    run(program)


def test_a_store_that_cannot_be_read_is_left_alone_altogether(run: Run) -> None:
    async def program() -> None:
        store, source = Failing("get_entry", "acquire", "set"), Echo()
        for _ in range(3):
            assert await Cache(store).get_or_set("k", source.load, 60, "k") == "k"
        assert store.requests == {"get_entry": 1}

    run(program)


@pytest.mark.parametrize("failing", ["*", "get_entry", "acquire", "set", "release_lock"])
def test_the_function_is_called_whichever_request_fails(
    run: Run, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source()
        store.failures[failing] = DOWN
        cache = Cache(store)
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(cache.get_or_set, "k", source.load, 60)
        assert source.loads == 1

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        run(program)
    assert len(caplog.records) == 1


def test_a_renewal_that_fails_does_not_disturb_the_load(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(20)
        store.failures["renew_lock"] = DOWN
        assert (await Cache(store).get_or_set("k", source.load, 60))["number"] == 1

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        run(program)
    assert "could not be renewed" in caplog.text


def test_the_beginning_and_the_end_of_an_outage_are_each_told_once(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []

    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        async with scope(persistence=store, name="main", on_event=events.append) as s:
            store.failures["*"] = DOWN
            for _ in range(40):
                await s.cache.get_or_set("k", source.load, 60)
                await anyio.sleep(0.1)
            assert source.loads == 40
            assert store.requests.total() <= 4 / OUTAGE_SECONDS + 1
            with pytest.raises(StoreConnectionError):
                await s.cache.set("k", 1)
            store.failures.clear()
            await anyio.sleep(OUTAGE_SECONDS)
            for _ in range(3):
                assert (await s.cache.get_or_set("k", source.load, 60))["number"] == 41

    with caplog.at_level(logging.WARNING, logger="gogoscope"):
        run(program)
    assert len(caplog.records) == 1
    told = [event for event in events if isinstance(event, CacheStoreFailed | CacheStoreRecovered)]
    assert told == [CacheStoreFailed("main", DOWN), CacheStoreRecovered("main")]


def test_a_silent_store_delays_one_call_for_a_bounded_time_and_no_other(
    run: Run,
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.hanging = True
        cache = Cache(store)
        begin = anyio.current_time()
        await cache.get_or_set("k", source.load, 60)
        assert anyio.current_time() - begin == pytest.approx(STORE_SECONDS)
        for number in range(100):
            await cache.get_or_set(f"k{number}", source.load, 60)
        assert anyio.current_time() - begin == pytest.approx(STORE_SECONDS)
        assert source.loads == 101

    run(program)


def test_a_misconfigured_store_fails_no_caller(run: Run) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.failures["*"] = ConfigurationError("there is no table")
        assert (await Cache(store).get_or_set("k", source.load, 60))["number"] == 1

    run(program)


def test_a_corrupt_value_is_replaced(run: Run) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.failures["get_entry"] = CorruptRecordError("not JSON")
        cache = Cache(store)
        assert (await cache.get_or_set("k", source.load, 60))["number"] == 1
        store.failures.clear()
        assert (await cache.get_or_set("k", source.load, 60))["number"] == 1

    run(program)


def test_a_result_too_large_to_store_is_returned(run: Run) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        store.failures["set"] = RecordTooLargeError("too large")
        assert (await Cache(store).get_or_set("k", source.load, 60))["number"] == 1

    run(program)


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        ("get_entry", CorruptRecordError("the stored value 'k' is not JSON")),
        ("set", RecordTooLargeError("too large")),
        ("acquire", CorruptRecordError("the stored lock cannot be understood")),
    ],
)
def test_what_is_wrong_with_one_value_is_no_outage_and_is_logged_once(
    run: Run, failing: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(0)
        told: list[Event] = []
        store.failures[failing] = error
        async with scope(persistence=store, on_event=told.append) as s:
            for _ in range(3):
                await s.cache.get_or_set("k", source.load, 60)
                await store.delete("k")
        assert not [event for event in told if isinstance(event, CacheStoreFailed)]
        assert caplog.text.count(str(error)) == 1

    run(program)


@pytest.mark.parametrize("error", OWN_ERRORS, ids=repr)
@pytest.mark.parametrize(
    "failing", ["get_entry", "set", "delete", "acquire", "release_lock", "renew_lock", "*"]
)
def test_whatever_a_store_raises_fails_no_caller(
    run: Run, failing: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def program() -> None:
        store, source = FaultyStore(), Source(seconds=1.0)
        async with scope(persistence=store) as s:
            get = functools.partial(s.cache.get_or_set, stale_while_revalidate=60, lease=1)
            old = await get("old", source.load, 1)
            await anyio.sleep(2)
            store.failures[failing] = error
            assert (await get("new", source.load, 60))["args"] == []
            assert await get("old", source.load, 60) == old or failing in ("get_entry", "*")
            await get("nothing", anyio.sleep, 60, 0, negative_ttl=0)

    run(program)
    failures = [record.exc_info for record in caplog.records if record.exc_info]
    assert all(isinstance(failure[1], GogoscopeError) for failure in failures)


def test_an_error_of_the_store_is_told_with_its_cause(run: Run) -> None:
    told: list[Event] = []

    async def program() -> None:
        store = FaultyStore()
        store.failures["get_entry"] = KeyError("AccessKeyId")
        async with scope(persistence=store, on_event=told.append) as s:
            await s.cache.get_or_set("k", Echo().load, 60, "k")

    run(program)
    errors = [event.error for event in told if isinstance(event, CacheStoreFailed)]
    assert [str(error) for error in errors] == ["the store failed with KeyError('AccessKeyId')"]
    assert isinstance(errors[0].__cause__, KeyError)


def test_a_value_that_cannot_be_stored_is_an_error_though_the_store_says_it_oddly(
    run: Run,
) -> None:
    async def program() -> None:
        store = FaultyStore()
        store.failures["set"] = TypeError("Object of type set is not JSON serializable")

        async def load() -> set[int]:
            return {1}

        with pytest.raises(TypeError, match="not JSON serializable"):
            await Cache(store).get_or_set("k", load, 60)

    run(program)
