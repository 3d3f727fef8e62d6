"""What a store raises of its own never tears a block open, and hides nothing that the block raises.

A store may raise anything at any await. An ``Exception`` comes out as one of our errors, or is
logged where the lock ends by its lease. What ends the program, such as a ``KeyboardInterrupt``,
comes out when everything else has ended.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from gogoscope import (
    ConfigurationError,
    GogoscopeError,
    LeaseLostError,
    LockError,
    PersistenceError,
    RecordTooLargeError,
    Scope,
    StoreConnectionError,
    StoreTimeoutError,
    ThrottledError,
    UnexpectedStoreError,
    scope,
)
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock

pytestmark = pytest.mark.anyio


class ProgramEnds(BaseException):
    """Ends the program, as a ``KeyboardInterrupt`` does."""


Make = Callable[[], BaseException]

OWN_ERRORS: list[Make] = [
    lambda: RuntimeError("a bug of the store"),
    lambda: KeyError("AccessKeyId"),
    lambda: TypeError("another bug"),
    lambda: json.JSONDecodeError("no JSON", "", 0),
    lambda: ExceptionGroup("of a task group", [OSError("one"), KeyError("two")]),
]
INTERRUPTS: list[Make] = [
    ProgramEnds,
    lambda: BaseExceptionGroup("of a task group", [ProgramEnds(), OSError()]),
]
REQUESTS = ["claim_lock", "renew_lock", "release_lock", "hand_over_lock", "reserve_lock"]

own = pytest.mark.parametrize("make", OWN_ERRORS, ids=lambda make: repr(make()))
interrupts = pytest.mark.parametrize("make", INTERRUPTS, ids=lambda make: repr(make()))
at_any_request = pytest.mark.parametrize("name", REQUESTS)


@define
class Faults:
    """``make`` returns what is raised in the requests named in ``at``, before or after them."""

    at: set[str] = field(factory=set)
    make: Make = RuntimeError
    after: bool = False
    raised: int = 0

    def befall(self, name: str, *, after: bool) -> None:
        if name in self.at and self.after is after:
            self.raised += 1
            raise self.make()


class RaisingStore(MemoryStore):
    """Raises what it is told to; ``with_prefix("")`` returns the store of another process."""

    def __init__(self) -> None:
        super().__init__()
        self.faults = Faults()

    async def _request(self, name: str, *args: Any, **options: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        self.faults.befall(name, after=False)
        answer = await getattr(super(), name)(*args, **options)
        self.faults.befall(name, after=True)
        return answer

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("claim_lock", *args, **options)

    async def renew_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("renew_lock", *args, **options)

    async def release_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("release_lock", *args, **options)

    async def hand_over_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("hand_over_lock", *args, **options)

    async def reserve_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("reserve_lock", *args, **options)

    async def read_lock(self, *args: Any, **options: Any) -> Any:
        return await self._request("read_lock", *args, **options)


@pytest.fixture
def store() -> RaisingStore:
    return RaisingStore()


def only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@own
async def test_what_a_store_raises_when_a_lock_is_released_hides_no_error_of_the_block(
    store: RaisingStore, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store.faults.make = make
    with pytest.raises(KeyError, match="of the body"):
        async with scope(persistence=store) as s, s.lock("key"):
            store.faults.at = {"release_lock"}
            raise KeyError("of the body")
    assert "could not be released" in caplog.text


@own
async def test_what_a_store_raises_when_a_lock_is_claimed_is_an_error_of_ours(
    store: RaisingStore, make: Make
) -> None:
    store.faults.make, store.faults.at = make, {"claim_lock"}
    async with scope(persistence=store) as s:
        with pytest.raises(UnexpectedStoreError, match="the store failed with") as caught:
            async with s.lock("key"):
                pytest.fail("it has no lock")
        assert type(caught.value.__cause__) is type(make())
        with pytest.raises(UnexpectedStoreError):
            await s.acquire_lock("key", 5)
        store.faults.at = set()
        async with s.lock("key", wait=0):
            pass


async def test_a_claim_that_landed_and_then_raised_is_taken_back(store: RaisingStore) -> None:
    store.faults.at, store.faults.after = {"claim_lock"}, True
    async with scope(persistence=store) as s:
        with pytest.raises(UnexpectedStoreError):
            await s.acquire_lock("key", 3600)
    store.faults.at = set()
    assert await store.holder("key") is None


@pytest.mark.parametrize(
    "error",
    [
        PersistenceError("the disk is full"),
        StoreConnectionError("the connection broke"),
        StoreTimeoutError("no answer"),
        LockError("another error of ours"),
        KeyError("a bug"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("wait", [0, 1])
async def test_an_acquire_that_raises_leaves_no_lock_held_whatever_it_raises(
    store: RaisingStore, error: Exception, wait: float
) -> None:
    store.faults.at, store.faults.after, store.faults.make = {"claim_lock"}, True, lambda: error
    async with scope(persistence=store) as s:
        with pytest.raises(GogoscopeError):
            await s.acquire_lock("key", 3600, wait=wait)
        with pytest.raises(GogoscopeError):
            async with s.lock("key", 3600, wait=wait):
                pytest.fail("it has no lock")
        with pytest.raises(GogoscopeError):
            await store.acquire("key", 3600)
        assert await store.holder("key") is None


@pytest.mark.parametrize(
    "error", [ThrottledError("busy"), RecordTooLargeError("400 KB"), ConfigurationError("no table")]
)
async def test_a_store_that_knows_that_nothing_was_done_is_not_asked_again(
    store: RaisingStore, error: Exception
) -> None:
    store.faults.at, store.faults.make = {"claim_lock", "release_lock"}, lambda: error
    with pytest.raises(type(error)):
        await store.acquire("key", 3600)
    assert store.faults.raised == 1


@own
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_a_store_raises_when_a_lock_is_renewed_is_an_outage(
    virtual_clock: VirtualClock, backend: Literal["asyncio", "trio"], make: Make
) -> None:
    async def program() -> None:
        store = RaisingStore()
        store.faults.make = make
        async with scope(persistence=store) as s, s.lock("key", ttl=30) as locked:
            store.faults.at = {"renew_lock"}
            while not store.faults.raised:
                await anyio.sleep(1)
            store.faults.at = set()
            await anyio.sleep(40)
            locked.ensure()

    virtual_clock.run(program, backend=backend)


async def test_a_lease_that_a_store_never_renews_ends_the_block_and_says_why(
    store: RaisingStore,
) -> None:
    store.faults.at = {"renew_lock"}
    with pytest.raises(LeaseLostError, match="the store failed with RuntimeError") as caught:
        async with scope(persistence=store) as s, s.lock("key", ttl=0.15):
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, UnexpectedStoreError)


@own
async def test_a_handle_raises_an_error_of_ours_for_what_its_store_raises(
    store: RaisingStore, make: Make
) -> None:
    handle = await store.acquire("key", 30)
    assert handle is not None
    store.faults.make, store.faults.at = make, {"renew_lock", "release_lock", "read_lock"}
    for request in (handle.extend, handle.is_valid, handle.release):
        with pytest.raises(UnexpectedStoreError) as caught:
            await request()
        assert type(caught.value.__cause__) is type(make())
    store.faults.at = set()
    assert await handle.release() is True


@pytest.mark.slow_elsewhere
async def test_what_a_store_raises_in_the_background_ends_no_scope(store: RaisingStore) -> None:
    class Slow(RaisingStore):
        async def claim_lock(self, *args: Any, **options: Any) -> Any:
            await anyio.sleep_forever()

    store, ended = Slow(), []
    store.faults.at = {"release_lock"}

    async def work() -> None:
        await anyio.sleep(1.2)
        ended.append(True)

    async with scope(persistence=store) as s:
        s.task(work)
        with pytest.raises(StoreTimeoutError):
            await s.acquire_lock("key", 5, wait=0.01)
    assert ended


WITHIN_THE_BLOCK = {"renew_lock", "reserve_lock"}
"""The requests that are made while somebody holds the lock and another one waits for it."""


async def contend(store: RaisingStore, name: str) -> None:
    """Take turns in two scopes while the store raises; the body of one raises an error."""
    store.faults.at = {name} - {"claim_lock"}
    begun = anyio.Event()

    async def turn(s: Scope) -> None:
        async with s.lock("key", ttl=0.6, wait=1):
            begun.set()
            store.faults.at = {name}
            await anyio.sleep(0.35)

    async with scope(persistence=store, on_error=lambda error: None) as s:
        tasks = [s.task(turn, s) for _ in range(3)]
        await begun.wait()
        async with scope(persistence=store.with_prefix("")) as other:
            # It waits for a turn, and reserves the next one.
            assert isinstance((await other.task(turn, other)).error, GogoscopeError | None)
        for task in tasks:
            assert isinstance((await task).error, GogoscopeError | None)
        raise KeyError("of the body")


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("make", [OWN_ERRORS[0], OWN_ERRORS[-1]], ids=["alone", "in a group"])
@at_any_request
async def test_what_a_store_raises_at_any_request_ends_in_one_of_our_errors(
    store: RaisingStore, make: Make, name: str
) -> None:
    store.faults.make = make
    with anyio.fail_after(20), pytest.raises(KeyError, match="of the body"):
        await contend(store, name)


@pytest.mark.slow_elsewhere
@interrupts
@at_any_request
async def test_what_ends_the_program_comes_out_when_everything_else_has_ended(
    store: RaisingStore, make: Make, name: str
) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            ended.append("task")

    async def wait_for_it(s: Scope) -> None:
        async with s.lock("key"):
            pass

    store.faults.make = make
    with anyio.fail_after(20), pytest.raises(BaseException) as caught:
        try:
            async with (
                scope(persistence=store.with_prefix("")) as other,
                scope(persistence=store) as s,
            ):
                s.task(work)
                if name == "claim_lock":
                    store.faults.at = {name}
                async with s.lock("key", ttl=3 if name == "renew_lock" else 30) as locked:
                    locked.task(work)
                    waiting = other if name == "reserve_lock" else s
                    waiting.task(wait_for_it, waiting)
                    await anyio.sleep(0.01)
                    store.faults.at = {name}
                    while name in WITHIN_THE_BLOCK and not store.faults.raised:
                        await anyio.sleep(0.01)
                    raise KeyError("of the body")
        finally:
            store.faults.at = set()
    assert store.faults.raised
    assert isinstance(only(caught.value), ProgramEnds)
    assert ended


class TestTheBlockOfAHandle:
    """``async with handle:`` lets out what its body raises."""

    async def handle(self, store: RaisingStore, ttl: float = 30) -> LockHandle:
        handle = await store.acquire("key", ttl)
        assert handle is not None
        return handle

    async def test_a_failing_release_replaces_no_error(
        self, store: RaisingStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(KeyError, match="of the body"):
            async with await self.handle(store):
                store.faults.at = {"release_lock"}
                raise KeyError("of the body")
        assert "could not be released" in caplog.text

    async def test_a_failing_release_replaces_no_timeout(self, store: RaisingStore) -> None:
        with pytest.raises(TimeoutError), anyio.fail_after(0.01):
            async with await self.handle(store):
                store.faults.at = {"release_lock"}
                await anyio.sleep_forever()

    async def test_a_failing_release_replaces_no_cancellation(self, store: RaisingStore) -> None:
        with anyio.move_on_after(0.01) as limit:
            async with await self.handle(store):
                store.faults.at = {"release_lock"}
                await anyio.sleep_forever()
        assert limit.cancelled_caught

    async def test_a_lock_that_is_lost_makes_no_request(self, store: RaisingStore) -> None:
        async with await self.handle(store, 0.5):
            store.faults.at = {"release_lock"}
            await anyio.sleep(0.6)
        assert store.faults.raised == 0


async def test_a_block_whose_lease_is_lost_does_not_wait_for_the_release() -> None:
    class Silent(MemoryStore):
        async def renew_lock(self, *args: Any, **options: Any) -> Any:
            await anyio.sleep_forever()

        async def release_lock(self, *args: Any, **options: Any) -> bool:
            await anyio.sleep_forever()
            return True

    async with scope(persistence=Silent()) as s:
        # That is less than what a release may take.
        with pytest.raises(LeaseLostError), anyio.fail_after(4):
            async with s.lock("key", ttl=0.1):
                await anyio.sleep_forever()
        s.cancel()


async def test_a_lock_that_is_lost_by_its_time_is_released_in_the_background(
    store: RaisingStore,
) -> None:
    store.faults.at = {"renew_lock"}
    async with scope(persistence=store) as s:
        with pytest.raises(LeaseLostError):
            async with s.lock("key", ttl=0.1):
                await anyio.sleep_forever()
    record = await store.read_lock("key")
    assert record is not None
    assert record.nonce is None


async def test_a_lock_that_cannot_open_its_block_is_released(store: RaisingStore) -> None:
    async with scope(persistence=store) as s:
        block = s.lock("key")
        block._open_block = lambda handle: pytest.fail("no block")
        with pytest.raises(pytest.fail.Exception):
            async with block:
                pass
        assert await store.holder("key") is None


@interrupts
async def test_what_ends_the_program_comes_out_when_the_scope_has_released_its_other_locks(
    store: RaisingStore, make: Make
) -> None:
    with pytest.raises(BaseException) as caught:
        async with scope(persistence=store) as s:
            for key in ("one", "two", "three"):
                assert await s.acquire_lock(key, 30) is not None

            def make_once() -> BaseException:
                store.faults.at = set()
                return make()

            store.faults.at, store.faults.make = {"release_lock"}, make_once
            raise KeyError("of the body")
    assert isinstance(only(caught.value), ProgramEnds)
    assert [await store.holder(key) for key in ("one", "two", "three")] == [None] * 3


@own
async def test_what_a_store_raises_at_the_end_of_a_scope_hides_no_error_of_its_body(
    store: RaisingStore, make: Make
) -> None:
    store.faults.make = make
    with pytest.raises(KeyError, match="of the body"):
        async with scope(persistence=store) as s:
            assert await s.acquire_lock("key", 30) is not None
            store.faults.at = {"release_lock"}
            raise KeyError("of the body")


async def test_what_ends_the_program_in_a_claim_comes_out_alone(store: RaisingStore) -> None:
    store.faults.at, store.faults.make, store.faults.after = {"claim_lock"}, ProgramEnds, True
    with pytest.raises(ProgramEnds):
        async with scope(persistence=store) as s, s.lock("key"):
            pytest.fail("it has no lock")
    assert await store.holder("key") is None
