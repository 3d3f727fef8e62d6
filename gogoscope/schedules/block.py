"""The block of one run: a scope whose lease is renewed, and whose end says what became of it.

How a run ended is written however long the store is silent: until it is known, nobody may take the
run for one that died. If the run is cancelled meanwhile, it is tried for a bounded time, shielded.
After the loss of the lease it is only tried: whoever took over has the run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

import anyio

from gogoscope._core.background import Home
from gogoscope._core.cancellation import finish
from gogoscope._core.errors import is_a
from gogoscope._core.jitter import jittered
from gogoscope.events import description
from gogoscope.exceptions import GogoscopeError, LeaseLostError, PersistenceError
from gogoscope.locks.lease_block import Held, LeaseBlock
from gogoscope.persistence.asking import ask
from gogoscope.persistence.lock_handle import CLEAN_UP_SECONDS, LockHandle
from gogoscope.persistence.protocols.schedules import ScheduleProvider
from gogoscope.persistence.schedule_records import TickEnd
from gogoscope.persistence.urgency import urgently
from gogoscope.schedules.options import Scheduled
from gogoscope.schedules.tick import Tick

AGAIN_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
LONGEST_ERROR = 500
"""How much of an error people can read in the record."""


class InTick(Held, Protocol):
    """What runs inside the block of a run: a scope."""

    async def _run_tick(self, fn: Scheduled, tick: Tick) -> None:
        """Call the function of the schedule as a task; raise its error."""
        ...


T = TypeVar("T", bound=InTick)
OpenTick = Callable[[LockHandle], T]
"""Returns what runs in the block of a lease that is held."""


class TickBlock(LeaseBlock[T]):
    """Runs one tick, and notes how it ended.

    :param home: the scope that the schedule stands in
    :param open_tick: returns what runs in the block
    :param provider: keeps the schedule
    :param handle: the lease of the run
    """

    def __init__(
        self, home: Home, open_tick: OpenTick[T], provider: ScheduleProvider, handle: LockHandle
    ) -> None:
        super().__init__(home, open_tick, handle.key)
        self._provider = provider
        self._claimed = handle
        self.ended: TickEnd | None = None
        """How the run ended, if the store knows it."""

    async def _take(self) -> LockHandle:
        return self._claimed

    async def _give_up(self, leaving: BaseException | None) -> None:
        handle = self._handle
        try:
            if handle.lost is not None and leaving is not None:
                self._home.spawn(partial(self._try_to_say, "interrupted"))
            elif leaving is None and not self._cut:
                await self._say("done", None)
            elif is_a(leaving, Exception):
                await self._say("failed", description(leaving)[:LONGEST_ERROR])
            else:
                await finish(partial(self._try_to_say, "interrupted"), CLEAN_UP_SECONDS)
        finally:
            handle._abandon()

    async def _say(self, how: TickEnd, error: str | None) -> None:
        """Note how the run ended.

        :raises LeaseLostError: if somebody else has begun it again
        :raises PersistenceError: if the store fails for good
        """
        write = partial(self._write, how, error)
        try:
            known = await write()
        except Exception:
            raise
        except BaseException:
            await finish(write, CLEAN_UP_SECONDS)
            raise
        if not known:
            raise LeaseLostError(self.key, "another process has begun the tick again")
        self.ended = how

    async def _write(self, how: TickEnd, error: str | None) -> bool:
        """Write until the store answers: what was written before is written again, for nothing."""
        pause = AGAIN_SECONDS
        while True:
            try:
                return await urgently(
                    ask(self._provider.end_tick, self.key, self._handle._nonce, how, error)
                )
            except PersistenceError as failure:
                if not failure.retryable:
                    raise
            await anyio.sleep(jittered(pause))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _try_to_say(self, how: TickEnd) -> None:
        try:
            await self._write(how, None)
        except GogoscopeError:
            return  # Its lease ends the run.
