"""What a lease depends on is urgent, whatever the capability; nothing else is."""

from __future__ import annotations

import pytest

from gogoscope.persistence import is_urgent, lock_rules, time_of_try, urgently
from gogoscope.persistence.lock_claims import claim_handle, new_claim, take_back
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply

pytestmark = pytest.mark.anyio


class Leases:
    """A ``LeaseStore`` of a capability that nobody has written yet; notes what was urgent."""

    def __init__(self) -> None:
        self.record: LockRecord | None = None
        self.urgent: dict[str, bool] = {}
        self.time_of_renewal = 0.0

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        self.urgent["claim"] = is_urgent()
        self.record, reply = lock_rules.claim(self.record, 0, claim)
        return reply

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        self.urgent["renew"] = is_urgent()
        self.time_of_renewal = time_of_try(30)
        self.record, reply = lock_rules.renew(self.record, 0, nonce, version, lease_ms, until_ms)
        return reply

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        self.urgent["release"] = is_urgent()
        self.record, freed = lock_rules.release(self.record, 0, nonce)
        return freed

    async def read_lock(self, key: str) -> LockRecord | None:
        return self.record

    def lease_left_ms(self, record: LockRecord) -> int:
        return 1


async def test_renewals_and_releases_of_every_kind_of_lease_are_urgent() -> None:
    leases = Leases()
    handle = await claim_handle(leases, "k", new_claim(60), 60)
    assert isinstance(handle, LockHandle)
    assert await handle.extend()
    assert await handle.release()
    assert leases.urgent == {"claim": False, "renew": True, "release": True}
    assert not is_urgent()


async def test_a_claim_is_taken_back_urgently() -> None:
    leases = Leases()
    await take_back(leases, "k", "nonce")
    assert leases.urgent == {"release": True}


async def test_what_fails_urgently_leaves_nothing_urgent_behind() -> None:
    async def fail() -> None:
        assert is_urgent()
        raise OSError

    with pytest.raises(OSError):
        await urgently(fail())
    assert not is_urgent()


@pytest.mark.parametrize(("lease", "seconds"), [(8, 2), (0.01, 0.1), (3600, 30)])
async def test_a_try_of_a_renewal_takes_a_part_of_the_lease_at_most(
    lease: float, seconds: float
) -> None:
    leases = Leases()
    handle = await claim_handle(leases, "k", new_claim(3600), 3600)
    assert isinstance(handle, LockHandle)
    assert await handle.extend(lease)
    assert leases.time_of_renewal == seconds
    assert time_of_try(30) == 30


async def test_the_shorter_lease_counts_for_what_is_urgent_for_two_reasons() -> None:
    async def ask() -> float:
        return time_of_try(30)

    assert await urgently(urgently(ask(), lease=40), lease=20) == 5
    assert await urgently(urgently(ask(), lease=20), lease=40) == 5
    assert await urgently(ask()) == 30
