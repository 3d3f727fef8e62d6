"""The kit for jobs: who has one, what is saved of it, and who goes on."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio
import pytest

from gogoscope import Scope, scope
from gogoscope.persistence.job_records import JobReply
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.protocols.jobs import JobProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

LEASE = 4.5
LEASE_MS = 4_500
KEEP = 3_600.0


def a_claim(nonce: str) -> LockClaim:
    return LockClaim(nonce=nonce, owner=f"owner of {nonce}", lease_ms=LEASE_MS)


async def taken(
    store: JobProvider, nonce: str, key: str = "job", version: int = 1, *, restart: bool = False
) -> JobReply:
    reply = await store.claim_job(key, a_claim(nonce), version, restart=restart)
    assert reply.granted
    return reply


async def save(
    store: JobProvider, lease: LockRecord | None, state: Any, key: str = "job", version: int = 1
) -> LockReply:
    assert lease is not None
    text = store.job_text(state)
    nonce = lease.nonce or ""
    return await store.save_job(key, nonce, lease.version, LEASE_MS, 0, text, version)


class JobConformance(Conformance):
    """Every rule of ``JobProvider``: derive a test class from it."""

    capability: ClassVar = "jobs"

    @staticmethod
    async def look(store: Any) -> object:
        """Read a job that nobody has begun."""
        return await store.read_job("k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Hold a job through a scope."""
        async with s.job("of a scope"):
            pass

    async def state(self, store: JobProvider, key: str = "job") -> Any:
        """Return the state that was saved last."""
        record = await store.read_job(key)
        assert record is not None
        return store.job_state(key, record.state) if record.saves else None

    async def test_one_holder_at_a_time_has_a_job(self, store: JobProvider) -> None:
        await taken(store, "a")
        reply = await store.claim_job("job", a_claim("b"), 1)
        assert not reply.granted
        assert reply.record.lease.nonce == "a"

    async def test_a_claim_of_a_job_sent_twice_is_granted_twice(self, store: JobProvider) -> None:
        first = await taken(store, "a", restart=True)
        saved = await save(store, first.record.lease, 7)
        assert saved.granted
        assert (await taken(store, "a", restart=True)).record.saves == 1

    async def test_a_claim_of_a_job_that_lands_after_it_was_taken_back_is_refused(
        self, store: JobProvider
    ) -> None:
        assert not await store.release_job("job", "late")
        assert not (await store.claim_job("job", a_claim("late"), 1)).granted
        first = await taken(store, "a")
        await save(store, first.record.lease, 7)
        await store.release_job("job", "a")
        assert not await store.release_job("job", "later")
        assert not (await store.claim_job("job", a_claim("later"), 1)).granted
        await taken(store, "b")
        assert await self.state(store) == 7

    async def test_the_next_holder_goes_on_from_the_saved_state(self, store: JobProvider) -> None:
        first = await taken(store, "a")
        one = await save(store, first.record.lease, {"after": 1})
        two = await save(store, one.record, {"after": 2, "seen": [None, 1.5, "\u00e9"]})
        assert two.granted
        assert await store.release_job("job", "a")
        assert not await store.release_job("job", "a")
        second = await taken(store, "b")
        assert (second.record.saves, second.record.finished_ms) == (2, None)
        state = store.job_state("job", second.record.state)
        assert state == {"after": 2, "seen": [None, 1.5, "\u00e9"]}
        assert second.record.lease.fencing_token > first.record.lease.fencing_token

    async def test_a_save_needs_nonce_and_version(self, store: JobProvider) -> None:
        first = (await taken(store, "a")).record.lease
        one = await save(store, first, 1)
        late = await save(store, first, 0)
        assert not late.granted
        assert late.record == one.record
        assert await self.state(store) == 1
        assert not (await store.save_job("job", "b", first.version, LEASE_MS, 0, "2", 1)).granted

    async def test_a_save_renews_the_lease(self, store: JobProvider, clock: ManualClock) -> None:
        first = (await taken(store, "a")).record.lease
        clock.now += LEASE - 0.5
        assert (await save(store, first, 1)).granted
        clock.now += LEASE - 0.5
        assert not (await store.claim_job("job", a_claim("b"), 1)).granted

    async def test_a_renewal_leaves_the_state(self, store: JobProvider) -> None:
        first = (await taken(store, "a")).record.lease
        saved = (await save(store, first, 7)).record
        assert saved is not None
        assert (await store.renew_job("job", "a", saved.version, LEASE_MS, 0)).granted
        assert await self.state(store) == 7

    async def test_a_dead_holder_is_followed_after_its_lease(
        self, store: JobProvider, clock: ManualClock
    ) -> None:
        first = (await taken(store, "a")).record.lease
        await save(store, first, 7)
        clock.now += LEASE
        assert not (await store.claim_job("job", a_claim("b"), 1)).granted
        clock.now += 0.002
        reply = await taken(store, "b")
        assert store.job_state("job", reply.record.state) == 7

    async def test_whoever_lost_a_job_changes_nothing_any_more(
        self, store: JobProvider, clock: ManualClock
    ) -> None:
        zombie = (await taken(store, "a")).record.lease
        clock.now += LEASE + 1
        second = (await taken(store, "b")).record.lease
        assert not (await save(store, zombie, "of the zombie")).granted
        assert not (await store.renew_job("job", "a", zombie.version, LEASE_MS, 0)).granted
        assert not await store.finish_job("job", "a", KEEP)
        assert not await store.release_job("job", "a")
        assert (await save(store, second, "of its successor")).granted
        assert await self.state(store) == "of its successor"

    async def test_a_finished_job_says_so_and_keeps_its_state(self, store: JobProvider) -> None:
        first = (await taken(store, "a")).record.lease
        await save(store, first, 7)
        assert await store.finish_job("job", "a", KEEP)
        assert await store.finish_job("job", "a", KEEP)
        reply = await taken(store, "b")
        assert reply.record.finished_ms is not None
        assert store.job_state("job", reply.record.state) == 7

    async def test_that_a_job_has_finished_is_kept_to_the_millisecond(
        self, store: JobProvider, clock: ManualClock
    ) -> None:
        await taken(store, "a")
        assert await store.finish_job("job", "a", 60)
        clock.now += 59.999
        assert (await taken(store, "b")).record.finished_ms is not None
        assert await store.finish_job("job", "b", 60)
        clock.now += 60.002
        assert (await taken(store, "c")).record.finished_ms is None

    async def test_a_job_that_has_not_finished_is_never_forgotten(
        self, store: JobProvider, clock: ManualClock
    ) -> None:
        first = (await taken(store, "a")).record.lease
        await save(store, first, 7)
        await store.release_job("job", "a")
        clock.now += 3 * 365 * 86_400
        assert (await taken(store, "b")).record.saves == 1

    async def test_whoever_has_a_job_that_had_finished_keeps_it_for_as_long_as_it_renews(
        self, store: JobProvider, clock: ManualClock
    ) -> None:
        await taken(store, "a")
        assert await store.finish_job("job", "a", 60)
        lease = (await taken(store, "b")).record.lease
        for _ in range(4):
            clock.now += 43_200
            reply = await store.renew_job("job", "b", lease.version, LEASE_MS, 0)
            assert reply.granted
            assert reply.record is not None
            lease = reply.record
        assert not (await store.claim_job("job", a_claim("c"), 1)).granted

    async def test_how_far_a_job_has_come_is_kept_until_another_save_tells(
        self, store: JobProvider
    ) -> None:
        lease = (await taken(store, "a")).record.lease
        for told, kept in [((1, 9), (1, 9)), ((2, None), (2, 9)), ((None, None), (2, 9))]:
            reply = await store.save_job(
                "job", "a", lease.version, LEASE_MS, 0, "1", 1, done=told[0], total=told[1]
            )
            assert reply.record is not None
            lease = reply.record
            found = (await store.jobs())["job"]
            assert (found.done, found.total) == kept
        await store.release_job("job", "a")
        later = (await taken(store, "b")).record
        assert (later.done, later.total) == (2, 9)
        await store.release_job("job", "b")
        anew = (await taken(store, "c", restart=True)).record
        assert (anew.done, anew.total) == (None, None)

    async def test_a_job_may_begin_anew(self, store: JobProvider) -> None:
        first = await taken(store, "a")
        await save(store, first.record.lease, 7)
        await store.finish_job("job", "a", KEEP)
        anew = await taken(store, "b", restart=True)
        assert (anew.record.saves, anew.record.finished_ms) == (0, None)
        assert anew.record.lease.fencing_token > first.record.lease.fencing_token

    async def test_a_state_of_a_newer_version_is_refused(self, store: JobProvider) -> None:
        first = (await taken(store, "a", version=2)).record.lease
        await save(store, first, 7, version=2)
        await store.release_job("job", "a")
        reply = await store.claim_job("job", a_claim("b"), 1)
        assert (reply.granted, reply.record.version) == (False, 2)
        older = await taken(store, "c", version=3)
        assert older.record.version == 2
        await store.release_job("job", "c")
        assert (await taken(store, "d", restart=True)).record.version == 1

    async def test_a_newer_version_that_saved_nothing_keeps_no_older_one_out(
        self, store: JobProvider
    ) -> None:
        await taken(store, "a", version=2)
        await store.release_job("job", "a")
        older = (await taken(store, "b", version=1)).record.lease
        await save(store, older, 7, version=1)
        await store.release_job("job", "b")
        kept = (await taken(store, "c", version=1)).record
        assert (kept.saves, kept.version) == (1, 1)

    async def test_jobs_are_listed_with_what_is_known_of_them(
        self, store: JobProvider, clock: ManualClock
    ) -> None:
        for key in ("a:1", "a:2", "a:3", "b:1"):
            await taken(store, f"n{key}", key)
        assert await store.finish_job("a:1", "na:1", KEEP)
        assert await store.release_job("a:3", "na:3")
        clock.now += LEASE + 1
        await taken(store, "later", "b:1")
        found = await store.jobs("a:*")
        assert {key: job.state for key, job in found.items()} == {
            "a:1": "finished",
            "a:2": "crashed",
            "a:3": "waiting",
        }
        assert (await store.jobs())["b:1"].state == "running"

    async def test_a_change_of_a_job_leaves_those_beside_it_alone(
        self, beside: tuple[Any, list[tuple[Any, str]]]
    ) -> None:
        store, others = beside
        for number, (other, key) in enumerate(others):
            await taken(other, f"n{number}", key)
        before = [await other.read_job(key) for other, key in others]
        first = (await taken(store, "a", "k")).record.lease
        await save(store, first, 7, "k")
        assert await store.finish_job("k", "a", KEEP)
        assert [await other.read_job(key) for other, key in others] == before

    async def test_a_cancelled_save_is_whole_or_not_there(self, open_store: OpenStore) -> None:
        async with open_store() as store:

            async def attempt_at(n: int) -> CancelledAt:
                key = f"job {n}"
                first = (await taken(store, "a", key)).record.lease
                attempt = CancelledAt(save(store, first, ["whole", n], key), n)
                await attempt.run()
                assert await self.state(store, key) in (None, ["whole", n])
                return attempt

            await cancel_everywhere(attempt_at)

    async def test_a_job_goes_on_in_another_store_on_the_same_data(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as one, scope(persistence=one) as s:
            with pytest.raises(OSError, match="broken"):
                async with s.job("job") as job:
                    await job.save("half")
                    raise OSError("broken")
        async with open_store() as two, scope(persistence=two) as s:
            with anyio.fail_after(30):
                async with s.job("job") as job:
                    if not self.works_after_close or job.state is not None:
                        assert job.state == "half"
