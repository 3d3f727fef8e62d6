"""The kit for semaphores and read/write locks: who gets a permit, when, and until when."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio
import pytest

from gogoscope import Scope, scope
from gogoscope.persistence.lock_records import LockClaim, LockRecord
from gogoscope.persistence.permit_records import (
    Permit,
    PermitClaim,
    PermitKind,
    PermitReply,
    Takes,
)
from gogoscope.persistence.protocols.permits import PermitProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

LEASE = 4.5
LEASE_MS = 4_500
TURN_MS = 2_000
SEMAPHORE: PermitKind = "semaphore"
READ_WRITE: PermitKind = "read_write_lock"


def a_claim(
    nonce: str, limit: int | None = None, takes: Takes = "one", *, turn: str | None = None
) -> PermitClaim:
    """Return a claim; with a turn it waits for that."""
    lease = LockClaim(nonce=nonce, owner=f"owner of {nonce}", lease_ms=LEASE_MS, turn=turn)
    return PermitClaim(lease, limit, takes, 0 if turn is None else TURN_MS)


def of_reader(nonce: str, turn: str | None = None) -> PermitClaim:
    return a_claim(nonce, turn=turn)


def of_writer(nonce: str, turn: str | None = None) -> PermitClaim:
    return a_claim(nonce, takes="all", turn=turn)


async def taken(
    store: PermitProvider, claim: PermitClaim, kind: PermitKind = SEMAPHORE, key: str = "k"
) -> LockRecord:
    reply = await store.claim_permit(kind, key, claim)
    assert reply.granted
    return lease_of(reply, claim)


def lease_of(reply: PermitReply, claim: PermitClaim) -> LockRecord:
    assert reply.record is not None
    return reply.record.holders[claim.lease.nonce].lease


async def refused(
    store: PermitProvider, claim: PermitClaim, kind: PermitKind = SEMAPHORE, key: str = "k"
) -> PermitReply:
    reply = await store.claim_permit(kind, key, claim)
    assert not reply.granted
    return reply


class PermitConformance(Conformance):
    """Every rule of ``PermitProvider``: derive a test class from it."""

    capability: ClassVar = "permits"

    @staticmethod
    async def look(store: Any) -> object:
        """Read a semaphore that nobody has used."""
        return await store.read_permits(SEMAPHORE, "k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Hold permits through a scope."""
        async with s.semaphore("of a scope", limit=1), s.read_lock("of a scope"):
            pass

    async def holders(
        self, store: PermitProvider, kind: PermitKind = SEMAPHORE, key: str = "k"
    ) -> dict[str, Permit]:
        """Return the permits that are held, by their nonces."""
        record = await store.read_permits(kind, key)
        return {} if record is None else dict(record.holders)

    async def test_as_many_hold_a_semaphore_as_its_limit_says(self, store: PermitProvider) -> None:
        leases = [await taken(store, a_claim(nonce, 2)) for nonce in "ab"]
        assert leases[0].fencing_token < leases[1].fencing_token
        reply = await refused(store, a_claim("c", 2))
        assert reply.record is not None
        assert sorted(reply.record.holders) == ["a", "b"]
        assert 0 < reply.dead_in_ms <= LEASE_MS + 60_000
        assert await store.release_permit(SEMAPHORE, "k", "a")
        assert not await store.release_permit(SEMAPHORE, "k", "a")
        third = await taken(store, a_claim("c", 2))
        assert third.fencing_token > leases[1].fencing_token

    async def test_the_limit_is_each_callers_own(self, store: PermitProvider) -> None:
        for nonce in "abc":
            await taken(store, a_claim(nonce, 3))
        await refused(store, a_claim("d", 2))
        await taken(store, a_claim("e", 4))

    async def test_a_claim_of_a_permit_sent_twice_takes_one(self, store: PermitProvider) -> None:
        first = await taken(store, a_claim("a", 1))
        assert await taken(store, a_claim("a", 1)) == first
        assert list(await self.holders(store)) == ["a"]

    async def test_a_claim_that_comes_after_its_release_is_refused(
        self, store: PermitProvider
    ) -> None:
        await taken(store, a_claim("a", 1))
        assert await store.release_permit(SEMAPHORE, "k", "a")
        await refused(store, a_claim("a", 1))

    async def test_a_claim_of_a_permit_that_lands_after_it_was_taken_back_is_refused(
        self, store: PermitProvider
    ) -> None:
        assert not await store.release_permit(SEMAPHORE, "k", "late")
        assert not (await store.claim_permit(SEMAPHORE, "k", a_claim("late", 2))).granted
        await taken(store, a_claim("a", 2))
        assert not await store.release_permit(SEMAPHORE, "k", "later")
        assert not (await store.claim_permit(SEMAPHORE, "k", a_claim("later", 2))).granted
        await taken(store, a_claim("b", 2))

    async def test_readers_share_and_a_writer_is_alone(self, store: PermitProvider) -> None:
        await taken(store, of_reader("a"), READ_WRITE)
        await taken(store, of_reader("b"), READ_WRITE)
        await refused(store, of_writer("w"), READ_WRITE)
        assert await store.release_permit(READ_WRITE, "k", "a")
        await refused(store, of_writer("w"), READ_WRITE)
        assert await store.release_permit(READ_WRITE, "k", "b")
        await taken(store, of_writer("w"), READ_WRITE)
        await refused(store, of_reader("c"), READ_WRITE)
        await refused(store, of_writer("v"), READ_WRITE)
        assert await store.release_permit(READ_WRITE, "k", "w")
        await taken(store, of_reader("c"), READ_WRITE)

    async def test_readers_that_come_later_wait_for_a_writer_that_waits(
        self, store: PermitProvider
    ) -> None:
        await taken(store, of_reader("a"), READ_WRITE)
        await refused(store, of_writer("w1", turn="w"), READ_WRITE)
        await refused(store, of_reader("b"), READ_WRITE)
        await refused(store, of_reader("c1", turn="c"), READ_WRITE)
        assert await store.release_permit(READ_WRITE, "k", "a")
        await refused(store, of_reader("b"), READ_WRITE)
        await refused(store, of_reader("c2", turn="c"), READ_WRITE)
        await taken(store, of_writer("w2", turn="w"), READ_WRITE)
        assert await store.release_permit(READ_WRITE, "k", "w2")
        await refused(store, of_writer("v", turn="v"), READ_WRITE)
        await taken(store, of_reader("c3", turn="c"), READ_WRITE)

    async def test_those_who_fit_at_once_do_not_wait_for_one_another(
        self, store: PermitProvider
    ) -> None:
        for nonce in "abc":
            await taken(store, a_claim(nonce, 3))
        for turn in ("x", "y"):
            await refused(store, a_claim(f"{turn}1", 3, turn=turn))
        for nonce in "ab":
            assert await store.release_permit(SEMAPHORE, "k", nonce)
        await refused(store, a_claim("d", 3))
        await taken(store, a_claim("y2", 3, turn="y"))
        await taken(store, a_claim("x2", 3, turn="x"))

    async def test_a_turn_is_had_in_the_order_of_arrival(self, store: PermitProvider) -> None:
        await taken(store, a_claim("a", 1))
        for turn in "xyz":
            await refused(store, a_claim(f"{turn}1", 1, turn=turn))
        assert await store.leave_turn(SEMAPHORE, "k", "x")
        assert not await store.leave_turn(SEMAPHORE, "k", "x")
        assert await store.release_permit(SEMAPHORE, "k", "a")
        await refused(store, a_claim("z2", 1, turn="z"))
        await taken(store, a_claim("y2", 1, turn="y"))

    async def test_a_turn_that_is_not_renewed_ends(
        self, store: PermitProvider, clock: ManualClock
    ) -> None:
        await taken(store, a_claim("a", 1))
        for n in range(2):
            await refused(store, a_claim(f"x{n}", 1, turn="x"))
            clock.now += TURN_MS / 1000 * 0.75
        assert await store.release_permit(SEMAPHORE, "k", "a")
        await refused(store, a_claim("b", 1))
        clock.now += TURN_MS / 1000 / 4 + 0.002
        await taken(store, a_claim("b", 1))

    async def test_a_dead_holder_keeps_its_permit_until_its_lease_ends(
        self, store: PermitProvider, clock: ManualClock
    ) -> None:
        await taken(store, a_claim("a", 1))
        clock.now += LEASE
        await refused(store, a_claim("b", 1))
        clock.now += 0.002
        await taken(store, a_claim("b", 1))
        assert list(await self.holders(store)) == ["b"]

    async def test_only_the_dead_lose_their_permits(
        self, store: PermitProvider, clock: ManualClock
    ) -> None:
        await taken(store, a_claim("a", 2))
        clock.now += LEASE / 2
        await taken(store, a_claim("b", 2))
        clock.now += LEASE / 2 + 0.002
        await taken(store, a_claim("c", 2))
        assert sorted(await self.holders(store)) == ["b", "c"]

    async def test_a_renewed_permit_is_kept(
        self, store: PermitProvider, clock: ManualClock
    ) -> None:
        lease = await taken(store, a_claim("a", 1))
        for _ in range(2):
            clock.now += LEASE - 0.5
            reply = await store.renew_permit(SEMAPHORE, "k", "a", lease.version, LEASE_MS, 0)
            assert reply.granted
            assert reply.record is not None
            assert reply.record.fencing_token == lease.fencing_token
            await refused(store, a_claim("b", 1))
            lease = reply.record

    async def test_whoever_lost_a_permit_changes_nothing_any_more(
        self, store: PermitProvider, clock: ManualClock
    ) -> None:
        zombie = await taken(store, a_claim("a", 1))
        clock.now += LEASE + 1
        await taken(store, a_claim("b", 1))
        before = await self.holders(store)
        reply = await store.renew_permit(SEMAPHORE, "k", "a", zombie.version, LEASE_MS, 0)
        assert not reply.granted
        assert reply.record == before["b"].lease
        assert not await store.release_permit(SEMAPHORE, "k", "a")
        handed = await store.hand_over_permit(SEMAPHORE, "k", "a", a_claim("c", 9))
        assert (handed.granted, handed.freed) == (False, False)
        assert await self.holders(store) == before

    async def test_a_renewal_needs_the_version(self, store: PermitProvider) -> None:
        lease = await taken(store, a_claim("a", 1))
        args = SEMAPHORE, "k", "a", lease.version, LEASE_MS, 0
        assert (await store.renew_permit(*args)).granted
        late = await store.renew_permit(*args)
        assert not late.granted
        assert late.record is not None
        assert late.record.nonce == "a"

    async def test_the_dead_that_were_watched_lose_their_permits_and_turns(
        self, store: PermitProvider
    ) -> None:
        lease = await taken(store, a_claim("a", 1))
        reply = await refused(store, a_claim("x", 1, turn="x"))
        assert reply.record is not None
        waiting = reply.record.waiting["x"].lease.version
        for dead in ({"a": lease.version + 1}, {"b": lease.version}, {"x": waiting}):
            reply = await store.claim_permit(SEMAPHORE, "k", a_claim("c", 1), dead=dead)
            assert not reply.granted
        dead = {"a": lease.version, "x": waiting}
        reply = await store.claim_permit(SEMAPHORE, "k", a_claim("c", 1), dead=dead)
        assert reply.granted
        assert list(await self.holders(store)) == ["c"]

    async def test_a_permit_is_handed_over_in_one_write(self, store: PermitProvider) -> None:
        first = await taken(store, a_claim("a", 1))
        claim = a_claim("b", 1)
        first_reply, reply = [
            await store.hand_over_permit(SEMAPHORE, "k", "a", claim) for _ in range(2)
        ]
        assert (first_reply.granted, first_reply.freed) == (True, True)
        assert (reply.granted, reply.freed) == (True, True)
        assert list(await self.holders(store)) == ["b"]
        assert lease_of(reply, claim).fencing_token > first.fencing_token

    async def test_a_permit_that_nobody_may_get_by_a_handover_is_freed(
        self, store: PermitProvider
    ) -> None:
        await taken(store, a_claim("a", 1))
        await refused(store, a_claim("x1", 1, turn="x"))
        reply = await store.hand_over_permit(SEMAPHORE, "k", "a", a_claim("b", 1))
        assert (reply.granted, reply.freed) == (False, True)
        assert await self.holders(store) == {}
        await taken(store, a_claim("x2", 1, turn="x"))

    async def test_a_semaphore_and_a_read_write_lock_of_one_key_are_apart(
        self, store: PermitProvider
    ) -> None:
        await taken(store, a_claim("a", 1))
        await taken(store, of_writer("w"), READ_WRITE)
        assert list(await self.holders(store)) == ["a"]
        assert list(await self.holders(store, READ_WRITE)) == ["w"]

    async def test_permits_are_freed_by_force(self, store: PermitProvider) -> None:
        leases = [await taken(store, a_claim(nonce, 3)) for nonce in "abc"]
        token = leases[1].fencing_token
        assert await store.force_release_permits(SEMAPHORE, "k", token) == 1
        assert sorted(await self.holders(store)) == ["a", "c"]
        assert await store.force_release_permits(SEMAPHORE, "k") == 2
        assert await store.force_release_permits(SEMAPHORE, "k") == 0
        assert await store.force_release_permits(READ_WRITE, "k") == 0
        later = await taken(store, a_claim("d", 1))
        assert later.fencing_token > leases[-1].fencing_token

    async def test_another_kind_is_refused(self, store: PermitProvider) -> None:
        kind: Any = "barrier"
        with pytest.raises(ValueError, match="kind must be one of semaphore, read_write_lock"):
            await store.read_permits(kind, "k")

    async def test_permits_are_listed_with_those_who_hold_and_wait(
        self, store: PermitProvider
    ) -> None:
        await taken(store, a_claim("a", 1), key="a:1")
        await refused(store, a_claim("x", 1, turn="x"), key="a:1")
        await taken(store, a_claim("b", 1), key="a:2")
        assert await store.release_permit(SEMAPHORE, "a:2", "b")
        await taken(store, a_claim("c", 1), key="b:1")
        await taken(store, of_reader("r"), READ_WRITE, "a:3")
        await taken(store, of_writer("w"), READ_WRITE, "a:4")
        semaphores = await store.semaphores("a:*")
        assert list(semaphores) == ["a:1"]
        assert [one.owner for one in semaphores["a:1"].holders] == ["owner of a"]
        assert [one.owner for one in semaphores["a:1"].waiting] == ["owner of x"]
        assert sorted(await store.semaphores()) == ["a:1", "b:1"]
        locks = await store.read_write_locks()
        assert sorted(locks) == ["a:3", "a:4"]
        assert [one.owner for one in locks["a:3"].readers] == ["owner of r"]
        assert locks["a:3"].writer is None
        assert locks["a:4"].readers == ()
        writer = locks["a:4"].writer
        assert writer is not None
        assert writer.owner == "owner of w"

    async def test_a_change_of_permits_leaves_those_beside_them_alone(
        self, beside: tuple[Any, list[tuple[Any, str]]]
    ) -> None:
        store, others = beside
        for number, (other, key) in enumerate(others):
            await taken(other, a_claim(f"n{number}", 1), key=key)
        before = [await self.holders(other, key=key) for other, key in others]
        await taken(store, a_claim("a", 1))
        assert await store.force_release_permits(SEMAPHORE, "k") == 1
        assert [await self.holders(other, key=key) for other, key in others] == before

    async def test_of_many_claims_at_once_as_many_are_granted_as_fit(
        self, atomic: None, store: PermitProvider
    ) -> None:
        granted: list[str] = []

        async def claim(nonce: str) -> None:
            if (await store.claim_permit(SEMAPHORE, "k", a_claim(nonce, 3))).granted:
                granted.append(nonce)

        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(claim, f"n{number}")
        assert len(granted) == 3
        assert sorted(await self.holders(store)) == sorted(granted)

    @pytest.mark.usefixtures("atomic")
    async def test_a_cancelled_claim_has_taken_a_permit_or_not(self, open_store: OpenStore) -> None:
        async with open_store() as store:

            async def attempt_at(n: int) -> CancelledAt:
                key = f"semaphore {n}"
                claim = store.claim_permit(SEMAPHORE, key, a_claim("a", 1))
                attempt = CancelledAt(claim, n)
                await attempt.run()
                # What was cancelled in flight may arrive until the next claim, and not after that.
                reply = await store.claim_permit(SEMAPHORE, key, a_claim("b", 1))
                assert not (reply.granted and attempt.ended)
                held = ["b"] if reply.granted else ["a"]
                assert list(await self.holders(store, key=key)) == held
                return attempt

            await cancel_everywhere(attempt_at)

    async def test_a_permit_counts_for_another_store_on_the_same_data(
        self, open_store: OpenStore
    ) -> None:
        if self.works_after_close:
            pytest.skip("its data ends with it")
        async with open_store() as one, open_store() as two, scope(persistence=one) as s:
            async with s.semaphore("k", limit=1):
                await refused(two, a_claim("b", 1))
            await taken(two, a_claim("c", 1))
