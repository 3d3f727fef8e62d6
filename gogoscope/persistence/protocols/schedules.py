"""What a store of schedules can do."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.schedule_records import (
    Schedule,
    ScheduleRecord,
    ScheduleReply,
    TickEnd,
    Wanted,
)


@runtime_checkable
class ScheduleProvider(Protocol):
    """Keeps which ticks of schedules have been started, so that each is started once."""

    def schedule_now_ms(self) -> int:
        """Return the time by which ticks are due, in milliseconds since the Unix epoch."""
        ...

    async def open_schedule(
        self, name: str, definition: str, next_ms: int | None
    ) -> ScheduleRecord:
        """Note a schedule that is new, or has changed, and return it as it is now.

        A new one, and one whose definition has changed, begins with the next tick from now.

        :param definition: tells people when its ticks come
        :param next_ms: the next tick
        """
        ...

    async def claim_tick(
        self, name: str, claim: LockClaim, wanted: Wanted, *, seen: LockRecord | None = None
    ) -> ScheduleReply:
        """Begin a run in one write, or learn from the refusal what there is to do instead.

        A tick is granted if it is due, everything before it is settled, as the caller believes, and
        nobody runs. A run that died is granted again until it was begun ``1 + retries`` times, and
        goes before the ticks after it. Where nothing may start but what a person triggers, the
        schedule is paused.

        :param claim: one that was never sent; a claim whose nonce runs already is granted
        :param wanted: what is to be run
        :param seen: the lease of the run, watched unchanged for its whole length
        """
        ...

    async def renew_tick(
        self, name: str, nonce: str, version: int, lease_ms: int, until_ms: int
    ) -> LockReply:
        """Let the lease of the run of ``nonce`` last longer, as ``renew_lock`` does."""
        ...

    async def end_tick(self, name: str, nonce: str, how: TickEnd, error: str | None = None) -> bool:
        """Note how the run of ``nonce`` ended; ``False`` if it was taken over.

        If nobody runs, the claim of an unbegun one may still be on its way: it is refused when it
        lands.

        :param how: ``"done"``, ``"failed"``, ``"interrupted"`` if it is to be begun again, or
            ``"unbegun"`` if it is to be, and this time counts for nothing
        :param error: what it failed with, for people
        """
        ...

    async def read_schedule(self, name: str) -> ScheduleRecord | None:
        """Return a schedule as the newest completed write left it; ``None`` if there is none."""
        ...

    def tick_left_ms(self, lease: LockRecord) -> int:
        """Return how long a lease still runs, in milliseconds; makes no request."""
        ...

    async def pause_schedule(self, name: str) -> bool:
        """Let no tick of a schedule start, in the whole fleet, until it is continued.

        A run in progress goes on. Nothing starts once this has returned.

        :returns: ``False`` if there is no such schedule
        """
        ...

    async def continue_schedule(self, name: str) -> bool:
        """Let a schedule that was paused go on with its next tick from now.

        :returns: ``False`` if there is no such schedule
        """
        ...

    async def trigger_schedule(self, name: str) -> bool:
        """Have a schedule run once more, besides its ticks, even if it is paused.

        It runs as soon as a process looks, and no run is in progress. Before it has begun, asking
        again changes nothing.

        :returns: ``False`` if there is no such schedule
        """
        ...

    async def forget_schedule(self, name: str) -> bool:
        """Forget a schedule that no process has any more; one that runs begins anew.

        :returns: ``False`` if there is no such schedule
        """
        ...

    async def schedules(self, pattern: str | None = None) -> dict[str, Schedule]:
        """Return the schedules that are known, by their names; one that is corrupt is left out.

        :param pattern: a glob over whole names, as for ``keys``
        """
        ...
