"""``local=``: within its time a duplicate makes no request."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import (
    KeptError,
    LocalCache,
    Once,
    PayloadMismatchError,
    ResultNotKeptError,
    RunInProgressError,
    scope,
)
from gogoscope.events import Event, RunFound
from gogoscope.stores import MemoryStore
from gogoscope.testing import UnpluggableStore, VirtualClock
from tests.support.backends import Backend
from tests.unit.jobs.transacting_store import TransactingStore
from tests.unit.runs.run_store import RunStore


class Effect:
    """Counts how often it was had."""

    def __init__(self, value: Any = "receipt") -> None:
        self.calls = 0
        self.value = value

    async def __call__(self) -> Any:
        self.calls += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def once(local: LocalCache, key: str = "charge", **options: Any) -> Once:
    return Once(key, 600, local=local, **options)


def test_a_duplicate_makes_no_request_within_its_time(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store, effect, local = UnpluggableStore(MemoryStore()), Effect({"a": [1]}), LocalCache(9, 5)
        events: list[Event] = []
        async with scope(persistence=store, on_event=events.append) as s:
            for n in range(10):
                result = await s.call(effect, once=once(local))
                assert result == {"a": [1]}
                result["a"].append(n)  # what a caller does to its result is its own business
            async with s.claim("charge", 600, local=local) as run:
                assert run.done
                assert run.result == {"a": [1]}
            assert store.requests.total() == 2
            await anyio.sleep(5)
            assert await s.call(effect, once=once(local)) == {"a": [1]}
            assert store.requests.total() == 3
            await s.call(effect, once=once(local))  # it was seen in the store, and kept again
            assert store.requests.total() == 3
            await s.call(effect, once=Once("charge", 600))
            assert store.requests.total() == 4
        assert effect.calls == 1
        assert sum(isinstance(event, RunFound) for event in events) == 13

    virtual_clock.run(program, backend=backend)


def test_a_result_is_not_returned_after_its_own_end(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store, effect, local = MemoryStore(), Effect(), LocalCache(9, 3_600)
        async with scope(persistence=store) as s:
            for _ in range(2):
                await s.call(effect, once=once(local))
                await anyio.sleep(599)
            assert effect.calls == 1
            await anyio.sleep(2)
            await s.call(effect, once=once(local))
            assert effect.calls == 2
            # So it is for a process that has only seen it.
            seen = LocalCache(9, 3_600)
            await anyio.sleep(300)
            await s.call(effect, once=once(seen))
            await anyio.sleep(299)
            await s.call(effect, once=once(seen))
            assert effect.calls == 2
            await anyio.sleep(2)
            await s.call(effect, once=once(seen))
        assert effect.calls == 3

    virtual_clock.run(program, backend=backend)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.anyio
async def test_every_verdict_is_kept_and_nothing_else() -> None:
    store, local = UnpluggableStore(MemoryStore()), LocalCache(9, 60)
    async with scope(persistence=store) as s:
        failing = Effect(ValueError("declined"))
        keeps = once(local, "failed", keep_errors=ValueError)
        assert isinstance((await s.task(failing, once=keeps)).error, ValueError)
        assert await s.call(Effect((1, 2)), once=once(local, "unkept")) == (1, 2)
        before = store.requests.total()
        for _ in range(3):
            assert isinstance((await s.task(failing, once=keeps)).error, KeptError)
            with pytest.raises(ResultNotKeptError):
                await s.call(Effect(), once=once(local, "unkept"))
        assert store.requests.total() == before

        broken = Effect(OSError("broken"))
        for _ in range(3):
            assert isinstance((await s.task(broken, once=once(local, "open"))).error, OSError)
        assert broken.calls == 3


@pytest.mark.anyio
async def test_another_payload_is_an_error_without_a_request() -> None:
    store, local = UnpluggableStore(MemoryStore()), LocalCache(9, 60)
    async with scope(persistence=store) as s:
        await s.call(Effect(), once=once(local, payload={"amount": 1}))
        before = store.requests.total()
        with pytest.raises(PayloadMismatchError):
            await s.call(Effect(), once=once(local, payload={"amount": 2}))
        assert await s.call(Effect(), once=once(local, payload={"amount": 1})) == "receipt"
        assert store.requests.total() == before


@pytest.mark.anyio
async def test_a_run_that_died_is_asked_for_each_time() -> None:
    store, local, effect = RunStore(), LocalCache(9, 3_600), Effect()
    await store.die_running("charge", lease=5, after_crash="ask")
    async with scope(persistence=store) as s:
        with pytest.raises(RunInProgressError):
            await s.call(effect, once=once(local, wait=0))
        store.clock.now += 6
        assert (await s.task(effect, once=once(local, after_crash="ask"))).error is not None
        assert await store.resolve_run("charge", repeat=True)
        assert await s.call(effect, once=once(local)) == "receipt"
    assert effect.calls == 1


@pytest.mark.anyio
async def test_a_run_of_another_store_or_key_is_another_run() -> None:
    local, effect = LocalCache(9, 60), Effect()
    for store in (MemoryStore(), MemoryStore()):
        async with scope(persistence=store) as s:
            for key in ("a", "b", "a"):
                await s.call(effect, once=once(local, key))
    assert effect.calls == 4


@pytest.mark.anyio
async def test_it_is_bounded_in_number() -> None:
    store, local = UnpluggableStore(MemoryStore()), LocalCache(2, 60)
    async with scope(persistence=store) as s:
        for key in ("a", "b", "c"):
            await s.call(Effect(), once=once(local, key))
        assert len(local) == 2
        before = store.requests.total()
        await s.call(Effect(), once=once(local, "c"))
        assert store.requests.total() == before
        await s.call(Effect(), once=once(local, "a"))
        assert store.requests.total() == before + 1


@pytest.mark.anyio
async def test_what_a_transaction_has_completed_is_kept_likewise() -> None:
    inner, local = TransactingStore(), LocalCache(9, 60)
    store = UnpluggableStore(inner)
    async with scope(persistence=store) as s:
        async with s.claim("charge", 600, local=local) as run:
            assert await inner.complete(run.transact_item("receipt"))
        before = store.requests.total()
        assert await s.call(Effect(), once=once(local)) == "receipt"
        assert store.requests.total() == before


def test_what_is_no_local_cache_is_refused() -> None:
    with pytest.raises(TypeError, match="local must be a LocalCache, got 5"):
        Once("k", 60, local=5)  # type: ignore[arg-type]
