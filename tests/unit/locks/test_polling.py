"""Waiting for a lock that another process holds: reservations, dead holders, and its end."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import LockTimeoutError, StoreTimeoutError, scope
from gogoscope.locks import polling
from gogoscope.locks.polling import RESERVE_AFTER_SECONDS
from gogoscope.locks.queue import MOST_IN_A_ROW, _queues
from gogoscope.testing import VirtualClock
from gogoscope.testing.conformance import ManualClock
from tests.support.backends import BOTH, Backend
from tests.unit.locks.counting_store import (
    LONG,
    CountingStore,
    another_process,
    settled,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> CountingStore:
    return CountingStore()


def queues() -> int:
    return sum(len(queues) for queues in _queues.all())


async def test_another_process_that_waited_gets_the_next_turn(store: CountingStore) -> None:
    elsewhere = another_process(store)
    got = anyio.Event()

    # So long that the lock is handed on, and never free by luck, until the turn is reserved.
    held_for = 2 * RESERVE_AFTER_SECONDS / MOST_IN_A_ROW

    async def keep_handing_over(s: Any) -> None:
        while not got.is_set():
            async with s.lock("job", ttl=LONG):
                await anyio.sleep(held_for)

    with anyio.fail_after(10):
        async with (
            scope(persistence=store) as s,
            scope(persistence=elsewhere) as t,
            anyio.create_task_group() as group,
        ):
            for _ in range(8):
                group.start_soon(keep_handing_over, s)
            while not store.calls["hand over"]:
                await anyio.sleep(0)
            async with t.lock("job", ttl=LONG):
                got.set()
    assert elsewhere.calls["reserve"] >= 1


async def test_a_turn_is_reserved_at_once_by_whom_a_slow_answer_has_kept_waiting_for_long(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_POLL_SECONDS", "LONGEST_POLL_SECONDS", "BUSY_POLL_SECONDS"):
        monkeypatch.setattr(polling, name, LONG)
    elsewhere = another_process(store)
    elsewhere.claims_take = 1.1 * RESERVE_AFTER_SECONDS
    handle = await store.acquire("job", LONG)
    assert handle is not None
    async with scope(persistence=elsewhere) as t:
        waiting = t.task(t.acquire_lock, "job", LONG, None)
        with anyio.fail_after(10):
            while not elsewhere.calls["reserve"]:
                await anyio.sleep(0.01)
        waiting.cancel()
        await waiting
    assert elsewhere.calls["reserve"] <= 2  # and the one that ends it


@BOTH
def test_a_turn_is_reserved_by_one_request_at_whatever_moment_a_wait_begins(
    virtual_clock: VirtualClock, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two sums that are rounded apart would have it ask for ever while a clock stands still.
    for name in ("FIRST_POLL_SECONDS", "LONGEST_POLL_SECONDS", "BUSY_POLL_SECONDS"):
        monkeypatch.setattr(polling, name, LONG)

    async def program() -> None:
        store = CountingStore(most_claims=10)
        assert await another_process(store).acquire("job", 3600) is not None
        async with scope(persistence=store) as s:
            for power in range(12):
                # The sum, beyond a power of two, has a bit less for its fraction.
                await anyio.sleep_until(2**power - 0.1)
                store.calls.clear()
                assert await s.acquire_lock("job", LONG, 0.5) is None
                assert store.calls == {"claim": 2, "reserve": 2}  # both at its beginning and end

    virtual_clock.run(program, backend=backend)


@pytest.mark.slow_elsewhere
async def test_a_reservation_is_renewed_while_its_process_waits(store: CountingStore) -> None:
    elsewhere = another_process(store)
    handle = await store.acquire("job", LONG)
    assert handle is not None
    async with scope(persistence=elsewhere) as t:
        waiting = t.task(t.acquire_lock, "job", LONG, None)
        with anyio.fail_after(20):
            while elsewhere.calls["reserve"] < 2:
                await anyio.sleep(0.01)
        await settled()
        record = await store.read_lock("job")
        assert record is not None
        assert record.next_turn is not None
        now = store._records.steady()
        assert now is not None
        assert record.next_until_ms > now.ms
        assert elsewhere.calls["reserve"] <= 4
        await handle.release()
        assert await store.acquire("job", LONG) is None
        with anyio.fail_after(5):
            assert (await waiting).unwrap() is not None


@BOTH
def test_a_reservation_does_not_lapse_while_its_process_waits_however_long_its_pauses_are(
    virtual_clock: VirtualClock, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "jittered", lambda pause: pause)

    async def program() -> None:
        store = CountingStore()
        assert await store.acquire("job", LONG) is not None
        elsewhere = another_process(store)
        elsewhere.claims_take = 0.1
        async with scope(persistence=elsewhere) as t:
            waiting = t.task(t.acquire_lock, "job", LONG, None)
            await anyio.sleep(0.5)
            for _ in range(500):
                await anyio.sleep(0.01)
                record, now = await store.read_lock("job"), store._records.steady()
                assert record is not None
                assert now is not None
                assert record.next_until_ms > now.ms
            assert elsewhere.calls["reserve"] <= 12
            waiting.cancel()
            await waiting

    virtual_clock.run(program, backend=backend)


@pytest.mark.parametrize("freed", [False, True])
async def test_a_reservation_is_ended_when_nobody_waits_any_more(
    store: CountingStore, freed: bool
) -> None:
    elsewhere = another_process(store)
    handle = await store.acquire("job", LONG)
    assert handle is not None
    async with scope(persistence=elsewhere) as t:
        waiting = t.task(t.acquire_lock, "job", LONG, None)
        while not elsewhere.calls["reserve"]:
            await anyio.sleep(0.01)
        await settled()
        if freed:
            await handle.release()
        waiting.cancel()
        await waiting
    record = await store.read_lock("job")
    assert record is not None
    assert record.next_turn is None


@BOTH
def test_a_dead_holder_and_a_dead_reservation_are_passed_over_without_trusting_clocks(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        now = 1_800_000_000.0
        dead = CountingStore(clock=ManualClock(now + 3600))
        assert await dead.acquire("job", 0.2) is not None
        assert (await dead.reserve_lock("job", "dead", 1000)).granted
        await dead.force_release("other")
        assert (await dead.acquire("other", LONG)) is not None
        assert (await dead.reserve_lock("other", "dead", 1000)).granted
        record = await dead.read_lock("other")
        assert record is not None
        await dead.release_lock("other", record.nonce or "", in_time=True)
        alive = CountingStore(clock=ManualClock(now), max_clock_skew=7200)
        alive._records = dead._records
        alive._records._clock = ManualClock(now)  # type: ignore[attr-defined]
        for key, longest in (("job", 1), ("other", 3)):
            async with scope(persistence=alive) as s:
                with anyio.fail_after(longest):
                    assert await s.acquire_lock(key, LONG, None) is not None

    virtual_clock.run(program, backend=backend)


@BOTH
def test_a_dead_holder_is_followed_as_soon_as_its_lease_is_over(
    virtual_clock: VirtualClock, backend: Backend, store: CountingStore
) -> None:
    async def program() -> None:
        elsewhere = another_process(store)
        handle = await elsewhere.acquire("job", 2)
        assert handle is not None
        deadline = handle.deadline
        async with scope(persistence=store) as s, s.lock("job", ttl=LONG):
            assert deadline - 0.1 < anyio.current_time() < deadline + 0.1

    virtual_clock.run(program, backend=backend)


class SlowStore(CountingStore):
    """Takes ``before`` and ``after`` seconds around a claim, and ``releasing`` before a release."""

    def __init__(self, before: float = 0, after: float = 0, releasing: float = 0) -> None:
        super().__init__()
        self.before, self.after, self.releasing = before, after, releasing

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        await anyio.sleep(self.before)
        reply = await super().claim_lock(*args, **options)
        await anyio.sleep(self.after)
        return reply

    async def release_lock(self, *args: Any, **options: Any) -> bool:
        await anyio.sleep(self.releasing)
        return await super().release_lock(*args, **options)


@BOTH
@pytest.mark.parametrize(
    "takes",
    [{"before": 100}, {"after": 100}, {"after": 100, "releasing": 3}],
    ids=["lost", "landed", "slow to release"],
)
@pytest.mark.parametrize("wait", [0.5, 4])
def test_a_wait_ends_in_time_though_the_store_does_not_answer(
    virtual_clock: VirtualClock, backend: Backend, takes: dict[str, float], wait: float
) -> None:
    async def program() -> None:
        store = SlowStore(**takes)
        began = anyio.current_time()
        async with scope(persistence=store) as s:
            with pytest.raises(StoreTimeoutError, match="did not answer for lock 'job'"):
                await s.acquire_lock("job", LONG, wait)
            assert anyio.current_time() - began == pytest.approx(max(wait, 1), abs=0.01)
        assert await store.holder("job") is None
        assert queues() == 0

    virtual_clock.run(program, backend=backend)


@BOTH
def test_a_wait_that_ends_names_the_holder_though_the_store_has_stopped_answering(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        store = SlowStore()
        holder = await another_process(store).acquire("job", LONG)
        assert holder is not None
        async with scope(persistence=store) as s:
            began = anyio.current_time()

            async def stop_answering() -> None:
                await anyio.sleep(1)
                store.after = 100

            s.task(stop_answering)
            with pytest.raises(LockTimeoutError, match=f"held by '{holder.owner}'"):
                async with s.lock("job", wait=3):
                    pass
            assert anyio.current_time() - began == pytest.approx(3, abs=0.01)

    virtual_clock.run(program, backend=backend)


@BOTH
@pytest.mark.parametrize(("seconds", "wait"), [(0.9, 0.01), (60, 0), (60, None)])
def test_a_free_lock_is_taken_however_short_the_wait_if_the_store_answers_soon(
    virtual_clock: VirtualClock, backend: Backend, seconds: float, wait: float | None
) -> None:
    async def program() -> None:
        async with scope(persistence=SlowStore(after=seconds)) as s:
            assert await s.acquire_lock("job", LONG, wait) is not None

    virtual_clock.run(program, backend=backend)


@pytest.mark.parametrize("wait", [0, 2])
@BOTH
def test_a_process_that_was_granted_a_lock_too_late_is_not_named_its_holder(
    virtual_clock: VirtualClock, backend: Backend, wait: float
) -> None:
    async def program() -> None:
        async with scope(persistence=SlowStore(after=0.4)) as s:
            with pytest.raises(LockTimeoutError) as caught:
                async with s.lock("job", ttl=0.3, wait=wait):
                    pass
            assert "held by" not in str(caught.value)

    virtual_clock.run(program, backend=backend)
