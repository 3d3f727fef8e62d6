"""``s.semaphore``, ``s.read_lock`` and ``s.write_lock``, as their users see them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import anyio
import pytest

from gogoscope import (
    CapabilityNotSupportedError,
    LeaseLostError,
    LockError,
    LockTimeoutError,
    Scope,
    scope,
)
from gogoscope.events import Event, LeaseLost, PermitAcquired, PermitReleased
from gogoscope.persistence import Persistence
from gogoscope.stores import MemoryStore
from tests.unit.permits.watched_store import WatchedStore, another_process

pytestmark = pytest.mark.anyio


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


async def test_at_most_as_many_blocks_run_as_the_limit_says(store: WatchedStore) -> None:
    running = most = 0

    async def work(s: Scope) -> None:
        nonlocal running, most
        async with s.semaphore("licences", limit=3):
            running += 1
            most = max(most, running)
            await anyio.sleep(0.001)
            running -= 1

    with anyio.fail_after(30):
        async with scope(persistence=store) as s, scope(persistence=another_process(store)) as t:
            for one in (s, t) * 10:
                one.task(work, one)
    assert most == 3


async def test_a_permit_shows_what_is_held(store: WatchedStore) -> None:
    async with scope(persistence=store) as s:
        async with s.semaphore("licences", 2, metadata={"of": "a test"}) as permit:
            assert permit.key == "licences"
            assert await permit.is_valid()
            permit.ensure()
            assert permit.expires_at > 0
            assert await permit.extend(timedelta(seconds=60))
            assert "holding a permit of licences" in permit.name
            (holder,) = (await store.semaphores())["licences"].holders
            assert (holder.fencing_token, holder.metadata) == (
                permit.fencing_token,
                {"of": "a test"},
            )
            async with s.semaphore("licences", 2) as second:
                assert second.fencing_token > permit.fencing_token
        assert await store.semaphores() == {}


async def test_the_tasks_of_a_permit_end_before_it_is_released(store: WatchedStore) -> None:
    seen: list[int] = []

    async def look() -> None:
        await anyio.sleep(0.01)
        seen.append(len((await store.semaphores())["licences"].holders))

    async with scope(persistence=store) as s, s.semaphore("licences", 1) as permit:
        permit.task(look)
    assert seen == [1]


async def test_readers_share_a_writer_is_alone(store: WatchedStore) -> None:
    async def writes(s: Scope) -> None:
        async with s.write_lock("prices", wait=0):
            pytest.fail("it is read")

    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        async with s.read_lock("prices") as one, t.read_lock("prices") as two:
            assert two.fencing_token > one.fencing_token
            with pytest.raises(LockTimeoutError, match="write lock 'prices' was not free: held by"):
                await t.call(writes, t)
        async with s.write_lock("prices") as writing:
            assert writing.fencing_token > two.fencing_token
            for block in (t.read_lock("prices", wait=0), t.write_lock("prices", wait=0.05)):
                with pytest.raises(LockTimeoutError):
                    async with block:
                        pytest.fail("it is written")


async def test_a_timeout_says_who_holds_the_permits(store: WatchedStore) -> None:
    elsewhere = another_process(store)
    async with (
        scope(persistence=store, name="holder") as s,
        scope(persistence=elsewhere) as t,
        s.semaphore("licences", 2),
        s.semaphore("licences", 2),
    ):
        for wait in (0, 0.05):
            with pytest.raises(
                LockTimeoutError,
                match=r"semaphore 'licences' had no free permit.*: held by 2 \(host .*, pid "
                r".*, scope holder; host .*\)",
            ):
                async with t.semaphore("licences", 2, wait=wait):
                    pytest.fail("there is none")


async def test_a_timeout_behind_others_of_this_process_says_who_holds_the_permits(
    store: WatchedStore,
) -> None:
    async def takes(limit: int, wait: float | None) -> None:
        async with s.semaphore("licences", limit, wait=wait):
            pass

    async with scope(persistence=store) as s, s.semaphore("licences", 2):
        first = s.task(takes, 1, None)
        await anyio.wait_all_tasks_blocked()
        err, _ = await s.task(takes, 2, 0.05)
        assert isinstance(err, LockTimeoutError)
        assert ": held by 1 (host " in str(err)
        first.cancel()


async def test_the_limit_is_each_callers_own(store: WatchedStore) -> None:
    async with (
        scope(persistence=store) as s,
        scope(persistence=another_process(store)) as t,
        s.semaphore("licences", 2),
        s.semaphore("licences", 2),
    ):
        with pytest.raises(LockTimeoutError):
            async with t.semaphore("licences", 1, wait=0):
                pytest.fail("two hold it")
        async with t.semaphore("licences", 3, wait=0):
            pass


@pytest.mark.parametrize(
    ("outer", "inner"),
    [("read", "write"), ("write", "read"), ("write", "write"), ("read", "read")],
)
async def test_a_task_that_would_wait_for_itself_is_told_so(
    store: WatchedStore, outer: str, inner: str
) -> None:
    async with scope(persistence=store) as s:
        blocks: Any = {"read": s.read_lock, "write": s.write_lock}
        async with blocks[outer]("prices"):
            with pytest.raises(LockError, match="holds the read or write lock 'prices' already"):
                async with blocks[inner]("prices"):
                    pytest.fail("it did not wait for itself")
        async with blocks[inner]("prices"):
            pass


async def test_a_task_may_hold_as_many_permits_as_there_are(store: WatchedStore) -> None:
    async with (
        scope(persistence=store) as s,
        s.semaphore("licences", 2),
        s.semaphore("licences", 2),
    ):
        with pytest.raises(LockError, match="holds 2 permits of the semaphore 'licences'"):
            async with s.semaphore("licences", 2):
                pytest.fail("it did not wait for itself")
        async with s.semaphore("others", 1), s.lock("licences"), s.write_lock("licences"):
            pass


async def test_a_lost_permit_ends_its_block(store: WatchedStore) -> None:
    seen: list[Event] = []
    async with scope(persistence=store, on_event=seen.append) as s:
        with pytest.raises(LeaseLostError, match="forcibly released"):
            async with s.semaphore("licences", 1, ttl=0.3) as permit:
                assert await store.force_release_permits("semaphore", "licences") == 1
                assert not await permit.is_valid()
                with pytest.raises(LeaseLostError):
                    permit.ensure()
                await anyio.sleep_forever()
    assert [type(event) for event in seen if isinstance(event, LeaseLost)] == [LeaseLost]


async def test_permits_that_were_taken_over_name_the_next_holder(store: WatchedStore) -> None:
    elsewhere = another_process(store)
    async with scope(persistence=store) as s, scope(persistence=elsewhere) as t:
        with pytest.raises(LeaseLostError, match="taken over by"):
            async with s.write_lock("prices", ttl=30) as permit:
                store.clock.now += 31
                async with t.write_lock("prices", wait=0):
                    assert not await permit.is_valid()


async def test_permits_have_events(store: WatchedStore) -> None:
    seen: list[Event] = []
    async with scope(persistence=store, on_event=seen.append) as s:
        async with s.semaphore("a", 1) as permit, s.read_lock("b"):
            pass
        async with s.write_lock("b"):
            pass
    got = [(one.what, one.key) for one in seen if isinstance(one, PermitAcquired)]
    assert got == [("semaphore", "a"), ("read_lock", "b"), ("write_lock", "b")]
    left = [(one.what, one.key, one.freed) for one in seen if isinstance(one, PermitReleased)]
    assert left == [("read_lock", "b", True), ("semaphore", "a", True), ("write_lock", "b", True)]
    tokens = [one.fencing_token for one in seen if isinstance(one, PermitAcquired)]
    assert tokens[0] == permit.fencing_token


async def test_the_tree_shows_permits_that_are_held_and_waited_for(store: WatchedStore) -> None:
    async def wait(s: Scope) -> None:
        async with s.write_lock("prices"):
            pass

    async with scope(persistence=store) as s, s.read_lock("prices"), s.semaphore("licences", 1):
        s.task(wait, s)
        with anyio.fail_after(10):
            while "waits for write lock 'prices'" not in s.tree():
                await anyio.sleep(0.01)
        assert "reading prices [open" in s.tree()
        assert "holding a permit of licences [open" in s.tree()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"key": 7}, TypeError, "key must be a str, got 7"),
        ({"key": ""}, ValueError, "key must not be empty"),
        ({"limit": 0}, ValueError, "limit must be 1 or more, got 0"),
        ({"limit": 2**63}, ValueError, "limit must be less than .*, got 9223372036854775808"),
        ({"limit": 1.5}, TypeError, "limit must be an int, got 1.5"),
        ({"limit": None}, TypeError, "limit must be an int, got None"),
        ({"limit": True}, TypeError, "limit must be an int, got True"),
        ({"ttl": 0}, ValueError, "ttl must be"),
        ({"wait": -1}, ValueError, "wait must be"),
        ({"metadata": {"pid": "1"}}, ValueError, "metadata must not have 'pid'"),
    ],
)
async def test_bad_options_are_refused_at_once(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    async with scope(persistence=MemoryStore()) as s:
        with pytest.raises(error, match=said):
            s.semaphore(**{"key": "k", "limit": 1, **options})


async def test_a_store_without_permits_is_refused_by_name() -> None:
    store = MemoryStore()
    async with scope(persistence=Persistence(locks=store)) as s:
        with pytest.raises(CapabilityNotSupportedError, match="permits"):
            async with s.semaphore("k", 1):
                pytest.fail("nobody keeps it")


async def test_a_block_that_is_not_entered_says_how(store: WatchedStore) -> None:
    async with scope(persistence=store) as s:
        block: Any = s.semaphore("k", 1)
        with pytest.raises(AttributeError, match=r"async with s\.semaphore\(key, limit\)"):
            block.ensure()
