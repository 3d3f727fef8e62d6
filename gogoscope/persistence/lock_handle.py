"""The handle of a held lock, and how any store's lock is taken."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import Self

import anyio

from gogoscope._core.clock import monotonic
from gogoscope.exceptions import GogoscopeError, LeaseLostError, StoreTimeoutError
from gogoscope.persistence.lock_records import (
    LeaseStore,
    LockClaim,
    LockHolder,
    LockRecord,
    LockReply,
)
from gogoscope.persistence.validation import TOLD_BY_EVERY_LOCK, check_key, check_lease

CLEAN_UP_SECONDS = 5.0

Spawn = Callable[[Callable[[], Awaitable[object]]], bool]
"""Runs something in the background, or tells by ``False`` that nothing is run any more."""


class LockHandle:
    """A lock that is held, until it is released or its lease ends.

    As an async context manager it releases the lock at the end of the block. ``fencing_token``
    is higher than that of every earlier holder: pass it with each outside write, so that what is
    written to can refuse an older one.
    """

    __slots__ = (
        "_deadline",
        "_guard",
        "_lease",
        "_lost",
        "_provider",
        "_record",
        "_sent",
        "key",
        "made_shorter",
        "on_leave",
        "on_release",
        "pass_on",
    )

    def __init__(
        self, provider: LeaseStore, key: str, record: LockRecord, sent: float, lease: float
    ) -> None:
        self.key = key
        self._provider = provider
        self._record = record
        self._sent = sent
        self._lease = lease
        self._deadline = sent + lease
        self._lost: str | None = None
        self._guard = anyio.Lock(fast_acquire=True)
        self.on_leave: Callable[[LockHandle], object] | None = None
        self.on_release: Callable[[LockHandle, bool], object] | None = None
        self.made_shorter: anyio.Event | None = None
        self.pass_on: Callable[[LockHandle, bool], Awaitable[bool]] = LockHandle.free

    def __repr__(self) -> str:
        return (
            f"<LockHandle key={self.key!r} owner={self.owner!r} fencing_token={self.fencing_token}>"
        )

    @property
    def record(self) -> LockRecord:
        """The lock as this handle last saw it in the store."""
        return self._record

    @property
    def nonce(self) -> str:
        """The name of this acquisition, which every condition in the store compares."""
        return self._record.nonce or ""

    @property
    def owner(self) -> str:
        """The name that ``extend(key, ttl, owner)`` takes."""
        return self._record.owner or ""

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier holder of this lock."""
        return self._record.fencing_token

    @property
    def expires_at(self) -> float:
        """When the lease ends, in seconds since the Unix epoch, by this machine's clock."""
        return self._record.lease_until_ms / 1000

    @property
    def deadline(self) -> float:
        """When the lease ends, on the event loop's clock (``anyio.current_time()``)."""
        return self._deadline

    @property
    def lease(self) -> float:
        """How long a renewal lasts, in seconds."""
        return self._lease

    @property
    def lost(self) -> str | None:
        """Why the lock is not held any more, or ``None`` as far as this process knows."""
        if self._lost is None and monotonic() >= self._deadline:
            self._lost = f"it was not renewed within its lease of {self._lease:g} s"
        return self._lost

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if the lock is not held any more
        """
        if (reason := self.lost) is not None:
            raise LeaseLostError(self.key, reason)

    async def is_valid(self) -> bool:
        """Ask the store whether this handle still holds the lock."""
        if self.lost is not None:
            return False
        record = await self._provider.read_lock(self.key)
        if record is None or record.nonce != self._record.nonce:
            self._lost = _loss(record)
        return self.lost is None

    async def extend(self, ttl: float | timedelta | None = None) -> bool:
        """Let the lease end ``ttl`` seconds from now; ``False`` if the lock is lost.

        If that is earlier than before and it fails or is cancelled, the lock is not counted on any
        longer than that.

        :param ttl: the new lease in seconds, at most 12 hours; the present one if left out
        """
        wanted = None if ttl is None else check_lease(ttl)
        async with self._guard:
            lease = self._lease if wanted is None else wanted
            while self.lost is None:
                sent = monotonic()
                # Whether or not an answer comes, the store may end the lease then.
                self._end_by(sent + lease)
                lease_ms = _milliseconds(lease)
                held_ms = _milliseconds(sent - self._sent)
                reply = await self._provider.renew_lock(
                    self.key,
                    self.nonce,
                    self._record.version,
                    lease_ms,
                    self._record.acquired_at_ms + held_ms + lease_ms,
                )
                record = reply.record
                if record is None or record.nonce != self._record.nonce:
                    self._lost = _loss(record)
                    break
                self._record = record
                if reply.granted:
                    self._lease = lease
                    self._deadline = sent + lease
                    return True
        return False

    def _end_by(self, deadline: float) -> None:
        if deadline < self._deadline:
            self._deadline = deadline
            if self.made_shorter is not None:
                self.made_shorter.set()

    async def release(self) -> bool:
        """Free the lock; never raises for a lock that is lost, and never frees another's.

        :returns: ``True`` if this call freed the lock, ``False`` if it was lost (or released)
            before
        """
        async with self._guard:
            if self._lost == _RELEASED:
                return False
            in_time = self.lost is None
            try:
                freed = await self.pass_on(self, in_time)
            finally:
                if self.on_leave is not None:
                    self.on_leave(self)
            self._lost = _RELEASED
            if self.on_release is not None:
                self.on_release(self, freed)
            return freed

    def abandon(self) -> None:
        """Leave a lock that is lost to whoever has it, without a request to the store."""
        self._lost = _RELEASED
        if self.on_leave is not None:
            self.on_leave(self)
        if self.on_release is not None:
            self.on_release(self, False)

    async def free(self, in_time: bool) -> bool:
        """Free the lock in the store, for whoever comes first; ``release`` is for callers."""
        return await self._provider.release_lock(self.key, self.nonce, in_time=in_time)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            await self.release()


async def claim_handle(
    provider: LeaseStore,
    key: str,
    ttl: float | timedelta,
    owner: str | None = None,
    metadata: Mapping[str, str] | None = None,
    seen: LockRecord | None = None,
    turn: str | None = None,
    patience: float = math.inf,
    spawn: Spawn = lambda work: False,
) -> LockHandle | LockReply:
    """Try once to take a lock; give its handle, or the refusal that shows who has it.

    When cancelled, or when the store did not answer, a claim that may have gone through is taken
    back, so that nobody waits out its lease.

    :param patience: seconds to wait for the store
    :param spawn: runs in the background what is left to do when the store did not answer by then
    :raises StoreTimeoutError: if it did not
    """
    check_key(key)
    lease = check_lease(ttl)
    if owner is not None:
        check_key(owner, "owner")
    claim = new_claim(lease, owner, metadata, turn)
    nonce = claim.nonce
    sent = monotonic()
    reply: LockReply | None = None
    try:
        with anyio.move_on_after(patience):
            reply = await provider.claim_lock(key, claim, seen=seen)
    except BaseException as error:
        if not isinstance(error, Exception) or isinstance(error, StoreTimeoutError):
            await take_back(provider, key, nonce)
        raise
    if reply is None:
        undo = functools.partial(take_back, provider, key, nonce)
        if not spawn(undo):
            await undo()
        raise StoreTimeoutError(f"the store did not answer for lock {key!r} in {patience:.3g} s")
    if not reply.granted or reply.record is None:
        return reply
    handle = LockHandle(provider, key, reply.record, sent, lease)
    if handle.lost is None:
        return handle
    await take_back(provider, key, nonce)
    return LockReply(granted=False, record=None)  # Whoever has it now, it is not this process.


def new_claim(
    lease: float,
    owner: str | None = None,
    metadata: Mapping[str, str] | None = None,
    turn: str | None = None,
) -> LockClaim:
    """Return a claim of this process that was never sent.

    :param lease: in seconds
    """
    nonce = os.urandom(8).hex()
    return LockClaim(
        nonce=nonce,
        owner=owner or nonce,
        lease_ms=_milliseconds(lease),
        metadata={**process_metadata(os.getpid()), **(metadata or {})},
        turn=turn,
    )


async def take_back(
    provider: LeaseStore, key: str, nonce: str, patience: float = CLEAN_UP_SECONDS
) -> bool:
    """Free what ``nonce`` may hold, shielded and bounded; its lease ends it if this fails.

    :param patience: the bound in seconds
    """
    with anyio.move_on_after(patience, shield=True):
        try:
            return await provider.release_lock(key, nonce, in_time=True)
        except GogoscopeError:
            return False
    return False


def describe_holder(record: LockRecord | None, now_ms: int) -> LockHolder | None:
    """Return what people want to know about a lock's holder, or ``None`` if it is free."""
    if record is None or record.owner is None:
        return None
    pid = record.metadata.get("pid", "")
    return LockHolder(
        owner=record.owner,
        host=record.metadata.get("host"),
        pid=int(pid) if pid.isdecimal() else None,
        scope=record.metadata.get("scope"),
        since=record.acquired_at_ms / 1000,
        lease_left=(record.lease_until_ms - now_ms) / 1000,
        fencing_token=record.fencing_token,
        metadata={
            name: value for name, value in record.metadata.items() if name not in TOLD_BY_EVERY_LOCK
        },
    )


@functools.cache
def process_metadata(pid: int) -> Mapping[str, str]:
    """Tell people who hold a lock: this machine's name and the process."""
    import socket  # noqa: PLC0415 - a tenth of what importing this package may take

    return {"host": socket.gethostname(), "pid": str(pid)}


_RELEASED = "it was released"


def _milliseconds(duration: float) -> int:
    return math.ceil(duration * 1000)


def _loss(record: LockRecord | None) -> str:
    if record is None or record.nonce is None:
        return "it was forcibly released"
    return f"it was taken over by {record.owner!r}"
