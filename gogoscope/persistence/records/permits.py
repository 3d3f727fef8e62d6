"""Semaphores and read/write locks over any place for records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import get_args

from gogoscope._core.arguments import shown
from gogoscope.persistence.lock_records import (
    LockHolder,
    LockRecord,
    LockReply,
    describe_holder,
)
from gogoscope.persistence.permit_records import (
    Permit,
    PermitClaim,
    PermitKind,
    PermitReply,
    PermitsRecord,
    ReadWriteLock,
    Semaphore,
)
from gogoscope.persistence.records.place import Kind, RecordCapability, json_kind
from gogoscope.persistence.rules import permits as permit_rules

PERMIT_KINDS: Mapping[PermitKind, Kind[PermitsRecord]] = {
    name: json_kind(
        name, PermitsRecord, permit_rules.purge_at_ms, awaited=permit_rules.lets_the_next_in
    )
    for name in get_args(PermitKind)
}


class RecordPermits(RecordCapability):
    """A ``PermitProvider``: every method is one transaction on one record."""

    async def claim_permit(
        self,
        kind: PermitKind,
        key: str,
        claim: PermitClaim,
        *,
        dead: Mapping[str, int] | None = None,
    ) -> PermitReply:
        """Take a permit in one write, or learn from the refusal who holds them."""
        return await self._claim_lease(
            _kind(kind),
            key,
            permit_rules.claim,
            claim,
            dead=dead or {},
        )

    async def hand_over_permit(
        self, kind: PermitKind, key: str, nonce: str, claim: PermitClaim
    ) -> PermitReply:
        """Free the permit of ``nonce`` and grant a claim, if it fits then, in one write."""
        return await self._claim_lease(
            _kind(kind),
            key,
            permit_rules.hand_over,
            nonce,
            claim,
        )

    async def renew_permit(
        self, kind: PermitKind, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of ``nonce`` last until ``until_ms``, or ``lease_ms`` from now if later."""
        return await self._change_lease(
            _kind(kind), key, permit_rules.renew, nonce, version, lease_ms, until_ms
        )

    async def release_permit(self, kind: PermitKind, key: str, nonce: str) -> bool:
        """Free the permit of ``nonce``; ``False`` if it was lost."""
        return await self._change(_kind(kind), key, permit_rules.release, nonce)

    async def leave_turn(self, kind: PermitKind, key: str, turn: str) -> bool:
        """Give up a turn that was reserved; ``False`` if there was none."""
        return await self._change(_kind(kind), key, permit_rules.leave, turn)

    async def read_permits(self, kind: PermitKind, key: str) -> PermitsRecord | None:
        """Return the permits as the newest completed write left them; ``None`` for none."""
        return await self._records.read(_kind(kind), self._full_key(key))

    def permit_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        return self._left_ms(lease)

    async def semaphores(self, pattern: str | None = None) -> dict[str, Semaphore]:
        """Return the semaphores that somebody holds or waits for, by their keys.

        One that is corrupt is left out.

        :param pattern: a case-sensitive glob over whole keys: ``*`` is any run of characters,
            ``?`` any one, every other character itself
        """
        return {
            key: Semaphore(self._described(record.holders.values()), self._waiting(record))
            for key, record in (await self._in_use("semaphore", pattern)).items()
        }

    async def read_write_locks(self, pattern: str | None = None) -> dict[str, ReadWriteLock]:
        """Return the read/write locks that somebody holds or waits for, by their keys.

        One that is corrupt is left out.

        :param pattern: as for :meth:`semaphores`
        """
        found = await self._in_use("read_write_lock", pattern)
        return {key: self._described_lock(record) for key, record in found.items()}

    async def force_release_permits(
        self, kind: PermitKind, key: str, fencing_token: int | None = None
    ) -> int:
        """Free the permits of a semaphore or read/write lock, whoever holds them.

        :param fencing_token: that of the only permit to free; ``None`` for all
        :returns: how many were held; 0 if the record was removed, since it was corrupt
        """
        return (
            await self._change_or_remove(
                _kind(kind), key, permit_rules.force_release, fencing_token
            )
            or 0
        )

    async def _in_use(self, kind: PermitKind, pattern: str | None) -> dict[str, PermitsRecord]:
        found = await self._listed(_kind(kind), pattern)
        return {key: record for key, record in found.items() if record.holders or record.waiting}

    def _described_lock(self, record: PermitsRecord) -> ReadWriteLock:
        holders = record.holders.values()
        writers = self._described(one for one in holders if one.takes == "all")
        return ReadWriteLock(
            readers=self._described(one for one in holders if one.takes == "one"),
            writer=writers[0] if writers else None,
            waiting=self._waiting(record),
        )

    def _waiting(self, record: PermitsRecord) -> tuple[LockHolder, ...]:
        """Return those who wait, as long as they renew their turns."""
        least = -self._skew_now_ms()
        return self._described(
            one for one in record.waiting.values() if self.permit_left_ms(one.lease) >= least
        )

    def _described(self, permits: Iterable[Permit]) -> tuple[LockHolder, ...]:
        described = (describe_holder(permit.lease, self.permit_left_ms) for permit in permits)
        return tuple(holder for holder in described if holder is not None)


def _kind(kind: PermitKind) -> Kind[PermitsRecord]:
    found = PERMIT_KINDS.get(kind)
    if found is None:
        raise ValueError(f"kind must be one of {', '.join(PERMIT_KINDS)}, got {shown(kind)}")
    return found
