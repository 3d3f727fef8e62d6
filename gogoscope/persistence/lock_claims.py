"""How any store's lock is taken: one claim, whose every end leaves the lock held or free.

A claim that was cancelled, or failed, may have gone through all the same. It is taken back then, by
its nonce: otherwise the lock would belong to nobody until its lease ends. Only a store that says
that it has done nothing (``effect`` of its error, or of the cancellation that comes out of it) is
not asked again.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from functools import partial

import anyio

from gogoscope._core.arguments import encodable
from gogoscope._core.background import Spawn, run_nothing
from gogoscope._core.cancellation import finish
from gogoscope._core.clock import monotonic
from gogoscope.exceptions import (
    ConfigurationError,
    Effect,
    GogoscopeError,
    StoreTimeoutError,
)
from gogoscope.persistence.asking import ask
from gogoscope.persistence.lock_handle import (
    CLEAN_UP_SECONDS,
    IN_STORE,
    LockHandle,
    Releaser,
    milliseconds,
)
from gogoscope.persistence.lock_records import LeaseStore, LockClaim, LockRecord, LockReply
from gogoscope.persistence.lock_watching import watched_of
from gogoscope.persistence.urgency import urgently
from gogoscope.persistence.validation import check_key, check_lease


async def acquire_once(
    store: LeaseStore, key: str, ttl: float | timedelta, owner: str | None = None
) -> LockHandle | None:
    """Try once to take a lock, as the method ``acquire`` of every store does.

    :param ttl: the lease in seconds
    :param owner: a name for ``extend``; the acquisition's nonce if left out
    :returns: its handle, or ``None`` if somebody holds it
    :raises TypeError: if an argument is of the wrong type
    :raises ValueError: if an argument is out of range
    """
    check_key(key)
    lease = check_lease(ttl)
    if owner is not None:
        check_key(owner, "owner")
    answer = await claim_once(store, key, partial(new_claim, lease, owner), lease)
    return answer if isinstance(answer, LockHandle) else None


async def claim_once(
    store: LeaseStore,
    key: str,
    new: Callable[[], LockClaim],
    lease: float,
    releaser: Releaser = IN_STORE,
) -> LockHandle | LockReply:
    """Try once to take a lock, from a dead holder too if earlier tries have watched it for long.

    :param new: returns a claim that was never sent
    :param lease: what the claim asks for, in seconds
    :param releaser: what the handle asks to free the lock
    :returns: its handle, or the refusal that shows who has it
    :raises PersistenceError: if the store fails
    """
    answer = await claim_handle(store, key, new(), lease, releaser=releaser)
    if isinstance(answer, LockHandle):
        return answer
    watched = watched_of(store, key)
    watched.look(answer.record)
    seen = watched.dead()
    if seen is not None:
        answer = await claim_handle(store, key, new(), lease, seen=seen, releaser=releaser)
        watched.look(None if isinstance(answer, LockHandle) else answer.record)
    return answer


async def claim_handle(
    store: LeaseStore,
    key: str,
    claim: LockClaim,
    lease: float,
    *,
    seen: LockRecord | None = None,
    releaser: Releaser = IN_STORE,
    patience: float = math.inf,
    spawn: Spawn = run_nothing,
) -> LockHandle | LockReply:
    """Try once to take a lock; return its handle, or the refusal that shows who has it.

    When cancelled, or when nobody knows what the store has done, the claim is taken back.

    :param claim: one that was never sent
    :param lease: what the claim asks for, in seconds
    :param seen: the lock as it was watched, to take it over from a dead holder
    :param releaser: what the handle asks to free the lock
    :param patience: seconds to wait for the store
    :param spawn: takes the claim back in the background if the store did not answer by then
    :raises PersistenceError: if the store fails; ``StoreTimeoutError`` if it did not answer
    """
    sent = monotonic()
    reply: LockReply | None = None
    try:
        with nullcontext() if patience == math.inf else anyio.move_on_after(patience):
            reply = await ask(store.claim_lock, key, claim, seen=seen)
    except BaseException as error:
        if _may_have_claimed(error):
            await take_back(store, key, claim.nonce)
        raise
    if reply is None:
        undo = partial(take_back, store, key, claim.nonce)
        if not spawn(undo):
            await undo()
        raise StoreTimeoutError(f"the store did not answer for lock {key!r} in {patience:.3g} s")
    if not reply.granted or reply.record is None:
        return reply
    handle = LockHandle(store, key, reply.record, sent, lease, releaser)
    if handle.lost is None:
        return handle
    await take_back(store, key, claim.nonce)
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
        lease_ms=milliseconds(lease),
        metadata={
            name: encodable(value)
            for name, value in {**_process_metadata(os.getpid()), **(metadata or {})}.items()
        },
        turn=turn,
    )


def _may_have_claimed(error: BaseException) -> bool:
    try:
        return error.effect is Effect.MAYBE_APPLIED  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - of another error, or of one that cannot be looked at
        return not isinstance(error, ConfigurationError)


async def take_back(
    store: LeaseStore, key: str, nonce: str, patience: float = CLEAN_UP_SECONDS
) -> bool:
    """Free what ``nonce`` may hold, shielded and bounded; its lease ends it if this fails.

    :param patience: the bound in seconds
    :returns: whether ``nonce`` is known to have held it
    """

    async def free() -> bool:
        try:
            return await urgently(ask(store.release_lock, key, nonce, in_time=True))
        except GogoscopeError:
            return False

    return bool(await finish(free, patience))


@functools.cache
def _process_metadata(pid: int) -> dict[str, str]:
    """Tell people who hold a lock: this machine's name and the process."""
    import socket  # noqa: PLC0415 - a tenth of what importing this package may take

    return {"host": socket.gethostname(), "pid": str(pid)}
