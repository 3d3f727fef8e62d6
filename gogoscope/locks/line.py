"""The callers of one event loop that want one lease: they stand in line, and the first one asks.

A hundred that wait make no more requests than one. While an exclusive lease is held here, nobody
asks at all: its end wakes the first in the line. This is the plain way to wait; locks have a queue
of their own (:mod:`gogoscope.locks.queue`), which hands over in one write.

A lease that was seen unchanged for its whole length is dead, whatever any clock says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import anyio
from attrs import frozen

from gogoscope._core.background import Home
from gogoscope._core.clock import monotonic
from gogoscope._core.context import slots_lent
from gogoscope._core.jitter import jittered, uniform
from gogoscope._core.per_store import PerStore
from gogoscope.exceptions import StoreTimeoutError
from gogoscope.persistence.lock_claims import claim_handle, new_claim
from gogoscope.persistence.lock_handle import LockHandle, release
from gogoscope.persistence.lock_records import LeaseStore, LockReply
from gogoscope.persistence.lock_watching import Watched, Watches
from gogoscope.persistence.watching import Changed, Stop, never_told, watch

FIRST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 1.0
REQUEST_SECONDS = 1.0
"""How long an answer is waited for, however short the wait for the lease may be."""

Found = TypeVar("Found")


@frozen(eq=False)
class Want(Generic[Found]):
    """What a caller wants.

    :param leases: takes the lease
    :param lease: its length in seconds
    :param patience: seconds to wait for it; 0 asks once, ``math.inf`` waits for ever
    :param look: returns what the caller gets instead of the lease, or ``None`` if it is to wait;
        called before each request, and after each refusal
    """

    leases: LeaseStore
    lease: float
    patience: float
    look: Callable[[], Found | None]


class Line:
    """The line for one lease; it is the releaser of the handles that are taken in it.

    :param watched: what was seen of the lease
    :param key: what the lease is for
    :param forget: lets a caller who comes later have a new line
    """

    # kind: what the lease is of, for people.
    # _turn: who has it asks the store.
    # _changed: is set, and replaced, when what was held here has ended, or something else is worth
    #   a look. So it belongs to nobody who looks, and whoever took it before a look misses nothing.
    # _held: the handles that are held here.
    # _users: how many wait, or hold.
    # _told: whether the store has told of something since the last look.
    # watch: has the store tell; returns what ends that.
    # _stop_watching: that, while somebody waits.

    kind = "lease"

    def __init__(self, watched: Watched, key: str, forget: Callable[[], object]) -> None:
        self._watched = watched
        self._key = key
        self._forget: Callable[[], object] | None = forget
        self._turn = anyio.Lock()
        self._changed = anyio.Event()
        self._held: set[LockHandle] = set()
        self._users = 0
        self._told = False
        self._stop_watching: Stop | None = None
        self.watch: Callable[[Changed], Stop] = lambda changed: never_told

    async def take(self, home: Home, want: Want[Found]) -> LockHandle | Found | None:
        """Take the lease; return its handle, or what the caller gets instead.

        :returns: ``None`` if the lease was not free in time
        :raises PersistenceError: if the store fails
        """
        self._users += 1
        answer: LockHandle | Found | None = None
        give_up_at = monotonic() + want.patience
        try:
            if want.patience == 0:
                answer = await self._ask_at_once(home, want)
            else:
                async with slots_lent():
                    answer = await self._wait(home, want, give_up_at)
        except BaseException:
            if isinstance(answer, LockHandle):  # cancelled while it waited to get its slot back
                await release(answer)
            raise
        finally:
            self._leave()
        return answer

    def check_here(self) -> None:
        """Do nothing: the scope of the block asks."""

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        """Free the lease of a handle."""
        return await handle._free(in_time)

    def released(self, handle: LockHandle, freed: bool) -> None:
        """Wake the first in the line."""
        self._held.discard(handle)
        self._wake()
        self._leave()

    def _held_here(self) -> LockHandle | None:
        """Return a handle that is held here, so that it makes no sense to ask; else ``None``."""
        return next((handle for handle in self._held if handle.lost is None), None)

    async def _wait(
        self, home: Home, want: Want[Found], give_up_at: float
    ) -> LockHandle | Found | None:
        with anyio.move_on_after(want.patience) as limit:
            await self._turn.acquire()
        if limit.cancelled_caught:
            return None
        try:
            return await self._ask_in_turn(home, want, give_up_at)
        finally:
            if self._stop_watching is not None:
                self._stop_watching()
                self._stop_watching = None
            self._turn.release()

    def _tell(self) -> None:
        self._told = True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def _ask_at_once(self, home: Home, want: Want[Found]) -> LockHandle | Found | None:
        """Ask for a caller who does not wait; those who do wait notice nothing of it.

        The lease is taken over if it was refused here for so long that its holder is dead.
        """
        for watched in (False, True):
            if (found := want.look()) is not None:
                return found
            if watched and self._watched.dead() is None:
                return None
            answer = await self._ask(home, want, math.inf, watched=watched)
            if isinstance(answer, LockHandle):
                return answer
        return want.look()

    async def _ask_in_turn(
        self, home: Home, want: Want[Found], give_up_at: float
    ) -> LockHandle | Found | None:
        pause, dead_at, refused, spread = FIRST_POLL_SECONDS, math.inf, False, 0.0
        while True:
            changed = self._changed
            if self._told:
                self._told, spread = False, FIRST_POLL_SECONDS
            if (found := want.look()) is not None:
                return found
            holder = self._held_here()
            if holder is None:
                answer = await self._ask_in_time(home, want, give_up_at, refused=refused)
                if answer is None or isinstance(answer, LockHandle):
                    return answer
                refused = True
                dead_at = monotonic() + (answer.dead_in_ms / 1000 or math.inf)
                if (found := want.look()) is not None:
                    return found
            left = give_up_at - monotonic()
            if left <= 0:
                return None
            if self._stop_watching is None:
                self._stop_watching = self.watch(self._tell)
            await self._sleep(changed, min(left, self._pause(pause, dead_at, holder)), spread)
            pause = min(2 * pause, LONGEST_POLL_SECONDS)

    async def _ask_in_time(
        self, home: Home, want: Want[Found], give_up_at: float, *, refused: bool
    ) -> LockHandle | LockReply | None:
        """Ask for the first in the line; ``None`` if there is no answer until its wait is over.

        :param refused: whether an earlier answer told that somebody has the lease
        :raises StoreTimeoutError: if no answer told that
        """
        answer_by = max(give_up_at, monotonic() + REQUEST_SECONDS)
        try:
            return await self._ask(home, want, answer_by, watched=refused)
        except StoreTimeoutError:
            if not refused or monotonic() < answer_by:
                raise
            return None

    async def _ask(
        self, home: Home, want: Want[Found], answer_by: float, *, watched: bool
    ) -> LockHandle | LockReply:
        answer = await claim_handle(
            want.leases,
            self._key,
            new_claim(want.lease, metadata={"scope": home.name}),
            want.lease,
            seen=self._watched.dead() if watched else None,
            releaser=self,
            patience=answer_by - monotonic(),
            spawn=home.spawn,
        )
        if isinstance(answer, LockHandle):
            self._held.add(answer)
            self._users += 1
        else:
            self._watched.look(answer.record)
        return answer

    def _pause(self, pause: float, dead_at: float, holder: LockHandle | None) -> float:
        now = monotonic()
        if holder is not None:
            return holder._deadline - now
        dead_in = max(0.0, min(dead_at, self._watched.dead_at()) - now)
        return min(jittered(pause), dead_in + jittered(FIRST_POLL_SECONDS))

    async def _sleep(self, changed: anyio.Event, seconds: float, spread: float) -> None:
        """Sleep until something has changed; if the store told so before, ask not all at once."""
        with anyio.move_on_after(seconds):
            await changed.wait()
            if self._told:
                await anyio.sleep(uniform(0, spread))

    def _leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._close()

    def _close(self) -> None:
        """Let a caller who comes later have a new line."""
        if self._forget is not None:
            self._forget()
            self._forget = None


L = TypeVar("L", bound=Line)


class Lines(Generic[L]):
    """The lines of one kind of lease, found by store and key while anybody stands in them.

    :param name: what the lease is of, as the kind of its record is called; names the variables of
        the event loop, too
    :param make: returns a line, of the arguments of :class:`Line`
    """

    def __init__(self, name: str, make: Callable[[Watched, str, Callable[[], object]], L]) -> None:
        self._name = name
        self._make = make
        self._lines: PerStore[dict[str, L]] = PerStore(f"{name}_lines", dict)
        self._watches = PerStore(f"{name}_watches", Watches)

    def of(self, store: object, key: str) -> L:
        """Return the line for a lease in the current event loop."""
        lines = self._lines.of(store)
        if key not in lines:
            watched = self._watches.of(store).of(key)
            lines[key] = self._make(watched, key, lambda: lines.pop(key, None))
            lines[key].kind = self._name
            lines[key].watch = partial(watch, store, self._name, key)
        return lines[key]
