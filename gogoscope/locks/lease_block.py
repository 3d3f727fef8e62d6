"""A block that ends with its lease: of a lock, a term, a run, a permit.

From outside in: the lease is held, a task renews it, a scope runs. So the scope's last task has
ended before the renewals stop, and only then the lease is given up. When the lease is lost, the
renewing task cancels the scope, which then raises the loss.

Each step of the end hands back what it raises, whatever that is, and the next one is taken all the
same. The renewing task raises nothing: what ends it is kept, and raised at the end of the block.

A block has one lease at a time, so it is refused to whoever enters it while it is open. Classes
that derive from it override :meth:`LeaseBlock._enter` and :meth:`LeaseBlock._leave`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from gogoscope._core.background import Home
from gogoscope._core.cancellation import is_cancellation, unwrapped
from gogoscope._core.errors import first_of, is_a, lead_to, raise_again
from gogoscope._core.groups import Companion
from gogoscope._core.hints import open_already
from gogoscope._core.interrupts import uninterrupted_methods
from gogoscope.events import LeaseLost, description
from gogoscope.exceptions import GogoscopeError, LeaseLostError
from gogoscope.persistence.lease import Renewal
from gogoscope.persistence.lock_handle import LockHandle, release


class Held(Protocol):
    """What runs inside the block, and ends with the lease: a scope."""

    async def __aenter__(self) -> object:
        """Begin the block."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> bool | None:
        """End it, and what runs in it."""
        ...

    def _check_leaving(self) -> None:
        """Refuse to end the block in another task than it was begun in.

        :raises RuntimeError: saying what to do
        """
        ...

    def _lease_lost(self, loss: LeaseLostError) -> None:
        """Cancel it, and raise the loss from it."""
        ...

    @property
    def _tasks_cut(self) -> bool:
        """Whether tasks of it were cancelled when its body had ended."""
        ...


B = TypeVar("B", bound=Held)


@uninterrupted_methods
class LeaseBlock(Generic[B]):
    """Takes a lease, keeps it while its block runs, and gives it up.

    :param home: the scope that the block stands in
    :param open_block: returns what runs in the block of a lease that is held
    :param key: what the lease is for
    """

    # _is_open: whether somebody has entered it, or is about to.
    # Set on entering: _handle, _locked (what runs in the block), _renewal, _renewing (its task),
    # _interrupt (what ended the renewals and ends the program).
    # _cut: whether the block was cancelled before all was done in it. That of its own scope, or of
    # one that is stopping, leaves it as no exception.

    _cut = False

    def __init__(self, home: Home, open_block: Callable[[LockHandle], B], key: str) -> None:
        self._home = home
        self._open_block = open_block
        self.key = key
        self._is_open = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        uninterrupted_methods(cls)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} key={self.key!r}>"

    async def _take(self) -> LockHandle:
        """Wait for the lease, and return its handle."""
        raise NotImplementedError

    def _loss(self) -> LeaseLostError | None:
        """Return the loss of the lease, which the end of the block raises."""
        return None if self._handle.lost is None else self._handle._lease_lost()

    async def _give_up(self, leaving: BaseException | None) -> None:
        """Free what is leased; if the lease is lost, nothing waits for that.

        :param leaving: what leaves the block
        """
        if self._handle.lost is None:
            await release(self._handle)
        else:
            self._free_later()

    def _free_later(self) -> None:
        """Free what is leased, if that is possible; nothing waits for it."""
        if not self._home.spawn(partial(_release_if_possible, self._handle)):
            self._handle._abandon()

    async def __aenter__(self) -> B:
        self._home.check_open()
        if self._is_open:
            raise open_already(self)
        self._is_open = True
        try:
            return await self._enter()
        except BaseException:
            self._is_open = False
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:  # not bool: type checkers would then doubt every return inside a block
        self._locked._check_leaving()
        try:
            return await self._leave(exc_type, exc, traceback)
        finally:
            self._is_open = False

    async def _enter(self) -> B:
        """Take the lease, keep it from now on, and open what runs in the block."""
        answer = await self._take()
        self._handle = answer
        self._renewal = Renewal(answer)
        self._interrupt: BaseException | None = None
        name = f"gogoscope lease of {self.key}"
        self._renewing = Companion(self._renew, name, self._note_never_renewed)
        try:
            self._locked = self._open_block(answer)
            await self._renewing.begin()
        except BaseException:
            await release(answer)
            raise
        try:
            await self._locked.__aenter__()
        except BaseException as raised:  # noqa: BLE001 - raised again when the lease is given up
            leaving = await self._let_go(raised)
            assert leaving is not None
            raise_again(leaving)
        return self._locked

    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Leave what runs in the block, stop the renewals, and give the lease up."""
        leaving = exc
        try:
            if await self._locked.__aexit__(exc_type, exc, traceback):
                leaving, self._cut = None, exc is not None or self._locked._tasks_cut
        except BaseException as raised:  # noqa: BLE001 - raised again when the lease is given up
            leaving = raised
        lost = self._loss()
        leaving = first_of(await self._let_go(leaving), lost)
        if leaving is not None and leaving is not exc:
            raise_again(leaving)
        return leaving is None

    async def _let_go(self, leaving: BaseException | None) -> BaseException | None:
        """Stop the renewals, then give the lease up; return what leaves the block."""
        self._renewal.stop()
        stopped = await _raised_by(self._renewing.end)
        leaving = _first_out(leaving, stopped)
        leaving = _first_out(leaving, await _raised_by(partial(self._give_up, leaving)))
        return _first_out(leaving, self._interrupt)

    async def _renew(self) -> None:
        try:
            lost = await self._renewal.run()
            if lost is not None:
                self._locked._lease_lost(lost)
                number = self._handle._number
                self._home.emit(LeaseLost(self._home.name, self.key, lost.reason, id=number))
        except BaseException as raised:  # noqa: BLE001 - it ends the block, and is raised there
            if not is_cancellation(raised):
                self._interrupt = raised
            reason = f"its renewal ended with {description(raised)}"
            self._locked._lease_lost(LeaseLostError(self.key, reason))

    def _note_never_renewed(self) -> None:
        reason = "its renewal was cancelled before it began, by asyncio's own Task.cancel()"
        self._locked._lease_lost(LeaseLostError(self.key, reason))


async def _release_if_possible(handle: LockHandle) -> None:
    """Free what was leased and is over here; in the store it may be longer."""
    try:
        with suppress(GogoscopeError):
            await handle.release()
    finally:
        handle._abandon()


async def _raised_by(step: Callable[[], Awaitable[object]]) -> BaseException | None:
    """Take a step of the end; return what it raises."""
    try:
        await step()
    except BaseException as raised:  # noqa: BLE001 - it is returned
        return unwrapped(raised)
    return None


def _first_out(
    leaving: BaseException | None, further: BaseException | None
) -> BaseException | None:
    """Return what leaves the block if a step of its end raises something further.

    It is what came first, unless the other one ends the program.
    """
    if leaving is None or further is None:
        return further if leaving is None else leaving
    if is_a(further, Exception) or is_cancellation(further):
        return leaving
    lead_to(further, leaving)
    return further
