"""Waiting for a permit: in turn, behind one poller, handed over in one write."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from typing import Any

import anyio
import pytest

from gogoscope import (
    GogoscopeError,
    LeaseLostError,
    LockTimeoutError,
    Scope,
    StoreConnectionError,
    StoreTimeoutError,
    Task,
    scope,
)
from gogoscope.permits import line, polling
from gogoscope.permits.waiting import Waiter, Wanted
from gogoscope.persistence.lock_handle import IN_STORE, LockHandle
from gogoscope.persistence.permit_records import PermitsRecord
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend
from tests.unit.permits.watched_store import WatchedStore, another_process, settled

pytestmark = pytest.mark.anyio

FIVE = 20


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture(autouse=True)
def nobody_takes_a_stalled_machine_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "TURN_SECONDS", 120.0)


def lines() -> int:
    return sum(len(lines) for lines in line._lines.all())


class Holder:
    """A task that holds a permit until it is told to leave."""

    def __init__(self, s: Scope, block: Any) -> None:
        self.got = anyio.Event()
        self._leave = anyio.Event()
        self.task: Task[None] = s.task(self._hold, block)

    async def _hold(self, block: Any) -> None:
        async with block:
            self.got.set()
            await self._leave.wait()

    @property
    def holds(self) -> bool:
        return self.got.is_set() and not self.task.done

    async def enter(self) -> Holder:
        with anyio.fail_after(FIVE):
            await self.got.wait()
        return self

    async def leave(self) -> None:
        self._leave.set()
        with anyio.fail_after(FIVE):
            (await self.task).unwrap()


async def record(store: WatchedStore, kind: Any = "semaphore", key: str = "k") -> PermitsRecord:
    found = await store.read_permits(kind, key)
    assert found is not None
    return found


async def test_a_free_permit_is_one_request_and_its_release_another(store: WatchedStore) -> None:
    async with scope(persistence=store) as s:
        async with s.semaphore("k", 2), s.read_lock("k"):
            pass
        async with s.write_lock("k"):
            pass
    assert store.calls == {"claim_permit": 3, "release_permit": 3}


@pytest.mark.slow_elsewhere
async def test_local_waiters_get_a_permit_first_in_first_out(store: WatchedStore) -> None:
    order: list[int] = []

    async def work(s: Scope, number: int) -> None:
        async with s.semaphore("k", 2):
            order.append(number)
            await settled()

    with anyio.fail_after(FIVE):
        async with scope(persistence=store) as s:
            for number in range(12):
                s.task(work, s, number)
                await settled()
    assert order == list(range(12))
    assert lines() == 0


async def test_a_handover_is_one_request(store: WatchedStore) -> None:
    async def work(s: Scope) -> None:
        async with s.semaphore("k", 1):
            await anyio.sleep(0)

    with anyio.fail_after(FIVE):
        async with scope(persistence=store) as s:
            for _ in range(10):
                s.task(work, s)
    assert store.calls == {"claim_permit": 1, "hand_over_permit": 9, "release_permit": 1}


@pytest.mark.slow_elsewhere
async def test_while_all_are_held_here_waiting_sends_nothing(store: WatchedStore) -> None:
    async with scope(persistence=store) as s:
        one = await Holder(s, s.semaphore("k", 1)).enter()
        waiting = Holder(s, s.semaphore("k", 1))
        await anyio.sleep(0.4)
        assert store.calls == {"claim_permit": 1}
        await one.leave()
        await (await waiting.enter()).leave()
    assert store.calls == {"claim_permit": 1, "hand_over_permit": 1, "release_permit": 1}


@pytest.mark.slow_elsewhere
async def test_many_waiters_send_no_more_requests_than_one(store: WatchedStore) -> None:
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        holder = await Holder(t, t.semaphore("k", 1)).enter()
        waiters = [Holder(s, s.semaphore("k", 1)) for _ in range(100)]
        with anyio.fail_after(FIVE):
            while store.calls["claim_permit"] < 3:
                await anyio.sleep(0.01)
        assert store.calls["claim_permit"] <= 30
        await holder.leave()
        for waiter in waiters:
            await (await waiter.enter()).leave()
    assert lines() == 0


async def test_whoever_holds_the_last_permits_hands_each_to_another_waiter(
    store: WatchedStore,
) -> None:
    async with scope(persistence=store) as s:
        held = [await Holder(s, s.semaphore("k", 2)).enter() for _ in range(2)]
        waiting = [Holder(s, s.semaphore("k", 2)) for _ in range(2)]
        await settled()
        store.gate["hand_over_permit"] = gate = anyio.Event()
        first = s.task(held[0].leave)
        with anyio.fail_after(FIVE):
            await store.at_gate.wait()
        second = s.task(held[1].leave)
        await (await waiting[1].enter()).leave()
        gate.set()
        await (await waiting[0].enter()).leave()
        for leaving in (first, second):
            (await leaving).unwrap()
    assert store.calls["claim_permit"] == 2


async def test_a_writer_waits_only_for_the_readers_before_it(store: WatchedStore) -> None:
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        reader = await Holder(s, s.read_lock("k")).enter()
        writer = Holder(t, t.write_lock("k"))
        with anyio.fail_after(FIVE):
            while not (await record(store, "read_write_lock")).waiting:
                await anyio.sleep(0.001)
        late = [Holder(one, one.read_lock("k")) for one in (s, t)]
        await anyio.sleep(0.1)
        assert not any(one.holds for one in late)
        await reader.leave()
        await writer.enter()
        assert not any(one.got.is_set() for one in late)
        await writer.leave()
        for one in late:
            await (await one.enter()).leave()
    assert (await record(store, "read_write_lock")).waiting == {}


async def test_whoever_is_next_asks_as_soon_as_the_store_tells(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "BUSY_POLL_SECONDS", 3_600)
    monkeypatch.setattr(polling, "LONGEST_POLL_SECONDS", 3_600)
    monkeypatch.setattr(polling, "FIRST_POLL_SECONDS", 3_600)
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        holder = await Holder(s, s.read_lock("k", ttl=600)).enter()
        writer = Holder(t, t.write_lock("k"))
        with anyio.fail_after(FIVE):
            while not (await record(store, "read_write_lock")).waiting:
                await anyio.sleep(0.001)
        await settled()
        await holder.leave()
        await (await writer.enter()).leave()
    assert elsewhere.calls["claim_permit"] <= 3


async def test_a_waiter_that_gives_up_gives_up_its_turn(store: WatchedStore) -> None:
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        reader = await Holder(s, s.read_lock("k")).enter()
        with pytest.raises(LockTimeoutError):
            async with t.write_lock("k", wait=0.05):
                pytest.fail("it is read")
        assert elsewhere.calls["leave_turn"] == 1
        cancelled = Holder(t, t.write_lock("k"))
        with anyio.fail_after(FIVE):
            while not (await record(store, "read_write_lock")).waiting:
                await anyio.sleep(0.001)
        cancelled.task.cancel()
        await cancelled.task
        assert (await record(store, "read_write_lock")).waiting == {}
        async with t.read_lock("k", wait=0):
            pass
        await reader.leave()


@pytest.mark.slow_elsewhere
async def test_others_reserve_a_turn_when_they_have_waited_for_long(store: WatchedStore) -> None:
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        holder = await Holder(s, s.semaphore("k", 1)).enter()
        mine = Holder(s, s.semaphore("k", 1))
        other = Holder(t, t.semaphore("k", 1))
        with anyio.fail_after(FIVE):
            while not (await record(store)).waiting:
                await anyio.sleep(0.01)
        await holder.leave()
        await other.enter()
        assert not mine.holds
        await other.leave()
        await (await mine.enter()).leave()


async def test_a_turn_is_reserved_at_once_by_whom_a_slow_answer_has_kept_waiting_for_long(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_POLL_SECONDS", "LONGEST_POLL_SECONDS", "BUSY_POLL_SECONDS"):
        monkeypatch.setattr(polling, name, 600.0)
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        holder = await Holder(s, s.semaphore("k", 1)).enter()
        elsewhere.gate["claim_permit"] = answer = anyio.Event()
        other = Holder(t, t.semaphore("k", 1))
        await elsewhere.at_gate.wait()
        await anyio.sleep(1.1 * line.RESERVE_AFTER_SECONDS)
        answer.set()
        with anyio.fail_after(FIVE):
            while not (await record(store)).waiting:
                await anyio.sleep(0.01)
        assert elsewhere.calls["claim_permit"] == 2
        other.task.cancel()
        await other.task
        await holder.leave()


@BOTH
def test_a_turn_is_reserved_by_one_request_at_whatever_moment_a_wait_begins(
    virtual_clock: VirtualClock, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two sums that are rounded apart would have it ask for ever while a clock stands still.
    for name in ("FIRST_POLL_SECONDS", "LONGEST_POLL_SECONDS", "BUSY_POLL_SECONDS"):
        monkeypatch.setattr(polling, name, 600.0)

    async def program() -> None:
        store = WatchedStore(most_claims=10)
        elsewhere = another_process(store)
        async with (
            scope(persistence=store) as s,
            scope(persistence=elsewhere) as t,
            t.semaphore("k", 1, ttl=3600),
        ):
            for power in range(12):
                # The sum, beyond a power of two, has a bit less for its fraction.
                await anyio.sleep_until(2**power - 0.1)
                store.calls.clear()
                with pytest.raises(LockTimeoutError):
                    async with s.semaphore("k", 1, wait=0.5):
                        raise AssertionError
                # At the beginning, for the turn, at the end, and to give the turn up.
                assert store.calls == {"claim_permit": 3, "leave_turn": 1}

    virtual_clock.run(program, backend=backend)


async def test_a_waiter_that_is_cancelled_during_the_handover_passes_the_permit_on(
    store: WatchedStore,
) -> None:
    async with scope(persistence=store) as s:
        holder = await Holder(s, s.semaphore("k", 1)).enter()
        first, second = (Holder(s, s.semaphore("k", 1)) for _ in range(2))
        await settled()
        store.gate["hand_over_permit"] = gate = anyio.Event()
        leaving = s.task(holder.leave)
        with anyio.fail_after(FIVE):
            await store.at_gate.wait()
        first.task.cancel()
        await first.task
        gate.set()
        await (await second.enter()).leave()
        (await leaving).unwrap()
    assert (await record(store)).holders == {}
    assert lines() == 0


@BOTH
def test_who_is_handed_a_permit_sleeps_until_the_slow_answer(
    virtual_clock: VirtualClock, backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeps = 0
    set_within = line._set_within

    async def sleep(event: anyio.Event, seconds: float) -> bool:
        nonlocal sleeps
        sleeps += 1
        assert sleeps <= 10, "pauses of no time, while a virtual clock stands still"
        return await set_within(event, seconds)

    monkeypatch.setattr(line, "_set_within", sleep)

    class Slow(WatchedStore):
        async def hand_over_permit(self, *args: Any, **options: Any) -> Any:
            reply = await super().hand_over_permit(*args, **options)
            await anyio.sleep(2)
            return reply

    async def program() -> None:
        store = Slow()
        elsewhere = another_process(store)
        async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
            other = await Holder(t, t.semaphore("k", 2, ttl=600)).enter()
            holder = await Holder(s, s.semaphore("k", 2, ttl=600)).enter()
            waiting = Holder(s, s.semaphore("k", 2, ttl=600))
            await anyio.sleep(0.01)
            await holder.leave()
            await (await waiting.enter()).leave()
            await other.leave()
        assert store.calls["hand_over_permit"] == 1

    virtual_clock.run(program, backend=backend)


async def test_a_wait_goes_on_when_a_lease_ends_between_two_looks_at_it(
    store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def lost(handle: LockHandle) -> str | None:
        nonlocal looks
        looks -= 1
        return None if looks >= 0 else "it is over"

    async with scope(persistence=store) as s, s.semaphore("k", 1):
        (lines,) = line._lines.all()
        (found,) = lines.values()
        ((_, wish),) = found._held.items()
        waiter = Waiter(store, Wanted(wish, {}, s._home.spawn, IN_STORE))
        with monkeypatch.context() as patched:
            patched.setattr(LockHandle, "lost", property(lost))
            for more in range(5):
                looks = more
                assert found._pause(waiter) > 0


async def test_a_release_whose_waiter_is_cancelled_frees_the_permit(store: WatchedStore) -> None:
    async with scope(persistence=store) as s:
        holder = await Holder(s, s.semaphore("k", 1)).enter()
        only = Holder(s, s.semaphore("k", 1))
        await settled()
        store.gate["hand_over_permit"] = gate = anyio.Event()
        leaving = s.task(holder.leave)
        with anyio.fail_after(FIVE):
            await store.at_gate.wait()
        only.task.cancel()
        await only.task
        gate.set()
        (await leaving).unwrap()
    assert (await record(store)).holders == {}


@pytest.mark.parametrize("landed", [False, True])
async def test_a_handover_whose_answer_is_lost_stalls_nobody(
    store: WatchedStore, landed: bool
) -> None:
    async with scope(persistence=store) as s:
        holder = await Holder(s, s.semaphore("k", 1)).enter()
        waiting = Holder(s, s.semaphore("k", 1))
        await settled()
        lost: Any = store.after if landed else store.before
        lost["hand_over_permit"] = [StoreTimeoutError("no answer")]
        await holder.leave()
        await (await waiting.enter()).leave()
    assert (await record(store)).holders == {}


@pytest.mark.parametrize("landed", [False, True])
async def test_a_claim_whose_answer_is_lost_takes_no_permit(
    store: WatchedStore, landed: bool
) -> None:
    async with scope(persistence=store) as s:
        lost: Any = store.after if landed else store.before
        lost["claim_permit"] = [StoreTimeoutError("no answer")]
        with pytest.raises(StoreTimeoutError):
            async with s.semaphore("k", 1):
                pytest.fail("nobody knows")
        async with s.semaphore("k", 1, wait=0):
            pass
    assert lines() == 0


async def test_a_store_that_fails_in_the_release_keeps_no_waiter_from_going_on(
    store: WatchedStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with scope(persistence=store) as s:
        holder = await Holder(s, s.semaphore("k", 2)).enter()
        store.before["release_permit"] = [StoreConnectionError("cut off")]
        await holder.leave()
        assert "could not be released; its lease will end" in caplog.text
        assert len((await record(store)).holders) == 1
        async with s.semaphore("k", 2):
            store.clock.now += 31
        async with s.semaphore("k", 1, wait=0):
            pass


async def test_a_dead_holder_is_removed_by_whoever_comes_next(store: WatchedStore) -> None:
    elsewhere = another_process(store)
    async with scope(persistence=elsewhere) as t, scope(persistence=store) as s:
        elsewhere.before["release_permit"] = [StoreConnectionError("cut off")]
        async with t.semaphore("k", 1, ttl=30):
            pass
        waiting = Holder(s, s.semaphore("k", 1))
        await settled()
        assert not waiting.holds
        store.clock.now += 30.002
        await (await waiting.enter()).leave()


@pytest.mark.slow_elsewhere
async def test_a_dead_holder_is_removed_when_it_was_watched_though_a_clock_says_otherwise(
    store: WatchedStore,
) -> None:
    elsewhere = another_process(store)
    elsewhere.before["release_permit"] = [StoreConnectionError("cut off")]
    async with scope(persistence=elsewhere) as t, scope(persistence=store) as s:
        async with t.semaphore("k", 1, ttl=0.4):
            pass
        with anyio.fail_after(FIVE):  # the clock of the store stands still
            async with s.semaphore("k", 1):
                pass


@pytest.mark.slow_elsewhere
async def test_a_permit_that_was_freed_by_force_is_found_by_a_waiter(store: WatchedStore) -> None:
    async with scope(persistence=store) as s:
        holder = await Holder(s, s.semaphore("k", 1, ttl=1.6)).enter()
        waiting = Holder(s, s.semaphore("k", 1))
        await settled()
        assert await store.force_release_permits("semaphore", "k") == 1
        await (await waiting.enter()).leave()
        error, _ = await holder.task
        assert isinstance(error, LeaseLostError)


async def test_without_waiting_a_permit_is_asked_for_once_and_past_the_line(
    store: WatchedStore,
) -> None:
    async with scope(persistence=store) as s:
        holder = await Holder(s, s.semaphore("k", 1)).enter()
        waiting = Holder(s, s.semaphore("k", 1))
        await settled()
        store.calls.clear()
        with pytest.raises(LockTimeoutError):
            async with s.semaphore("k", 1, wait=0):
                pytest.fail("it is held")
        assert store.calls == {"claim_permit": 1}
        async with s.semaphore("k", 2, wait=0):
            pass
        await holder.leave()
        await (await waiting.enter()).leave()


async def test_a_task_that_waits_lends_its_slot(store: WatchedStore) -> None:
    async with scope(persistence=store, concurrency=1) as s:
        first = Holder(s, s.semaphore("k", 1))
        await settled()
        async with scope(persistence=store, concurrency=1) as other:
            waiting = Holder(other, other.semaphore("k", 1))
            await settled()
            ran = other.task(anyio.sleep, 0)
            with anyio.fail_after(FIVE):
                (await ran).unwrap()
            await first.leave()
            await (await waiting.enter()).leave()


class Judge:
    """Holds permits at random, and sees that nobody holds one who must not."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._held: Counter[str] = Counter()

    async def hold(self, s: Scope) -> None:
        wait = self._chance.choice([None, None, 0.001])
        what = self._chance.choice(["permits", "readers", "writers"])
        blocks = {
            "permits": s.semaphore("k", 2, wait=wait),
            "readers": s.read_lock("k", wait=wait),
            "writers": s.write_lock("k", wait=wait),
        }
        async with blocks[what]:
            self._held[what] += 1
            try:
                assert self._held["permits"] <= 2
                assert self._held["writers"] <= 1
                assert not (self._held["writers"] and self._held["readers"])
                await steps(self._chance.randrange(4))
            finally:
                self._held[what] -= 1


