"""What a run promises, on every store: zombies, payloads, results, cancellation, lost answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from gogoscope import (
    LeaseLostError,
    Once,
    OutcomeUnknownError,
    PayloadMismatchError,
    ResultNotKeptError,
    RunInProgressError,
    StoreTimeoutError,
    TaskCancelled,
    scope,
)
from gogoscope.persistence import open_persistence
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores import MemoryStore
from gogoscope.testing import UnpluggableStore
from tests.support.engines import DYNAMODB
from tests.support.shared_stores import SHARED_STORES, shared_store_url

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["memory", *SHARED_STORES])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else shared_store_url(request, tmp_path)


Stores = tuple[UnpluggableStore, UnpluggableStore]


@pytest.fixture
async def stores(url: str) -> AsyncIterator[Stores]:
    """The same store as two processes have it."""
    if url == "memory:":
        memory = MemoryStore()
        yield UnpluggableStore(memory), UnpluggableStore(memory)
        return
    async with open_persistence(url) as one, open_persistence(url) as other:
        yield UnpluggableStore(one), UnpluggableStore(other)


class Effect:
    """Counts how often it was had."""

    def __init__(self, value: Any = "receipt") -> None:
        self.calls = 0
        self.value = value

    async def __call__(self) -> Any:
        self.calls += 1
        return self.value


async def take_over(store: UnpluggableStore, after_crash: Any = "run") -> bool:
    """Take over the run of another process, as one does that has watched it for a whole lease."""
    record = await store.read_run("charge")
    assert record is not None
    claim = LockClaim(nonce="next", owner="next", lease_ms=60_000)
    reply = await store.claim_run("charge", claim, after_crash=after_crash, seen=record.lease)
    return reply.granted


async def complete(store: UnpluggableStore) -> None:
    outcome = store.run_outcome("of its successor")
    assert await store.complete_run("charge", "next", "done", outcome, 3_600)


@pytest.mark.parametrize("successor", ["is done", "runs"])
@pytest.mark.parametrize("zombie", ["ends", "fails", "is cancelled"])
async def test_a_zombie_changes_nothing_and_returns_nothing(
    stores: Stores, zombie: str, successor: str
) -> None:
    here, there = stores
    returned: list[Any] = []

    async def charge() -> str:
        assert await take_over(there)
        if successor == "is done":
            await complete(there)
        if zombie == "fails":
            raise ValueError("it fails late")
        if zombie == "is cancelled":
            task.cancel()
            await anyio.sleep_forever()
        return "of the zombie"

    async with scope(persistence=here) as s:
        task = s.task(charge, once=Once("charge", 3_600))
        error, value = await task
        returned.append(value)
        expected = {"ends": LeaseLostError, "fails": ValueError, "is cancelled": TaskCancelled}
        assert isinstance(error, expected[zombie])
        if successor == "runs":
            with pytest.raises(RunInProgressError):
                await s.call(Effect(), once=Once("charge", 3_600, wait=0))
            await complete(there)
        again = Effect()
        for store in stores:
            async with scope(persistence=store) as t:
                assert await t.call(again, once=Once("charge", 3_600)) == "of its successor"
    assert returned == [None]
    assert again.calls == 0


async def test_a_zombie_whose_outcome_is_unknown_does_not_say_it_any_more(stores: Stores) -> None:
    here, there = stores

    async def charge() -> str:
        assert not await take_over(there, after_crash="ask")
        return "of the zombie"

    async with scope(persistence=here) as s:
        error = (await s.task(charge, once=Once("charge", 3_600))).error
        assert isinstance(error, LeaseLostError)
        for _ in range(2):
            error = (await s.task(Effect(), once=Once("charge", 3_600))).error
            assert isinstance(error, OutcomeUnknownError)
        assert await there.resolve_run("charge", result="found")
        assert await s.call(Effect(), once=Once("charge", 3_600)) == "found"


async def test_another_payload_is_refused_in_every_process_and_at_any_time(stores: Stores) -> None:
    here, there = stores
    effect, began, may_end = Effect(), anyio.Event(), anyio.Event()

    async def charge() -> Any:
        began.set()
        await may_end.wait()
        return await effect()

    def once(amount: int) -> Once:
        return Once("charge", 3_600, payload={"amount": amount}, wait=0)

    async with scope(persistence=here) as s, scope(persistence=there) as t:
        first = s.task(charge, once=once(1))
        await began.wait()
        for caller in (s, t):
            error = (await caller.task(effect, once=once(2))).error
            assert isinstance(error, PayloadMismatchError)
        may_end.set()
        assert (await first).unwrap() == "receipt"
        for caller in (s, t):
            error = (await caller.task(effect, once=once(2))).error
            assert isinstance(error, PayloadMismatchError)
            assert await caller.call(effect, once=once(1)) == "receipt"
    assert effect.calls == 1


@pytest.mark.parametrize("value", [("no", "JSON"), {"not JSON"}, float("nan")])
async def test_a_result_that_cannot_be_kept_is_never_repeated(stores: Stores, value: Any) -> None:
    effect = Effect(value)
    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        assert await s.call(effect, once=Once("charge", 3_600)) is value
        for caller in (s, t):
            error = (await caller.task(effect, once=Once("charge", 3_600))).error
            assert isinstance(error, ResultNotKeptError)
    assert effect.calls == 1


@pytest.mark.parametrize("url", [DYNAMODB], indirect=True)
async def test_a_result_that_is_larger_than_the_store_holds_is_never_repeated(
    stores: Stores,
) -> None:
    effect = Effect("x" * 500_000)
    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        assert await s.call(effect, once=Once("charge", 3_600)) is effect.value
        error = (await t.task(effect, once=Once("charge", 3_600))).error
        assert isinstance(error, ResultNotKeptError)
    assert effect.calls == 1


async def test_a_cancelled_run_is_free_at_once(stores: Stores) -> None:
    began = anyio.Event()

    async def charge() -> None:
        began.set()
        await anyio.sleep_forever()

    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        task = s.task(charge, once=Once("charge", 3_600))
        await began.wait()
        task.cancel()
        assert isinstance((await task).error, TaskCancelled)
        assert await t.call(Effect(), once=Once("charge", 3_600, wait=0)) == "receipt"


def losing_answers(
    store: UnpluggableStore, name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let the store carry out a request of a kind, and not say so, some times."""
    request: Callable[..., Awaitable[Any]] = getattr(store, name)
    left = [times]

    async def lost(*args: Any, **options: Any) -> Any:
        answer = await request(*args, **options)
        if left[0]:
            left[0] -= 1
            raise StoreTimeoutError("the answer was lost")
        return answer

    monkeypatch.setattr(store, name, lost)


