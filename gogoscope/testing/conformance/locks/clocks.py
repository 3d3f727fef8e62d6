"""Rules of time for locks: clocks are set forward and back while a lock is held."""

from __future__ import annotations

import pytest

from gogoscope.exceptions import LeaseLostError
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock
from gogoscope.testing.conformance.locks.leases import LEASE, a_claim, acquired

HOUR = 3600.0


class LockClockRules(Conformance):
    """What a ``LockProvider`` keeps to when its wall clock is set."""

    @pytest.mark.parametrize("step", [HOUR, LEASE + 1, -LEASE - 1, -HOUR])
    async def test_a_lock_that_is_renewed_stays_held_though_the_clock_was_set(
        self, store: LockProvider, clock: ManualClock, step: float
    ) -> None:
        handle = await acquired(store, "job", LEASE)
        clock.set_wall(clock.now + step)
        assert await handle.extend()
        for _ in range(3):
            clock.now += LEASE * 0.9
            assert await store.acquire("job", LEASE) is None
            assert await handle.extend()
            handle.ensure()
        assert await handle.release() is True

    async def test_a_holder_counts_on_its_lock_as_long_as_no_other_can_take_it(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        handle = await acquired(store, "job", LEASE)
        clock.set_wall(clock.now + HOUR)
        record = await store.read_lock("job")
        assert record is not None
        if store.lease_left_ms(record) > 0:
            handle.ensure()
            assert await store.acquire("job", LEASE) is None
        else:
            with pytest.raises(LeaseLostError, match="a clock was set"):
                handle.ensure()
            assert handle.lost is None
        assert await handle.is_valid()
        handle.ensure()
        assert await store.acquire("job", LEASE) is None

    @pytest.mark.parametrize("step", [HOUR, LEASE + 1])
    async def test_a_process_whose_clock_was_set_takes_over_only_what_it_has_watched(
        self, store: LockProvider, clock: ManualClock, step: float
    ) -> None:
        free = await acquired(store, "free", LEASE)
        assert await free.release()
        await acquired(store, "job", LEASE)
        clock.set_wall(clock.now + step)
        assert await store.acquire("job", LEASE) is None
        seen = await store.read_lock("job")
        assert (await store.claim_lock("job", a_claim("other"), seen=seen)).granted
        await acquired(store, "free", LEASE)

    async def test_a_lock_that_was_taken_when_the_clock_was_set_is_not_valid(
        self, store: LockProvider, clock: ManualClock
    ) -> None:
        handle = await acquired(store, "job", LEASE)
        seen = await store.read_lock("job")
        clock.set_wall(clock.now + HOUR)
        clock.now += LEASE + 1
        other = await store.claim_lock("job", a_claim("other"), seen=seen)
        assert other.granted
        with pytest.raises(LeaseLostError):
            handle.ensure()
        assert await handle.is_valid() is False
        assert handle.lost is not None
