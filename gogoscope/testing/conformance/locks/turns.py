"""Rules of turns: handing a lock over, and reserving its next turn."""

from __future__ import annotations

import anyio
import pytest

from gogoscope.persistence.lock_records import LockClaim, LockRecord
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore

# A store may allow a request no longer than a part of the lease.
LEASE_MS = 20_000


def a_claim(nonce: str, turn: str | None = None, lease_ms: int = LEASE_MS) -> LockClaim:
    return LockClaim(nonce, f"owner of {nonce}", lease_ms, {"host": "here"}, turn)


async def taken(store: LockProvider, nonce: str, lease_ms: int = LEASE_MS) -> LockRecord:
    reply = await store.claim_lock("job", a_claim(nonce, lease_ms=lease_ms))
    assert reply.granted
    assert reply.record is not None
    return reply.record


class LockTurnRules(Conformance):
    """How a ``LockProvider`` hands a lock over, and reserves its next turn."""

    async def test_a_lock_is_handed_over_with_a_higher_token_and_a_lease_of_its_own(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        first = await taken(store, "n1")
        clock.now += 0.1
        reply = await store.hand_over_lock("job", "n1", a_claim("n2", lease_ms=30_000))
        assert reply.granted
        record = reply.record
        assert record is not None
        now_ms = round(clock.now * 1000)
        assert (record.nonce, record.owner) == ("n2", "owner of n2")
        assert (record.acquired_at_ms, record.lease_until_ms) == (now_ms, now_ms + 30_000)
        assert record.fencing_token == record.version > first.fencing_token
        assert record == await store.read_lock("job")
        assert not await store.release_lock("job", "n1", in_time=True)
        assert await store.release_lock("job", "n2", in_time=True)

    async def test_a_lock_is_handed_over_after_renewals_too(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        first = await taken(store, "n1")
        until_ms = round(clock.now * 1000) + 30_000
        renewed = await store.renew_lock("job", "n1", first.version, 30_000, until_ms)
        assert renewed.record is not None
        reply = await store.hand_over_lock("job", "n1", a_claim("n2"))
        assert reply.record is not None
        assert reply.record.fencing_token > renewed.record.version

    async def test_handing_over_twice_is_the_same_handover(self, store: LockProvider) -> None:
        await taken(store, "n1")
        first = await store.hand_over_lock("job", "n1", a_claim("n2"))
        again = await store.hand_over_lock("job", "n1", a_claim("n2"))
        assert again.granted
        assert again.record == first.record

    async def test_only_the_holder_of_a_lock_hands_it_over(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        missing = await store.hand_over_lock("job", "n1", a_claim("n2"))
        assert (missing.granted, missing.record) == (False, None)
        await taken(store, "other")
        reply = await store.hand_over_lock("job", "n1", a_claim("n2"))
        assert not reply.granted
        assert reply.record is not None
        assert reply.record.nonce == "other"
        await store.release_lock("job", "other", in_time=True)
        reply = await store.hand_over_lock("job", "other", a_claim("n2"))
        assert not reply.granted
        assert reply.record is not None
        assert reply.record.nonce is None

    async def test_a_reservation_keeps_version_and_lease(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        before = await taken(store, "n1")
        reply = await store.reserve_lock("job", "t2", 1000)
        assert reply.granted
        assert reply.record is not None
        assert (reply.record.version, reply.record.lease_until_ms) == (
            before.version,
            before.lease_until_ms,
        )
        assert reply.record.next_turn == "t2"
        until_ms = round(clock.now * 1000) + 30_000
        assert (await store.renew_lock("job", "n1", before.version, 30_000, until_ms)).granted
        assert reply.record.next_turn == "t2"

    async def test_only_a_held_lock_is_reserved(self, store: LockProvider) -> None:
        missing = await store.reserve_lock("job", "t2", 1000)
        assert (missing.granted, missing.record) == (False, None)
        await taken(store, "n1")
        await store.release_lock("job", "n1", in_time=True)
        assert not (await store.reserve_lock("job", "t2", 1000)).granted

    async def test_a_reservation_is_respected_until_it_ends(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        await taken(store, "n1")
        assert (await store.reserve_lock("job", "t2", 1000)).granted
        refused = await store.reserve_lock("job", "t3", 1000)
        assert not refused.granted
        assert refused.record is not None
        assert refused.record.next_turn == "t2"
        kept = await store.hand_over_lock("job", "n1", a_claim("n3"))
        assert not kept.granted
        assert kept.record is not None
        assert kept.record.nonce == "n1"
        assert await store.release_lock("job", "n1", in_time=True)
        left = await store.read_lock("job")
        assert left is not None
        assert left.next_turn == "t2"
        assert not (await store.claim_lock("job", a_claim("n3"))).granted
        assert not (await store.claim_lock("job", a_claim("n3", turn="t3"))).granted
        clock.now += 1.001
        assert (await store.claim_lock("job", a_claim("n3"))).granted

    async def test_a_claim_with_the_reserved_turn_is_granted_and_ends_the_reservation(
        self, store: LockProvider
    ) -> None:
        await taken(store, "n1")
        assert (await store.reserve_lock("job", "t2", 1000)).granted
        await store.release_lock("job", "n1", in_time=True)
        reply = await store.claim_lock("job", a_claim("n2", turn="t2"))
        assert reply.granted
        assert reply.record is not None
        assert reply.record.next_turn is None
        assert (await store.hand_over_lock("job", "n2", a_claim("n3"))).granted

    async def test_a_reservation_can_be_renewed_and_once_over_made_by_another(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        await taken(store, "n1", lease_ms=60_000)
        assert (await store.reserve_lock("job", "t2", 1000)).granted
        clock.now += 0.9
        assert (await store.reserve_lock("job", "t2", 1000)).granted
        clock.now += 0.9
        assert not (await store.reserve_lock("job", "t3", 1000)).granted
        clock.now += 0.101
        assert (await store.reserve_lock("job", "t3", 1000)).granted

    @pytest.mark.parametrize("freed", [False, True])
    async def test_a_reservation_can_be_ended(self, store: LockProvider, freed: bool) -> None:
        await taken(store, "n1")
        assert (await store.reserve_lock("job", "t2", 1000)).granted
        if freed:
            await store.release_lock("job", "n1", in_time=True)
        assert not (await store.reserve_lock("job", "t3", 0)).granted
        assert (await store.reserve_lock("job", "t2", 0)).granted
        left = await store.read_lock("job")
        assert left is not None
        assert left.next_turn is None
        await store.release_lock("job", "n1", in_time=True)
        assert (await store.claim_lock("job", a_claim("n3"))).granted

    async def test_a_reserved_lock_whose_lease_is_over_goes_to_the_reserved_turn(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        await taken(store, "n1")
        clock.now += 19.9
        assert (await store.reserve_lock("job", "t2", 1000)).granted
        clock.now += 0.2
        assert not (await store.claim_lock("job", a_claim("n3"))).granted
        assert (await store.claim_lock("job", a_claim("n2", turn="t2"))).granted

    async def test_force_release_ends_a_reservation(self, store: LockProvider) -> None:
        await taken(store, "n1")
        assert (await store.reserve_lock("job", "t2", 1000)).granted
        assert await store.force_release("job")
        assert (await store.claim_lock("job", a_claim("n3"))).granted

    async def test_a_dead_holder_that_was_watched_is_taken_over_past_a_reservation(
        self,
        store: LockProvider,
    ) -> None:
        await taken(store, "dead", lease_ms=60_000)
        seen = (await store.reserve_lock("job", "t2", 60_000)).record
        assert (await store.claim_lock("job", a_claim("n3"), seen=seen)).granted

    async def test_a_dead_reservation_that_was_watched_is_passed_over(
        self, store: LockProvider
    ) -> None:
        await taken(store, "n1")
        assert (await store.reserve_lock("job", "dead", 60_000)).granted
        await store.release_lock("job", "n1", in_time=True)
        seen = await store.read_lock("job")
        assert not (await store.claim_lock("job", a_claim("n3"))).granted
        assert (await store.claim_lock("job", a_claim("n3"), seen=seen)).granted
        assert not (await store.claim_lock("job", a_claim("n4"), seen=seen)).granted

    async def test_a_reservation_that_changed_since_it_was_seen_is_not_passed_over(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        await taken(store, "n1", lease_ms=60_000)
        assert (await store.reserve_lock("job", "t2", 60_000)).granted
        seen = await store.read_lock("job")
        clock.now += 1
        assert (await store.reserve_lock("job", "t2", 60_000)).granted
        await store.release_lock("job", "n1", in_time=True)
        assert seen is not None
        free = await store.read_lock("job")
        assert free is not None
        stale = LockRecord(
            free.version,
            free.fencing_token,
            next_turn=seen.next_turn,
            next_until_ms=seen.next_until_ms,
        )
        assert not (await store.claim_lock("job", a_claim("n3"), seen=stale)).granted
        assert (await store.claim_lock("job", a_claim("n3"), seen=free)).granted

    async def test_a_refusal_tells_when_the_lease_will_be_over(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        await taken(store, "n1")
        clock.now += 19.7
        refused = await store.claim_lock("job", a_claim("n2"))
        assert refused.dead_in_ms == pytest.approx(301, abs=1)
        reserved = await store.reserve_lock("job", "t2", 1000)
        assert reserved.dead_in_ms == pytest.approx(301, abs=1)
        clock.now += refused.dead_in_ms / 1000
        assert (await store.claim_lock("job", a_claim("n2", turn="t2"))).granted

    async def test_of_many_concurrent_reservations_one_is_granted(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            await taken(store, "n1", lease_ms=60_000)
            granted: list[str] = []

            async def reserve(turn: str) -> None:
                if (await store.reserve_lock("job", turn, 60_000)).granted:
                    granted.append(turn)

            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(reserve, f"t{number}")
            assert len(granted) == 1

    async def test_a_handover_and_a_release_of_one_holder_never_both_happen(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:
            for number in range(10):
                first = f"n{number}"
                await taken(store, first, lease_ms=60_000)
                outcomes: list[bool] = []

                async def hand_over(first: str = first, outcomes: list[bool] = outcomes) -> None:
                    outcomes.append(
                        (await store.hand_over_lock("job", first, a_claim(f"{first}b"))).granted
                    )

                async def release(first: str = first, outcomes: list[bool] = outcomes) -> None:
                    outcomes.append(await store.release_lock("job", first, in_time=False))

                async with anyio.create_task_group() as group:
                    group.start_soon(hand_over)
                    group.start_soon(release)
                assert sorted(outcomes) == [False, True]
                await store.force_release("job")
