"""The kit for schedules: which tick is started, by whom, and what becomes of it."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio
import pytest

from gogoscope import Scope, Tick, interval
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.protocols.schedules import ScheduleProvider
from gogoscope.persistence.schedule_records import ScheduleRecord, ScheduleReply, Wanted
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

LEASE = 4.5
LEASE_MS = 4_500
EVERY_MS = 60_000


def a_claim(nonce: str) -> LockClaim:
    return LockClaim(nonce=nonce, owner=f"owner of {nonce}", lease_ms=LEASE_MS)


async def opened(store: ScheduleProvider, name: str = "s") -> ScheduleRecord:
    return await store.open_schedule(name, "every minute", None)


async def next_tick(
    store: ScheduleProvider, clock: ManualClock, name: str = "s", retries: int = 1
) -> Wanted:
    """Let the next tick be due, and return what is to be wanted of it."""
    record = await store.read_schedule(name)
    assert record is not None
    clock.now += EVERY_MS / 1000
    after_ms = record.after_ms
    return Wanted("tick", after_ms + EVERY_MS, after_ms, 0, after_ms + 2 * EVERY_MS, retries)


async def begun(
    store: ScheduleProvider, nonce: str, wanted: Wanted, name: str = "s"
) -> ScheduleRecord:
    reply = await store.claim_tick(name, a_claim(nonce), wanted)
    assert reply.granted
    assert reply.record is not None
    return reply.record


def again(record: ScheduleRecord, retries: int = 1) -> Wanted:
    """Return what is to be wanted of a run that died."""
    assert record.at_ms is not None
    return Wanted("again", record.at_ms, record.after_ms, retries=retries)


class ScheduleConformance(Conformance):
    """Every rule of ``ScheduleProvider``: derive a test class from it."""

    capability: ClassVar = "schedules"

    @staticmethod
    async def look(store: Any) -> object:
        """Read a schedule that nobody has."""
        return await store.read_schedule("k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Wait for the ticks of a schedule until the scope is stopping."""

        async def nothing(tick: Tick) -> None:
            return None

        s.stopping.set()
        (await s.schedule("of a scope", interval(3_600), nothing)).unwrap()

    async def test_a_new_schedule_begins_with_the_next_tick_from_now(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        record = await opened(store)
        assert (record.state, record.after_ms) == ("new", store.schedule_now_ms())
        clock.now += 30
        assert await opened(store) == record
        early = Wanted("tick", record.after_ms, record.after_ms)
        assert not (await store.claim_tick("s", a_claim("a"), early)).granted

    async def test_a_changed_definition_begins_with_the_next_tick_from_now(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        first = await opened(store)
        clock.now += 600
        changed = await store.open_schedule("s", "every hour", None)
        assert changed.definition == "every hour"
        assert changed.after_ms == first.after_ms + 600_000

    async def test_a_schedule_that_is_not_known_has_no_ticks(self, store: ScheduleProvider) -> None:
        wanted = Wanted("tick", store.schedule_now_ms(), 0)
        reply = await store.claim_tick("unheard of", a_claim("a"), wanted)
        assert reply == ScheduleReply(granted=False, record=None)

    async def test_a_tick_is_started_once(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        wanted = await next_tick(store, clock)
        record = await begun(store, "a", wanted)
        assert (record.after_ms, record.at_ms) == (wanted.at_ms, wanted.at_ms)
        assert (record.state, record.starts) == ("running", 1)
        for ended in (False, True):
            if ended:
                assert await store.end_tick("s", "a", "done")
            reply = await store.claim_tick("s", a_claim("b"), wanted)
            assert not reply.granted
            assert reply.record == await store.read_schedule("s")

    async def test_a_claim_of_a_tick_that_was_sent_twice_is_granted_twice(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        wanted = await next_tick(store, clock)
        first = await begun(store, "a", wanted)
        assert await begun(store, "a", wanted) == first

    async def test_no_tick_is_started_before_its_time(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        wanted = await next_tick(store, clock)
        clock.now -= 0.002
        assert not (await store.claim_tick("s", a_claim("a"), wanted)).granted
        clock.now += 0.003
        await begun(store, "a", wanted)

    async def test_a_tick_is_refused_if_what_was_before_it_has_changed(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        first = await next_tick(store, clock)
        clock.now += 2 * EVERY_MS / 1000
        newest = Wanted("tick", first.at_ms + EVERY_MS, first.after_ms, 1)
        await begun(store, "a", first)
        await store.end_tick("s", "a", "done")
        reply = await store.claim_tick("s", a_claim("b"), newest)
        assert not reply.granted
        assert reply.record is not None
        assert reply.record.after_ms == first.at_ms

    async def test_no_tick_is_started_beside_another(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        record = await begun(store, "a", await next_tick(store, clock))
        renewed = await store.renew_tick("s", "a", record.lease.version, 2 * EVERY_MS, 0)
        assert renewed.granted
        second = await next_tick(store, clock)
        assert not (await store.claim_tick("s", a_claim("b"), second)).granted
        assert await store.end_tick("s", "a", "failed", "OSError()")
        later = await begun(store, "b", second)
        assert later.lease.fencing_token > record.lease.fencing_token

    async def test_a_tick_whose_run_died_is_started_again_as_often_as_is_allowed(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        record = await begun(store, "a", await next_tick(store, clock))
        for starts, nonce in ((2, "b"), (3, "c")):
            assert not (await store.claim_tick("s", a_claim(nonce), again(record, 2))).granted
            clock.now += LEASE + 1
            record = await begun(store, nonce, again(record, 2))
            assert (record.starts, record.state) == (starts, "running")
        clock.now += LEASE + 1
        assert not (await store.claim_tick("s", a_claim("d"), again(record, 2))).granted

    async def test_a_run_that_died_goes_before_the_ticks_after_it(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        record = await begun(store, "a", await next_tick(store, clock))
        later = await next_tick(store, clock)
        assert not (await store.claim_tick("s", a_claim("b"), later)).granted
        await begun(store, "b", again(record))
        assert await store.end_tick("s", "b", "done")
        await begun(store, "c", later)

    async def test_a_tick_that_died_too_often_does_not_stop_the_next(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        record = await begun(store, "a", await next_tick(store, clock, retries=0))
        clock.now += LEASE + 1
        assert not (await store.claim_tick("s", a_claim("b"), again(record, 0))).granted
        await begun(store, "b", await next_tick(store, clock, retries=0))

    async def test_an_interrupted_run_may_be_started_again_at_once(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        record = await begun(store, "a", await next_tick(store, clock))
        assert await store.end_tick("s", "a", "interrupted")
        assert (await begun(store, "b", again(record))).starts == 2

    async def test_a_run_that_never_began_does_not_count(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        record = await begun(store, "a", await next_tick(store, clock, retries=0))
        assert await store.end_tick("s", "a", "unbegun")
        assert (await begun(store, "b", again(record, 0))).starts == 1

    async def test_a_claim_of_a_tick_that_lands_after_it_was_taken_back_is_refused(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        wanted = await next_tick(store, clock)
        assert not await store.end_tick("s", "late", "unbegun")
        assert not (await store.claim_tick("s", a_claim("late"), wanted)).granted
        assert (await begun(store, "a", wanted)).starts == 1

    async def test_a_run_that_was_watched_for_its_lease_is_started_again(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        record = await begun(store, "a", await next_tick(store, clock))
        renewed = await store.renew_tick("s", "a", record.lease.version, LEASE_MS, 0)
        assert renewed.granted
        wanted = again(record)
        stale = await store.claim_tick("s", a_claim("b"), wanted, seen=record.lease)
        assert not stale.granted
        seen = await store.claim_tick("s", a_claim("b"), wanted, seen=renewed.record)
        assert seen.granted

    async def test_whoever_lost_a_tick_changes_nothing_any_more(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        zombie = await begun(store, "a", await next_tick(store, clock))
        clock.now += LEASE + 1
        successor = await begun(store, "b", again(zombie))
        for how in ("done", "failed", "interrupted", "unbegun"):
            assert not await store.end_tick("s", "a", how)
        version = zombie.lease.version
        assert not (await store.renew_tick("s", "a", version, LEASE_MS, 0)).granted
        assert await store.read_schedule("s") == successor
        assert await store.end_tick("s", "b", "done")
        assert not await store.end_tick("s", "a", "failed")

    async def test_the_end_of_a_run_that_was_sent_twice_is_noted_once(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        await begun(store, "a", await next_tick(store, clock))
        assert await store.end_tick("s", "a", "failed", "OSError()")
        noted = await store.read_schedule("s")
        assert await store.end_tick("s", "a", "failed", "OSError()")
        assert await store.read_schedule("s") == noted
        assert not await store.end_tick("s", "a", "done")

    async def test_nothing_starts_while_a_schedule_is_paused(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        wanted = await next_tick(store, clock)
        assert await store.pause_schedule("s")
        reply = await store.claim_tick("s", a_claim("a"), wanted)
        assert not reply.granted
        assert reply.record is not None
        assert reply.record.paused_ms is not None
        assert await store.continue_schedule("s")
        assert not (await store.claim_tick("s", a_claim("a"), wanted)).granted
        await begun(store, "a", await next_tick(store, clock))

    async def test_a_person_triggers_a_run_besides_the_ticks(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        before = await opened(store)
        assert await store.pause_schedule("s")
        assert await store.trigger_schedule("s")
        asked = await store.read_schedule("s")
        assert asked is not None
        assert asked.trigger_ms is not None
        wanted = Wanted("trigger", asked.trigger_ms, asked.after_ms)
        record = await begun(store, "a", wanted)
        assert (record.kind, record.trigger_ms) == ("trigger", None)
        assert record.after_ms == before.after_ms
        assert await store.end_tick("s", "a", "done")
        assert not (await store.claim_tick("s", a_claim("b"), wanted)).granted

    async def test_only_a_schedule_that_is_known_is_controlled(
        self, store: ScheduleProvider
    ) -> None:
        for control in (
            store.pause_schedule,
            store.continue_schedule,
            store.trigger_schedule,
            store.forget_schedule,
        ):
            assert not await control("unheard of")
            await opened(store)
            assert await control("s")
            assert await control("s") is (control != store.forget_schedule)

    async def test_schedules_are_listed_with_what_is_known_of_them(
        self, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        for name in ("a:1", "a:2", "a:3", "a:4", "b:1"):
            await opened(store, name)
        wanted = {name: await next_tick(store, clock, name) for name in ("a:1", "a:2", "a:3")}
        for name in ("a:1", "a:2"):
            await begun(store, f"n{name}", wanted[name], name)
        assert await store.end_tick("a:1", "na:1", "failed", "OSError()")
        assert await store.pause_schedule("a:4")
        clock.now += LEASE + 1
        await begun(store, "na:3", wanted["a:3"], "a:3")
        found = await store.schedules("a:*")
        assert {name: schedule.state for name, schedule in found.items()} == {
            "a:1": "waiting",
            "a:2": "crashed",
            "a:3": "running",
            "a:4": "paused",
        }
        failed = found["a:1"]
        assert (failed.outcome, failed.error) == ("failed", "OSError()")
        assert failed.last == wanted["a:1"].at_ms / 1000
        assert failed.next == (wanted["a:1"].next_ms or 0) / 1000
        assert found["a:3"].owner == "owner of na:3"
        assert set(await store.schedules()) == {"a:1", "a:2", "a:3", "a:4", "b:1"}

    async def test_a_change_of_a_schedule_leaves_those_beside_it_alone(
        self, beside: tuple[Any, list[tuple[Any, str]]], clock: ManualClock
    ) -> None:
        store, others = beside
        for other, name in others:
            await opened(other, name)
        before = [await other.read_schedule(name) for other, name in others]
        await opened(store, "k")
        await begun(store, "a", await next_tick(store, clock, "k"), "k")
        assert await store.end_tick("k", "a", "done")
        assert await store.forget_schedule("k")
        assert [await other.read_schedule(name) for other, name in others] == before

    async def test_of_many_processes_at_once_one_starts_a_tick(
        self, atomic: None, store: ScheduleProvider, clock: ManualClock
    ) -> None:
        await opened(store)
        wanted = await next_tick(store, clock)
        granted: list[str] = []

        async def claim(nonce: str) -> None:
            if (await store.claim_tick("s", a_claim(nonce), wanted)).granted:
                granted.append(nonce)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(claim, f"n{number}")
        assert len(granted) == 1

    @pytest.mark.usefixtures("atomic")
    async def test_a_cancelled_claim_has_started_the_tick_or_not(
        self, open_store: OpenStore, clock: ManualClock
    ) -> None:
        async with open_store(clock=clock) as store:

            async def attempt_at(n: int) -> CancelledAt:
                name = f"s {n}"
                await opened(store, name)
                wanted = await next_tick(store, clock, name)
                attempt = CancelledAt(store.claim_tick(name, a_claim("a"), wanted), n)
                await attempt.run()
                # What was cancelled in flight may arrive until the next claim, and not after that.
                reply = await store.claim_tick(name, a_claim("b"), wanted)
                assert not (reply.granted and attempt.ended)
                record = await store.read_schedule(name)
                assert record.lease.nonce == ("b" if reply.granted else "a")
                return attempt

            await cancel_everywhere(attempt_at)
