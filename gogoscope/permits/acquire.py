"""Taking a permit for the block of a scope, waiting for it if need be."""

from __future__ import annotations

import time

from gogoscope._core.arguments import printable
from gogoscope._core.background import Home
from gogoscope._core.context import slots_lent
from gogoscope.events import PermitAcquired, PermitReleased
from gogoscope.exceptions import LockTimeoutError
from gogoscope.permits.line import PermitLine, line_of
from gogoscope.permits.waiting import Wanted
from gogoscope.permits.wish import Wish
from gogoscope.persistence.bundle import provider_of
from gogoscope.persistence.lock_handle import LockHandle, release
from gogoscope.persistence.lock_records import LockRecord
from gogoscope.persistence.protocols.permits import PermitProvider

MOST_NAMED = 3
"""How many holders an error names."""


async def acquire(home: Home, wish: Wish) -> LockHandle:
    """Take a permit for a scope, and return its handle.

    :raises LockTimeoutError: if none was free in time
    :raises PersistenceError: if the store fails
    """
    line = line_of(permits_of(home), wish)
    releaser = ScopeReleaser(home, line, wish)
    wanted = Wanted(wish, {"scope": home.name, **wish.metadata}, home.spawn, releaser)
    began = time.monotonic()
    answer: LockHandle | list[LockRecord] = []
    try:
        if wish.patience == 0:
            answer = await line.take(wanted)
        else:
            async with slots_lent():
                answer = await line.take(wanted)
        if isinstance(answer, LockHandle):
            home.check_open()  # it may have ended meanwhile, if another scope's task waited here
            releaser.told = True
            if home.observed:
                waited = time.monotonic() - began
                token, number = answer.fencing_token, answer._number
                event = PermitAcquired(home.name, wish.what, wish.key, token, waited, id=number)
                home.emit(event)
    except BaseException:
        if isinstance(answer, LockHandle):  # cancelled while it waited to get its slot back, say
            await release(answer)
        raise
    if not isinstance(answer, LockHandle):
        raise timeout_error(wish, answer)
    return answer


class ScopeReleaser:
    """Releases a permit of a scope: in its line, and with an event of the scope.

    ``told`` says whether the scope has been told of the permit; one that is released before it
    could get there, since its task was cancelled, has no event.
    """

    __slots__ = ("_home", "_line", "_wish", "told")

    def __init__(self, home: Home, line: PermitLine, wish: Wish) -> None:
        self._home = home
        self._line = line
        self._wish = wish
        self.told = False

    def check_here(self) -> None:
        """Make sure that the event loop of the scope runs the caller.

        :raises RuntimeError: in another thread or event loop
        """
        self._home.check_here()

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        """Free the permit, or hand it over to the next in the line."""
        return await self._line.free(handle, in_time)

    def released(self, handle: LockHandle, freed: bool) -> None:
        """Let the next in the line have the permit, and tell the scope."""
        self._line.left_by(handle)
        if self.told and self._home.observed:
            what, number = self._wish.what, handle._number
            self._home.emit(PermitReleased(self._home.name, what, handle.key, freed, id=number))


def permits_of(home: Home) -> PermitProvider:
    """Return the permits of a scope's store.

    :raises CapabilityNotSupportedError: if it has none
    """
    provider: PermitProvider = provider_of("permits", home.store())
    return provider


def timeout_error(wish: Wish, leases: list[LockRecord]) -> LockTimeoutError:
    """Return the error for a permit that was not free in time, which tells who holds them."""
    within = f" within {wish.patience:g} s" if wish.patience else ""
    said = f"{wish} had no free permit" if wish.what == "semaphore" else f"{wish} was not free"
    named = [
        # Somebody else wrote the metadata.
        printable(", ".join(f"{name} {value}" for name, value in lease.metadata.items()))
        for lease in leases[:MOST_NAMED]
    ]
    if len(leases) > MOST_NAMED:
        named.append(f"and {len(leases) - MOST_NAMED} more")
    held = f": held by {len(leases)} ({'; '.join(named)})" if leases else ""
    return LockTimeoutError(f"{said}{within}{held}")
