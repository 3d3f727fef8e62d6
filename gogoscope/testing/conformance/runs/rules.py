"""The kit for runs: who may run, what becomes of it, and who learns it."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio
import pytest

from gogoscope import Once, Scope, scope
from gogoscope.exceptions import RunInProgressError
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.run_records import AfterCrash, RunReply
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

LEASE = 4.5
LEASE_MS = 4_500
KEEP = 3_600.0


def a_claim(nonce: str, lease_ms: int = LEASE_MS) -> LockClaim:
    return LockClaim(nonce=nonce, owner=f"owner of {nonce}", lease_ms=lease_ms)


async def begun(
    store: RunProvider,
    nonce: str,
    key: str = "run",
    *,
    payload: str | None = None,
    after_crash: AfterCrash = "run",
) -> RunReply:
    reply = await store.claim_run(key, a_claim(nonce), payload=payload, after_crash=after_crash)
    assert reply.granted
    return reply


async def done(store: RunProvider, nonce: str, value: Any, key: str = "run") -> bool:
    return await store.complete_run(key, nonce, "done", store.run_outcome(value), KEEP)


class RunConformance(Conformance):
    """Every rule of ``RunProvider``: derive a test class from it."""

    capability: ClassVar = "runs"

    @staticmethod
    async def look(store: Any) -> object:
        """Read a run that nobody has begun."""
        return await store.read_run("k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Run something once through a scope."""

        async def nothing() -> None:
            return None

        await s.call(nothing, once=Once("of a scope", KEEP))

    async def test_one_caller_runs_and_the_others_are_refused(self, store: RunProvider) -> None:
        first = await begun(store, "a")
        second = await store.claim_run("run", a_claim("b"))
        assert not second.granted
        assert second.record.lease.nonce == "a"
        assert second.record.lease.fencing_token == first.record.lease.fencing_token

    async def test_a_claim_that_was_sent_twice_is_granted_twice(self, store: RunProvider) -> None:
        first = await begun(store, "a")
        assert (await begun(store, "a")).record == first.record

    async def test_a_verdict_is_shown_to_those_who_come_later(self, store: RunProvider) -> None:
        value = {"receipt": [1, 2.5, None, "\u00e9"]}
        await begun(store, "a")
        assert await done(store, "a", value)
        reply = await store.claim_run("run", a_claim("b"))
        assert (reply.granted, reply.record.state) == (False, "done")
        assert store.run_value("run", reply.record.outcome) == value
        record = await store.read_run("run")
        assert record is not None
        assert store.run_value("run", record.outcome) == value

    async def test_a_verdict_that_was_sent_twice_is_kept_once(self, store: RunProvider) -> None:
        await begun(store, "a")
        assert await done(store, "a", 1)
        assert await done(store, "a", 1)
        assert not await done(store, "b", 2)

    async def test_a_verdict_is_kept_to_the_millisecond(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        await begun(store, "a")
        assert await store.complete_run("run", "a", "done", store.run_outcome(1), 60)
        clock.now += 59.999
        assert not (await store.claim_run("run", a_claim("b"))).granted
        clock.now += 0.002
        assert (await store.claim_run("run", a_claim("b"))).granted

    async def test_a_verdict_may_be_kept_for_ever(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        await begun(store, "a")
        assert await store.complete_run("run", "a", "unkept", None, None)
        clock.now += 3 * 365 * 86_400
        reply = await store.claim_run("run", a_claim("b"))
        assert (reply.granted, reply.record.state) == (False, "unkept")

    async def test_after_an_abandoned_run_the_next_caller_runs(self, store: RunProvider) -> None:
        first = await begun(store, "a")
        assert await store.abandon_run("run", "a")
        assert not await store.abandon_run("run", "a")
        second = await begun(store, "b")
        assert second.record.lease.fencing_token > first.record.lease.fencing_token

    async def test_a_claim_that_lands_after_its_run_was_abandoned_is_refused(
        self, store: RunProvider
    ) -> None:
        await begun(store, "a")
        await store.abandon_run("run", "a")
        assert not (await store.claim_run("run", a_claim("a"))).granted

    async def test_a_claim_of_a_run_that_lands_after_it_was_taken_back_is_refused(
        self, store: RunProvider
    ) -> None:
        assert not await store.abandon_run("run", "late")
        assert not (await store.claim_run("run", a_claim("late"))).granted
        await begun(store, "a")
        await store.abandon_run("run", "a")
        assert not await store.abandon_run("run", "late")
        assert not (await store.claim_run("run", a_claim("late"))).granted
        await begun(store, "b")

    async def test_a_dead_run_is_taken_over_after_its_lease(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        first = await begun(store, "a")
        clock.now += LEASE
        assert not (await store.claim_run("run", a_claim("b"))).granted
        clock.now += 0.002
        second = await begun(store, "b")
        assert second.record.lease.fencing_token > first.record.lease.fencing_token

    async def test_a_run_that_was_watched_for_its_lease_is_taken_over(
        self, store: RunProvider
    ) -> None:
        seen = (await begun(store, "a")).record.lease
        renewed = await store.renew_run("run", "a", seen.version, LEASE_MS, 0)
        assert renewed.granted
        assert not (await store.claim_run("run", a_claim("b"), seen=seen)).granted
        assert (await store.claim_run("run", a_claim("b"), seen=renewed.record)).granted

    async def test_a_renewed_run_is_not_taken_over(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        record = (await begun(store, "a")).record.lease
        clock.now += LEASE - 0.5
        reply = await store.renew_run("run", "a", record.version, LEASE_MS, 0)
        assert reply.granted
        clock.now += LEASE - 0.5
        assert not (await store.claim_run("run", a_claim("b"))).granted

    async def test_whoever_was_taken_over_changes_nothing_any_more(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        zombie = (await begun(store, "a")).record.lease
        clock.now += LEASE + 1
        await begun(store, "b")
        assert not await done(store, "a", "of the zombie")
        assert not await store.complete_run("run", "a", "failed", '["E","",[]]', KEEP)
        assert not await store.abandon_run("run", "a")
        assert not (await store.renew_run("run", "a", zombie.version, LEASE_MS, 0)).granted
        assert await done(store, "b", "of its successor")
        assert not await done(store, "a", "of the zombie")
        record = await store.read_run("run")
        assert record is not None
        assert store.run_value("run", record.outcome) == "of its successor"

    @pytest.mark.parametrize(("dead", "caller"), [("ask", "run"), ("run", "ask")])
    async def test_a_dead_run_is_unknown_where_somebody_is_to_be_asked(
        self, store: RunProvider, clock: ManualClock, dead: AfterCrash, caller: AfterCrash
    ) -> None:
        await begun(store, "a", after_crash=dead)
        clock.now += LEASE + 1
        for nonce in ("b", "c"):
            reply = await store.claim_run("run", a_claim(nonce), after_crash=caller)
            assert (reply.granted, reply.record.state) == (False, "unknown")
        assert not await done(store, "a", "of the dead")
        clock.now += 30 * 86_400
        assert not (await store.claim_run("run", a_claim("d"))).granted

    async def test_a_person_says_what_came_of_a_dead_run(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        await begun(store, "a", after_crash="ask")
        with pytest.raises(RunInProgressError):
            await store.resolve_run("run", repeat=True)
        clock.now += LEASE + 1
        assert await store.resolve_run("run", result={"found": True})
        assert not await store.resolve_run("run", repeat=True)
        assert not await done(store, "a", "of the dead")
        reply = await store.claim_run("run", a_claim("b"))
        assert store.run_value("run", reply.record.outcome) == {"found": True}
        assert not await store.resolve_run("unheard of", repeat=True)

    async def test_a_person_lets_a_dead_run_be_repeated(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        await begun(store, "a", after_crash="ask")
        clock.now += LEASE + 1
        assert await store.resolve_run("run", repeat=True)
        await begun(store, "b", after_crash="ask")

    async def test_another_payload_is_refused_while_the_first_is_known(
        self, store: RunProvider
    ) -> None:
        await begun(store, "a", payload="one")
        for _ in range(2):
            reply = await store.claim_run("run", a_claim("b"), payload="two")
            assert not reply.granted
            assert reply.record.payload == "one"
            await done(store, "a", 1)
        await begun(store, "c", "another", payload="one")
        await store.abandon_run("another", "c")
        await begun(store, "d", "another", payload="two")

    async def test_runs_are_listed_with_what_is_known_of_them(
        self, store: RunProvider, clock: ManualClock
    ) -> None:
        for key in ("a:1", "a:2", "a:3", "b:1"):
            await begun(store, f"n{key}", key)
        assert await done(store, "na:1", 1, "a:1")
        clock.now += LEASE + 1
        await begun(store, "later", "a:3")
        found = await store.runs("a:*")
        assert {key: run.state for key, run in found.items()} == {
            "a:1": "done",
            "a:2": "crashed",
            "a:3": "running",
        }
        assert set(await store.runs()) == {"a:1", "a:2", "a:3", "b:1"}

    async def test_runs_are_apart_from_locks_and_values_of_the_same_key(self, store: Any) -> None:
        await begun(store, "a", "k")
        for name in self.capabilities & {"locks", "cache"}:
            if name == "locks":
                assert await store.acquire("k", 5) is not None
            else:
                await store.set("k", 1)
                await store.clear()
        assert (await store.read_run("k")).lease.nonce == "a"

    async def test_a_change_of_a_run_leaves_those_beside_it_alone(
        self, beside: tuple[Any, list[tuple[Any, str]]]
    ) -> None:
        store, others = beside
        for number, (other, key) in enumerate(others):
            await begun(other, f"n{number}", key)
        before = [await other.read_run(key) for other, key in others]
        await begun(store, "a", "k")
        assert await done(store, "a", 1, "k")
        assert [await other.read_run(key) for other, key in others] == before

    async def test_of_many_callers_at_once_one_runs(self, atomic: None, store: RunProvider) -> None:
        granted: list[str] = []

        async def claim(nonce: str) -> None:
            if (await store.claim_run("run", a_claim(nonce))).granted:
                granted.append(nonce)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(claim, f"n{number}")
        assert len(granted) == 1

    @pytest.mark.usefixtures("atomic")
    async def test_a_cancelled_claim_has_begun_the_run_or_not(self, open_store: OpenStore) -> None:
        async with open_store() as store:

            async def attempt_at(n: int) -> CancelledAt:
                key = f"run {n}"
                attempt = CancelledAt(store.claim_run(key, a_claim("a")), n)
                await attempt.run()
                # What was cancelled in flight may arrive until the next claim, and not after that.
                reply = await store.claim_run(key, a_claim("b"))
                assert not (reply.granted and attempt.ended)
                record = await store.read_run(key)
                assert record is not None
                assert record.lease.nonce == ("b" if reply.granted else "a")
                return attempt

            await cancel_everywhere(attempt_at)

    async def test_forty_callers_of_a_key_have_one_effect(self, open_store: OpenStore) -> None:
        effects: list[int] = []

        async def effect() -> str:
            effects.append(1)
            await anyio.sleep(0.05)
            return "receipt"

        async with (
            open_store() as one,
            open_store() as two,
            scope(persistence=one) as s,
            scope(persistence=two) as t,
        ):
            tasks = [u.task(effect, once=Once("run", KEEP)) for u in (s, t) for _ in range(20)]
            assert [(await task).unwrap() for task in tasks] == ["receipt"] * 40
        assert len(effects) == 1