async def test_a_completion_whose_answers_are_lost_is_made_out(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect = Effect()
    losing_answers(stores[0], "complete_run", 3, monkeypatch)
    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        assert await s.call(effect, once=Once("charge", 3_600)) == "receipt"
        assert await t.call(effect, once=Once("charge", 3_600, wait=0)) == "receipt"
    assert effect.calls == 1


async def test_a_claim_whose_answer_is_lost_runs_nothing_and_blocks_nobody(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect = Effect()
    losing_answers(stores[0], "claim_run", 1, monkeypatch)
    async with scope(persistence=stores[0]) as s, scope(persistence=stores[1]) as t:
        error = (await s.task(effect, once=Once("charge", 3_600))).error
        assert isinstance(error, StoreTimeoutError)
        assert effect.calls == 0
        assert await t.call(effect, once=Once("charge", 3_600)) == "receipt"
    assert effect.calls == 1


async def test_what_lands_late_changes_nothing(stores: Stores) -> None:
    store, other = stores
    claim = LockClaim(nonce="late", owner="late", lease_ms=60_000)
    lease = (await store.claim_run("charge", claim)).record.lease
    assert await store.abandon_run("charge", "late")
    assert not (await store.claim_run("charge", claim)).granted
    assert not (await store.renew_run("charge", "late", lease.version, 60_000, 0)).granted
    text = store.run_outcome("late")
    assert not await store.complete_run("charge", "late", "done", text, 3_600)
    async with scope(persistence=other) as s:
        assert await s.call(Effect(), once=Once("charge", 3_600, wait=0)) == "receipt"
    assert not await store.complete_run("charge", "late", "done", text, 3_600)
    assert not await store.abandon_run("charge", "late")
