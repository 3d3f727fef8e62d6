"""The handle of a lock: what a user sees of it, and whom it asks to free the lock."""

from __future__ import annotations

import anyio
import pytest

from gogoscope import LockHandle, StoreConnectionError, scope
from gogoscope.events import Event, LockAcquired, LockReleased
from gogoscope.persistence.lock_claims import claim_handle, new_claim
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio


def names(thing: object) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("_")]


async def test_a_handle_shows_what_a_user_uses() -> None:
    handle = await MemoryStore().acquire("job", 5)
    assert names(handle) == [
        "deadline",
        "ensure",
        "expires_at",
        "extend",
        "fencing_token",
        "is_valid",
        "key",
        "lost",
        "owner",
        "release",
    ]


async def test_the_blocks_of_a_lock_and_of_a_term_show_what_a_user_uses() -> None:
    async with scope() as s:
        assert names(s.lock("job")) == ["key"]
        assert names(s.leader("job")) == ["key", "lost"]


class Recorder:
    """A releaser that notes what it is asked, and fails if ``failure`` says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.failure: Exception | None = None

    def check_here(self) -> None:
        return

    async def free(self, handle: LockHandle, in_time: bool) -> bool:
        self.asked.append(("free", in_time))
        if self.failure is not None:
            raise self.failure
        return True

    def released(self, handle: LockHandle, freed: bool) -> None:
        self.asked.append(("released", freed))


async def held(store: MemoryStore, releaser: Recorder) -> LockHandle:
    handle = await claim_handle(store, "job", new_claim(5), 5, releaser=releaser)
    assert isinstance(handle, LockHandle)
    return handle


async def test_a_handle_asks_its_releaser_once_to_free_the_lock_and_tells_it_when_done() -> None:
    releaser = Recorder()
    handle = await held(MemoryStore(), releaser)
    assert await handle.release() is True
    assert await handle.release() is False
    assert releaser.asked == [("free", True), ("released", True)]


async def test_a_handle_that_lost_its_lock_says_so_to_its_releaser() -> None:
    store, releaser = MemoryStore(), Recorder()
    handle = await held(store, releaser)
    await store.force_release("job")
    assert not await handle.is_valid()
    await handle.release()
    assert releaser.asked[0] == ("free", False)


async def test_a_handle_whose_release_failed_is_not_released_and_may_be_again() -> None:
    releaser = Recorder()
    handle = await held(MemoryStore(), releaser)
    releaser.failure = StoreConnectionError("cut off")
    with pytest.raises(StoreConnectionError):
        await handle.release()
    assert releaser.asked == [("free", True)]
    handle.ensure()
    releaser.failure = None
    assert await handle.release() is True


async def test_a_lock_that_reaches_no_caller_is_freed_without_events() -> None:
    events: list[Event] = []
    store = MemoryStore()
    async with (
        scope(persistence=store) as other,
        scope(persistence=store, concurrency=1, on_event=events.append) as s,
    ):
        handle = await other.acquire_lock("job", 5)
        assert handle is not None
        waiting = s.task(s.acquire_lock, "job", 5, None)
        await anyio.wait_all_tasks_blocked()
        blocking = s.task(anyio.sleep_forever)  # in the slot that the one that waits has lent
        await anyio.wait_all_tasks_blocked()
        await handle.release()
        await anyio.wait_all_tasks_blocked()
        assert await store.holder("job") is not None
        waiting.cancel()
        await waiting
        assert await store.holder("job") is None
        blocking.cancel()
    assert not [event for event in events if isinstance(event, LockAcquired | LockReleased)]


async def test_a_handle_shows_whether_it_holds_the_lock() -> None:
    store = MemoryStore()
    handle = await store.acquire("k", 0.05, "me")
    assert handle is not None
    shown = f"<LockHandle key='k' owner='me' fencing_token={handle.fencing_token}"
    assert repr(handle) == f"{shown}>"
    await anyio.sleep(0.06)
    assert repr(handle) == f"{shown}, not held: it was not renewed within its lease of 0.05 s>"
    await handle.release()
    assert repr(handle) == f"{shown}, not held: it was released>"


async def test_a_block_of_a_lock_shows_what_it_is() -> None:
    async with scope() as s:
        assert repr(s.lock("job")) == "<LockBlock key='job'>"
        assert repr(s.leader("job")) == "<Campaign key='job'>"
