"""Rules of leases: who gets a lock, until when, and with which fencing token."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import anyio
import pytest

from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LockClaim, LockRecord
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore

# No lease is shorter than this: a store may allow one request no more than a part of the lease,
# and a busy machine is slow to answer. Time passes by the test's own clock.
LEASE = 4.5
LEASE_MS = 4_500


def a_claim(nonce: str, lease_ms: int = LEASE_MS, **metadata: str) -> LockClaim:
    return LockClaim(nonce=nonce, owner=f"owner of {nonce}", lease_ms=lease_ms, metadata=metadata)


async def acquired(
    store: LockProvider, key: str, ttl: float, owner: str | None = None
) -> LockHandle:
    handle = await store.acquire(key, ttl, owner)
    assert handle is not None
    return handle


class LockLeaseRules(Conformance):
    """How a ``LockProvider`` takes, extends, renews and releases locks."""

    async def test_a_free_lock_is_acquired_and_a_held_one_is_not(self, store: LockProvider) -> None:
        handle = await acquired(store, "job", 30)
        assert handle.key == "job"
        assert await store.acquire("job", 30) is None
        assert await handle.is_valid()

    async def test_a_lock_is_per_key(self, store: LockProvider) -> None:
        await acquired(store, "one", 30)
        await acquired(store, "two", 30)

    async def test_the_ttl_of_a_lease_may_be_a_timedelta(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        handle = await store.acquire("job", timedelta(seconds=5))
        assert handle is not None
        assert handle.expires_at == clock.now + 5
        assert await handle.extend(timedelta(seconds=9))
        assert handle.expires_at == pytest.approx(clock.now + 9, abs=1)

    async def test_a_lease_is_held_to_the_millisecond(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        begin = clock.now
        await acquired(store, "job", LEASE)
        for passed in (0.001, LEASE / 2, LEASE - 0.001, LEASE):
            clock.now = begin + passed
            assert await store.acquire("job", LEASE) is None
        clock.now = begin + LEASE + 0.002
        await acquired(store, "job", LEASE)

    async def test_a_released_lock_is_free_at_once(self, store: LockProvider) -> None:
        handle = await acquired(store, "job", 30)
        assert await handle.release() is True
        assert await store.holder("job") is None
        await acquired(store, "job", 30)

    async def test_the_locks_that_are_held_are_listed_with_their_holders(
        self, open_store: OpenStore, clock: ManualClock
    ) -> None:
        async with open_store("a:", clock) as store, open_store("b:", clock) as other:
            assert await store.locks() == {}
            keys = ["job:1", "job:2", "jo", "x*y"]
            for key in keys:
                await acquired(store, key, 30)
            await acquired(other, "job:3", 30)
            assert await (await acquired(store, "released", 30)).release()
            await acquired(store, "forced", 30)
            assert await store.force_release("forced")
            assert sorted(await store.locks()) == sorted(keys)
            assert sorted(await store.locks("job:*")) == ["job:1", "job:2"]
            assert sorted(await store.locks("x[*]y")) == []
            listed = await store.locks("jo")
            assert listed == {"jo": await store.holder("jo")}
            assert listed["jo"].lease_left == 30

    async def test_releasing_a_lost_lock_returns_false_and_does_not_free_the_new_one(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        lost = await acquired(store, "job", LEASE)
        clock.now += LEASE + 1
        new = await acquired(store, "job", 30)
        assert await lost.release() is False
        assert await new.is_valid()
        assert await store.acquire("job", 30) is None

    async def test_a_second_release_returns_false(self, store: LockProvider) -> None:
        handle = await acquired(store, "job", 30)
        assert await handle.release() is True
        assert await handle.release() is False

    async def test_a_handle_releases_at_the_end_of_its_block(self, store: LockProvider) -> None:
        async with await acquired(store, "job", 30):
            assert await store.holder("job") is not None
        assert await store.holder("job") is None

    async def test_a_lost_lock_is_not_valid(self, store: LockProvider, clock: ManualClock) -> None:
        lost = await acquired(store, "job", LEASE)
        clock.now += LEASE + 1
        await acquired(store, "job", 30)
        assert await lost.is_valid() is False
        assert lost.lost is not None

    async def test_extending_a_handle_moves_the_end_of_its_lease(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        handle = await acquired(store, "job", LEASE)
        assert await handle.extend(3600) is True
        clock.now += 3000
        assert await store.acquire("job", LEASE) is None
        assert await handle.is_valid()

    async def test_extending_a_lost_handle_fails_and_leaves_the_new_holder_alone(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        lost = await acquired(store, "job", LEASE)
        clock.now += LEASE + 1
        new = await acquired(store, "job", 30)
        before = await store.read_lock("job")
        assert await lost.extend(3600) is False
        assert await store.read_lock("job") == before
        assert await new.is_valid()

    async def test_a_handle_may_be_extended_after_an_extension_by_owner(
        self, store: LockProvider
    ) -> None:
        handle = await acquired(store, "job", 30, "me")
        assert await store.extend("job", 60, "me") is True
        assert await handle.extend(90) is True

    async def test_only_the_owner_extends(self, store: LockProvider, clock: ManualClock) -> None:
        await acquired(store, "job", LEASE, "me")
        assert await store.extend("job", 60, "somebody") is False
        assert await store.extend("other", 60, "me") is False
        assert await store.extend("job", 60, "me") is True
        clock.now += 59
        assert await store.acquire("job", LEASE) is None

    async def test_extending_by_owner_never_shortens_a_lease_but_the_holder_may(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        handle = await acquired(store, "job", 60, "me")
        before = await store.read_lock("job")
        for shorter in (LEASE, 59.999, 60):
            assert await store.extend("job", shorter, "me") is True
            assert await store.read_lock("job") == before
        assert await store.extend("job", LEASE, "somebody") is False
        clock.now += 50
        assert await store.acquire("job", LEASE) is None
        assert await handle.extend(LEASE) is True
        shortened = await store.read_lock("job")
        assert shortened is not None
        assert before is not None
        assert shortened.lease_until_ms < before.lease_until_ms

    async def test_an_owner_cannot_extend_a_lease_that_is_over_or_released(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        await acquired(store, "late", LEASE, "me")
        clock.now += LEASE
        assert await store.extend("late", 60, "me") is False
        handle = await acquired(store, "released", 30, "me")
        await handle.release()
        assert await store.extend("released", 60, "me") is False

    async def test_an_owner_does_not_get_its_lock_twice(self, store: LockProvider) -> None:
        await acquired(store, "job", 30, "me")
        assert await store.acquire("job", 30, "me") is None

    async def test_a_lock_taken_without_a_name_is_extended_by_the_owner_of_its_handle(
        self,
        store: LockProvider,
    ) -> None:
        handle = await acquired(store, "job", 30)
        assert await store.extend("job", 60, handle.owner) is True

    async def test_force_release_frees_any_lock_and_returns_whether_it_was_held(
        self,
        store: LockProvider,
    ) -> None:
        handle = await acquired(store, "job", 30)
        assert await store.force_release("job") is True
        assert await handle.is_valid() is False
        assert await store.force_release("job") is False
        assert await store.force_release("never seen") is False
        await acquired(store, "job", 30)

    async def test_the_holder_is_described(self, store: LockProvider, clock: ManualClock) -> None:
        assert await store.holder("job") is None
        handle = await acquired(store, "job", 30, "me")
        clock.now += 10
        holder = await store.holder("job")
        assert holder is not None
        assert holder.owner == "me"
        assert holder.host == socket.gethostname()
        assert holder.pid == os.getpid()
        assert holder.since == clock.now - 10
        assert holder.lease_left == 20
        assert holder.fencing_token == handle.fencing_token

    async def test_fencing_tokens_only_grow(self, store: LockProvider, clock: ManualClock) -> None:
        tokens = []
        for end in ("release", "expiry", "force", "renewal", "owner's extension"):
            handle = await acquired(store, "job", LEASE, "me")
            tokens.append(handle.fencing_token)
            if end == "renewal":
                assert await handle.extend(2 * LEASE)
            if end == "owner's extension":
                assert await store.extend("job", LEASE, "me")
            assert handle.fencing_token == tokens[-1]
            if end == "expiry":
                clock.now += LEASE + 0.1
            elif end == "force":
                assert await store.force_release("job")
            else:
                assert await handle.release()
        tokens.append((await acquired(store, "job", LEASE)).fencing_token)
        assert tokens == sorted(set(tokens))

    async def test_fencing_tokens_grow_when_a_clock_is_behind(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        first = await acquired(store, "job", LEASE)
        await first.release()
        clock.now -= 5
        second = await acquired(store, "job", LEASE)
        assert second.fencing_token > first.fencing_token

    async def test_fencing_tokens_start_at_the_clock_in_microseconds(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        handle = await acquired(store, "job", LEASE)
        assert handle.fencing_token == pytest.approx(clock.now * 1e6, abs=10)

    async def test_claiming_again_with_the_same_nonce_is_the_same_acquisition(
        self, store: LockProvider
    ) -> None:
        first = await store.claim_lock("job", a_claim("n1"))
        again = await store.claim_lock("job", a_claim("n1"))
        assert first.granted
        assert again.granted
        assert again.record == first.record

    async def test_a_refused_claim_shows_who_has_the_lock(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        await store.claim_lock("job", a_claim("n1", host="here", scope="tests"))
        refused = await store.claim_lock("job", a_claim("n2"))
        assert not refused.granted
        record = refused.record
        assert record is not None
        now_ms = round(clock.now * 1000)
        assert (record.nonce, record.owner) == ("n1", "owner of n1")
        assert (record.lease_ms, record.lease_until_ms) == (LEASE_MS, now_ms + LEASE_MS)
        assert record.acquired_at_ms == now_ms
        assert record.metadata == {"host": "here", "scope": "tests"}
        assert record == await store.read_lock("job")

    async def test_a_late_claim_of_a_nonce_that_was_released_is_refused(
        self, store: LockProvider
    ) -> None:
        await store.claim_lock("job", a_claim("n1"))
        assert await store.release_lock("job", "n1", in_time=True) is True
        late = await store.claim_lock("job", a_claim("n1"))
        assert not late.granted
        assert (await store.claim_lock("job", a_claim("n2"))).granted

    async def test_a_claim_of_a_lock_that_lands_after_it_was_taken_back_is_refused(
        self, store: LockProvider
    ) -> None:
        assert await store.release_lock("job", "late", in_time=True) is False
        assert not (await store.claim_lock("job", a_claim("late"))).granted
        await store.claim_lock("job", a_claim("n1"))
        await store.release_lock("job", "n1", in_time=True)
        assert await store.release_lock("job", "late", in_time=True) is False
        assert not (await store.claim_lock("job", a_claim("late"))).granted
        assert (await store.claim_lock("job", a_claim("n2"))).granted

    async def test_a_renewal_needs_nonce_and_version(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        until_ms = round(clock.now * 1000) + 9_000
        record = (await store.claim_lock("job", a_claim("n1"))).record
        assert record is not None
        assert not (await store.renew_lock("job", "n2", record.version, 9_000, until_ms)).granted
        assert not (
            await store.renew_lock("job", "n1", record.version + 1, 9_000, until_ms)
        ).granted
        assert not (await store.renew_lock("other", "n1", record.version, 9_000, until_ms)).granted
        renewed = await store.renew_lock("job", "n1", record.version, 9_000, until_ms)
        assert renewed.granted
        assert renewed.record is not None
        assert renewed.record.version > record.version
        assert renewed.record.fencing_token == record.fencing_token
        assert renewed.record.lease_until_ms == until_ms
        assert renewed.record == await store.read_lock("job")

    async def test_a_refused_renewal_shows_the_lock_as_it_is(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        record = (await store.claim_lock("job", a_claim("n1"))).record
        assert record is not None
        await store.release_lock("job", "n1", in_time=True)
        reply = await store.renew_lock(
            "job", "n1", record.version, LEASE_MS, round(clock.now * 1000) + LEASE_MS
        )
        assert not reply.granted
        assert reply.record is not None
        assert reply.record.nonce is None

    async def test_releasing_needs_the_nonce_and_keeps_the_version(
        self, store: LockProvider
    ) -> None:
        record = (await store.claim_lock("job", a_claim("n1"))).record
        assert record is not None
        assert await store.release_lock("job", "n2", in_time=True) is False
        assert await store.release_lock("job", "n1", in_time=True) is True
        left = await store.read_lock("job")
        assert left is not None
        assert (left.nonce, left.owner, left.version) == (None, None, record.version)

    async def test_a_lock_that_was_never_held_has_no_record(self, store: LockProvider) -> None:
        assert await store.read_lock("job") is None
        assert await store.release_lock("job", "n1", in_time=True) is False

    async def test_a_holder_that_was_seen_unchanged_for_its_lease_is_taken_over(
        self,
        store: LockProvider,
    ) -> None:
        seen = (await store.claim_lock("job", a_claim("dead", lease_ms=60_000))).record
        assert seen is not None
        taken = await store.claim_lock("job", a_claim("alive"), seen=seen)
        assert taken.granted
        assert taken.record is not None
        assert taken.record.fencing_token > seen.fencing_token

    async def test_a_holder_that_renewed_since_it_was_seen_is_not_taken_over(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        seen = (await store.claim_lock("job", a_claim("alive"))).record
        assert seen is not None
        until_ms = round(clock.now * 1000) + LEASE_MS
        assert (await store.renew_lock("job", "alive", seen.version, LEASE_MS, until_ms)).granted
        assert not (await store.claim_lock("job", a_claim("other"), seen=seen)).granted

    async def test_a_holder_is_not_taken_over_for_what_was_seen_of_an_earlier_one(
        self,
        store: LockProvider,
    ) -> None:
        seen = (await store.claim_lock("job", a_claim("earlier"))).record
        assert seen is not None
        await store.release_lock("job", "earlier", in_time=True)
        assert (await store.claim_lock("job", a_claim("alive"))).granted
        assert not (await store.claim_lock("job", a_claim("other"), seen=seen)).granted

    async def test_two_stores_on_the_same_data_share_its_locks(self, open_store: OpenStore) -> None:
        async with open_store() as first, open_store() as second:
            handle = await acquired(first, "job", 30)
            assert await second.acquire("job", 30) is None
            holder = await second.holder("job")
            assert holder is not None
            assert holder.fencing_token == handle.fencing_token
            await handle.release()
            assert (await acquired(second, "job", 30)).fencing_token > handle.fencing_token

    async def test_locks_of_different_prefixes_are_different(self, open_store: OpenStore) -> None:
        async with open_store("a:") as first, open_store("b:") as second:
            await acquired(first, "job", 30)
            await acquired(second, "job", 30)

    async def test_prefixes_nest(self, open_store: OpenStore) -> None:
        async with open_store("a:") as outer, open_store("a:b:") as inner:
            await acquired(inner, "job", 30)
            assert await outer.acquire("b:job", 30) is None

    @pytest.mark.usefixtures("atomic")
    async def test_of_many_concurrent_acquirers_one_wins(self, open_store: OpenStore) -> None:
        async with open_store() as store:
            handles: list[LockHandle] = []

            async def contend() -> None:
                if (handle := await store.acquire("job", 30)) is not None:
                    handles.append(handle)

            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(contend)
            assert len(handles) == 1

    async def test_a_record_is_read_as_it_was_written(self, store: LockProvider) -> None:
        reply = await store.claim_lock("job", a_claim("n1", host="höst", scope="a 'b' \"c\" \n d"))
        assert isinstance(reply.record, LockRecord)
        assert await store.read_lock("job") == reply.record
