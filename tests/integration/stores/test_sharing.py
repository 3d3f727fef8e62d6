"""Scopes that name one URL share one store, from the first that opens it to the last."""

from __future__ import annotations

import gc
import threading
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from gogoscope import open_persistence, scope
from gogoscope.exceptions import PersistenceError, StoreConnectionError
from gogoscope.persistence import PersistenceURL, Store
from gogoscope.persistence.sharing import SharedStore, _stores
from gogoscope.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

URL = "witness://here"


class Witness(MemoryStore):
    """A store that tells when it is opened and closed, and that a test can hold or make fail."""

    opened: list[Witness] = []  # noqa: RUF012 - emptied for each test
    closed: list[Witness] = []  # noqa: RUF012
    gate: anyio.Event | None = None
    failures = 0

    async def __aenter__(self) -> Self:
        if Witness.gate is not None:
            await Witness.gate.wait()
        await anyio.lowlevel.checkpoint()
        if Witness.failures:
            Witness.failures -= 1
            raise StoreConnectionError("it is down")
        Witness.opened.append(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        Witness.closed.append(self)
        await anyio.lowlevel.checkpoint()


def witness_from_url(url: PersistenceURL) -> Witness:
    return Witness()


@pytest.fixture(autouse=True)
def witness(monkeypatch: pytest.MonkeyPatch) -> type[Witness]:
    point = EntryPoint("witness", f"{__name__}:witness_from_url", "gogoscope.persistence")
    monkeypatch.setattr(EntryPoint, "load", lambda self: witness_from_url)
    monkeypatch.setattr(
        "gogoscope.persistence.registry.entry_points", lambda **_: EntryPoints([point])
    )
    monkeypatch.setattr(Witness, "opened", [])
    monkeypatch.setattr(Witness, "closed", [])
    monkeypatch.setattr(Witness, "gate", None)
    monkeypatch.setattr(Witness, "failures", 0)
    return Witness


@pytest.fixture
def no_witness(monkeypatch: pytest.MonkeyPatch, witness: type[Witness]) -> None:
    monkeypatch.undo()


async def use(others: anyio.Event) -> None:
    async with scope(persistence=URL) as s:
        await s.cache.set("k", 1)
        await others.wait()


async def test_scopes_of_many_tasks_share_one_store_as_long_as_any_is_open() -> None:
    done = anyio.Event()
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(use, done)
        await anyio.wait_all_tasks_blocked()
        assert (len(Witness.opened), len(Witness.closed)) == (1, 0)
        done.set()
    assert Witness.closed == Witness.opened
    assert _stores.get() == {}
    async with scope(persistence=URL):
        assert len(Witness.opened) == 2
    assert Witness.closed == Witness.opened


async def test_another_task_than_the_opener_may_close_it() -> None:
    first, last = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(use, first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(use, last)
        await anyio.wait_all_tasks_blocked()
        first.set()
        await anyio.wait_all_tasks_blocked()
        assert Witness.closed == []
        last.set()
    assert len(Witness.closed) == len(Witness.opened) == 1


async def test_it_may_be_left_in_another_event_loop_when_its_own_has_ended(
    no_witness: None, tmp_path: Path, anyio_backend_name: Any
) -> None:
    opening = open_persistence(f"sqlite:///{tmp_path}/store.db")
    for _ in range(2):

        def enter() -> Any:
            return anyio.run(opening.__aenter__, backend=anyio_backend_name)

        store = await anyio.to_thread.run_sync(enter)
        await opening.__aexit__(None, None, None)
        with pytest.raises(PersistenceError, match="is not open"):
            await store.get("k")


async def test_different_urls_are_different_stores() -> None:
    async with SharedStore(URL) as one, SharedStore(URL + "?key_prefix=a:") as other:
        assert one is not other
    assert len(Witness.closed) == len(Witness.opened) == 2


async def test_each_waiter_tries_to_open_again_when_opening_fails() -> None:
    Witness.failures = 1
    outcomes: list[str] = []

    async def try_it() -> None:
        try:
            async with SharedStore(URL) as store:
                outcomes.append("open")
                await store.set("k", 1)
        except StoreConnectionError:
            outcomes.append("failed")

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(try_it)
    assert sorted(outcomes) == ["failed", *["open"] * 4]
    assert Witness.closed == Witness.opened
    assert _stores.get() == {}


async def test_a_failure_to_open_leaves_nothing_behind() -> None:
    Witness.failures = 1
    with pytest.raises(StoreConnectionError, match="it is down"):
        async with scope(persistence=URL):
            pytest.fail("it opened")
    assert _stores.get() == {}
    async with scope(persistence=URL):
        assert len(Witness.opened) == 1


async def test_something_opened_that_is_no_store_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_something_else(witness: Witness) -> object:
        Witness.opened.append(witness)
        return object()

    monkeypatch.setattr(Witness, "__aenter__", open_something_else)
    with pytest.raises(TypeError, match="persistence must be a URL, a store"):
        async with scope(persistence=URL):
            pytest.fail("it is a store")
    assert len(Witness.opened) == 1
    assert Witness.closed == Witness.opened
    assert _stores.get() == {}


async def test_another_waiter_opens_when_opening_is_cancelled() -> None:
    gate = Witness.gate = anyio.Event()
    opener = anyio.CancelScope()
    done = anyio.Event()

    async def first() -> None:
        with opener:
            await use(done)

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(use, done)
        await anyio.wait_all_tasks_blocked()
        opener.cancel()
        await anyio.wait_all_tasks_blocked()
        assert Witness.opened == []
        gate.set()
        await anyio.wait_all_tasks_blocked()
        assert len(Witness.opened) == 1
        done.set()
    assert Witness.closed == Witness.opened


async def test_a_cancelled_newcomer_does_not_keep_open_what_the_last_user_leaves() -> None:
    comes = anyio.Event()

    async def comes_cancelled() -> None:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            comes.set()
            async with SharedStore(URL):
                await anyio.sleep_forever()

    async with anyio.create_task_group() as group, SharedStore(URL):
        group.start_soon(comes_cancelled)
        await comes.wait()
    assert Witness.closed == Witness.opened
    assert _stores.get() == {}


async def test_a_cancelled_scope_closes_the_store_it_opened() -> None:
    with anyio.CancelScope() as cancelled:
        async with SharedStore(URL):
            cancelled.cancel()
            await anyio.sleep_forever()
    assert Witness.closed == Witness.opened
    assert _stores.get() == {}


def test_event_loops_of_two_threads_have_a_store_each(anyio_backend_name: str) -> None:
    barrier = threading.Barrier(2, timeout=30)
    seen: list[Any] = []

    async def main() -> None:
        async with SharedStore(URL) as store, SharedStore(URL) as again:
            assert store is again
            seen.append(store)
            barrier.wait()

    threads = [
        threading.Thread(target=lambda: anyio.run(main, backend=anyio_backend_name))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(store) for store in seen}) == 2
    assert len(Witness.opened) == len(Witness.closed) == 2


async def test_an_open_store_is_used_by_many_scopes_and_closed_by_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def count(store: Store) -> None:
        async with scope(persistence=store) as s:
            lock = await s.acquire_lock("job", 30, wait=30)
            assert lock is not None
            await s.cache.set("n", await s.cache.get("n", 0) + 1)
            await lock.release()

    async with open_persistence(url) as store:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(count, store)
        assert await store.get("n") == 20


async def test_a_scope_shares_the_store_that_open_persistence_holds_open() -> None:
    async with open_persistence(URL):
        async with scope(persistence=URL) as s:
            await s.cache.set("k", 1)
        assert (len(Witness.opened), len(Witness.closed)) == (1, 0)
        async with scope(persistence=URL) as s:
            assert await s.cache.get("k") == 1
    assert Witness.closed == Witness.opened
    assert _stores.get() == {}


@pytest.mark.usefixtures("no_witness")
async def test_a_store_that_is_kept_without_its_block_lives_until_it_is_closed(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = await open_persistence(url).__aenter__()
    gc.collect()
    await anyio.sleep(0)
    await store.set("k", 1)
    await store.aclose()
    async with scope(persistence=url) as s:
        assert await s.cache.get("k") == 1
    assert _stores.get() == {}
