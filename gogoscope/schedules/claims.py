"""Claiming a run of a schedule: its lease, as a ``LockHandle`` knows leases."""

from __future__ import annotations

from gogoscope._core.background import Home
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.protocols.schedules import ScheduleProvider
from gogoscope.persistence.schedule_records import ScheduleRecord, Wanted


class TickLeases:
    """The run that somebody wants, as a lease.

    ``found`` is the schedule as the last answer to the claim showed it.
    """

    __slots__ = ("_provider", "_wanted", "found")

    def __init__(self, provider: ScheduleProvider, wanted: Wanted) -> None:
        self._provider = provider
        self._wanted = wanted
        self.found: ScheduleRecord | None = None

    async def claim_lock(
        self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
    ) -> LockReply:
        """Begin the run in one write, or learn what there is to do instead."""
        reply = await self._provider.claim_tick(key, claim, self._wanted, seen=seen)
        self.found = reply.record
        lease = None if reply.record is None else reply.record.lease
        return LockReply(reply.granted, lease, reply.dead_in_ms)

    async def renew_lock(
        self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last longer."""
        return await self._provider.renew_tick(key, nonce, version, lease_ms, until_ms)

    async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
        """Take the claim of ``nonce`` back: nothing was called."""
        return await self._provider.end_tick(key, nonce, "unbegun")

    async def read_lock(self, key: str) -> LockRecord | None:
        """Return the lease of the run in progress."""
        record = await self._provider.read_schedule(key)
        return None if record is None or record.state != "running" else record.lease

    def lease_left_ms(self, record: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds."""
        return self._provider.tick_left_ms(record)


def schedules_of(home: Home) -> ScheduleProvider:
    """Return the schedules of a scope's store.

    :raises CapabilityNotSupportedError: if it has none
    """
    provider: ScheduleProvider = provider_of("schedules", home.store())
    return provider