async def steps(number: int) -> None:
    for _ in range(number):
        await anyio.sleep(0)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("seed", range(6))
async def test_cancelling_anybody_at_any_time_stalls_nobody(store: WatchedStore, seed: int) -> None:
    chance = random.Random(seed)
    judge = Judge(chance)
    done = 0

    async def work(s: Scope) -> None:
        nonlocal done
        with anyio.CancelScope() as cancelled:

            async def cancel_later() -> None:
                await steps(chance.randrange(60))
                cancelled.cancel()

            async with anyio.create_task_group() as group:
                if chance.random() < 0.5:
                    group.start_soon(cancel_later)
                if chance.random() < 0.2:
                    name = chance.choice(["claim_permit", "hand_over_permit"])
                    when = chance.choice([store.before, store.after])
                    when.setdefault(name, []).append(StoreTimeoutError("no answer"))
                with suppress(GogoscopeError):
                    await judge.hold(s)
                group.cancel_scope.cancel()
        done += 1

    elsewhere = another_process(store)
    with anyio.fail_after(60):
        async with (
            scope(persistence=store) as s,
            scope(persistence=elsewhere) as t,
            anyio.create_task_group() as group,
        ):
            for _ in range(50):
                group.start_soon(work, chance.choice([s, s, t]))
                await steps(chance.randrange(3))
    assert done == 50
    for kind in ("semaphore", "read_write_lock"):
        left = await record(store, kind)
        assert (left.holders, left.waiting) == ({}, {})
    assert lines() == 0


async def test_a_line_is_forgotten_when_its_last_user_leaves(store: WatchedStore) -> None:
    async with scope(persistence=store) as s:
        for number in range(20):
            async with s.semaphore(f"k{number}", 1):
                assert lines() == 1
        assert lines() == 0
