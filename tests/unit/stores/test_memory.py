"""The memory store: shared by the process, never suspending, no larger than what is alive."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import anyio
import pytest

from gogoscope.persistence import PersistenceURL, open_persistence
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState, FailureReport
from gogoscope.stores.memory import MemoryStore, from_url, process_store
from gogoscope.testing.conformance import ManualClock


@pytest.fixture
def busy_switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def records_in(store: MemoryStore) -> int:
    records: Any = store._records
    return sum(map(len, records._tables.values()))


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends, without an event loop."""
    with pytest.raises(StopIteration) as stop:
        coroutine.send(None)
    return stop.value.value


CALLS: dict[str, Callable[[MemoryStore], Coroutine[Any, Any, Any]]] = {
    "claim_lock": lambda store: store.claim_lock("k", LockClaim("n", "me", 1_000)),
    "renew_lock": lambda store: store.renew_lock("k", "n", 1, 1_000, 1_000),
    "extend": lambda store: store.extend("k", 1, "me"),
    "release_lock": lambda store: store.release_lock("k", "n", in_time=True),
    "force_release": lambda store: store.force_release("k"),
    "holder": lambda store: store.holder("k"),
    "get_state": lambda store: store.get_state("k"),
    "set_state": lambda store: store.set_state("k", CircuitBreakerState()),
    "record_failure": lambda store: store.record_failure("k", 3),
    "record_success": lambda store: store.record_success("k"),
    "count_failures": lambda store: store.count_failures("k", FailureReport("p", 1, 1, 1)),
    "claim_probe": lambda store: store.claim_probe("k", "n", 1, 1),
    "settle_probe": lambda store: store.settle_probe(
        "k", "n", succeeded=True, success_threshold=1, open_ms=1
    ),
    "get": lambda store: store.get("k"),
    "set": lambda store: store.set("k", 1),
    "delete": lambda store: store.delete("k"),
    "has": lambda store: store.has("k"),
    "clear": lambda store: store.clear(),
    "keys": lambda store: store.keys(),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_operation_suspends(name: str) -> None:
    run(CALLS[name](MemoryStore()))


def test_the_process_has_one_store() -> None:
    assert process_store() is process_store()


@pytest.mark.anyio
async def test_memory_urls_with_one_name_share_a_store_and_with_two_do_not() -> None:
    async with (
        open_persistence("memory:") as common,
        open_persistence("memory://one") as one,
        open_persistence("memory://one") as same,
        open_persistence("memory://two") as two,
    ):
        assert common is process_store()
        assert same is one
        await one.set("k", 1)
        assert await same.get("k") == 1
        assert await two.get("k") is None
        assert await common.get("k") is None
        await one.clear()


@pytest.mark.anyio
async def test_a_named_store_outlives_its_block() -> None:
    async with open_persistence("memory://outliving") as store:
        await store.set("k", 1)
    async with open_persistence("memory://outliving") as store:
        assert await store.get("k") == 1


@pytest.mark.anyio
async def test_prefixes_of_one_store_share_its_records() -> None:
    async with (
        open_persistence("memory://prefixes") as whole,
        open_persistence("memory://prefixes?key_prefix=a:") as outer,
        open_persistence("memory://prefixes?key_prefix=a:b:") as inner,
    ):
        await inner.set("k", 1)
        assert await outer.get("b:k") == 1
        assert await whole.get("a:b:k") == 1
        assert isinstance(outer, MemoryStore)
        assert await outer.with_prefix("b:").get("k") == 1


def test_a_prefix_below_a_prefix_is_checked_too() -> None:
    with pytest.raises(ValueError, match="key_prefix must end with"):
        MemoryStore(key_prefix="a:").with_prefix("b")


@pytest.mark.anyio
async def test_entering_a_store_returns_it_and_leaving_keeps_it_open() -> None:
    store = MemoryStore(key_prefix="a:")
    async with store as entered:
        assert entered is store
        await store.set("k", 1)
    assert await store.get("k") == 1


def test_a_fork_gets_a_store_of_its_own() -> None:
    script = """if True:
        import os, anyio
        from gogoscope.stores.memory import process_store

        async def main():
            store = process_store()
            await store.acquire("job", 60)
            if (pid := os.fork()) == 0:
                mine = process_store()
                free = await mine.holder("job") is None
                os._exit(0 if free and mine is not store else 1)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0
            assert await process_store().holder("job") is not None

        anyio.run(main)
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_fork_cannot_use_the_stores_of_its_parent_nor_hangs_in_them() -> None:
    script = """if True:
        import os, threading, anyio
        from gogoscope import PersistenceError
        from gogoscope.stores import MemoryStore

        store = MemoryStore()
        prefixed = store.with_prefix("a:")

        async def in_the_fork():
            refused = 0
            for work in (
                lambda: store.acquire("job", 60),
                lambda: store.get("k"),
                lambda: store.set("k", 2),
                lambda: store.clear(),
                lambda: store.keys(),
                lambda: store.get_many(["k"]),
                lambda: store.record_failure("c", 3),
                lambda: prefixed.get("k"),
            ):
                try:
                    await work()
                except PersistenceError as error:
                    refused += f"process {os.getppid()}" in str(error)
            async with MemoryStore() as own:
                await own.set("k", 1)
            os._exit(0 if refused == 8 else 1)

        async def before():
            await store.acquire("job", 60)
            await store.set("k", 1)
            await prefixed.set("k", 1)

        async def after():
            assert await store.get("k") == 1
            assert await store.holder("job") is not None

        anyio.run(before)
        inside = store._records._guard
        thread = threading.Thread(target=inside.acquire)
        thread.start()
        thread.join()
        if (pid := os.fork()) == 0:
            anyio.run(in_the_fork)
        inside.release()
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        anyio.run(after)
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_first_read_in_another_thread_disturbs_no_write() -> None:
    """A write goes through all records now and then, and a kind that was never written has none."""

    def read() -> None:
        assert run(store.holder("k")) is None
        assert run(store.get_state("k")) is None

    class ReadMeanwhile(defaultdict[str, dict[str, Any]]):
        def items(self) -> Any:
            for item in super().items():
                thread = threading.Thread(target=read)
                thread.start()
                thread.join()
                yield item

    store = MemoryStore()
    records: Any = store._records
    records._tables = ReadMeanwhile(dict, records._tables)
    for value in range(5):
        assert run(store.set("k", value))
    assert run(store.get("k")) == 4


@pytest.mark.usefixtures("busy_switching")
def test_threads_with_event_loops_of_their_own_lose_no_update() -> None:
    store = MemoryStore()
    counts: list[int] = []

    async def fail_often() -> None:
        counts.extend([await store.record_failure("c", 10**9) for _ in range(500)])

    threads = [threading.Thread(target=anyio.run, args=(fail_often,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counts) == list(range(1, 2_001))


@pytest.mark.usefixtures("busy_switching")
def test_threads_that_come_first_at_once_get_the_same_store() -> None:
    urls = [PersistenceURL.parse(f"memory://first-{number}") for number in range(300)]
    barrier = threading.Barrier(4, timeout=30)
    found: list[list[MemoryStore]] = []

    def open_all() -> None:
        stores = []
        for url in urls:
            barrier.wait()
            stores.append(from_url(url))
        found.append(stores)

    threads = [threading.Thread(target=open_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for same in zip(*found, strict=True):
        assert len(set(map(id, same))) == 1


def test_dead_records_do_not_pile_up() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    run(store.set("lasting", 1))
    for number in range(20_000):
        clock.now += 1
        run(store.set(f"k{number}", number, ttl=100))
        assert records_in(store) < 300
    assert run(store.get("lasting")) == 1
    assert run(store.get("k19999")) == 19_999


def test_locks_and_circuits_are_kept_for_a_day_and_no_longer() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    for number in range(2_000):
        clock.now += 864
        run(store.claim_lock(f"lock {number}", LockClaim("n", "me", 1_000)))
        run(store.record_failure(f"circuit {number}", 9))
        assert records_in(store) < 600
    assert run(store.read_lock("lock 1950")) is not None
    assert run(store.get_state("circuit 1950")) is not None


def test_live_records_are_never_dropped() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    for number in range(1_000):
        run(store.set(f"k{number}", number, ttl=1_001))
        clock.now += 1
    for _ in range(1_000):
        run(store.set("other", 0))
    assert [run(store.get(f"k{number}")) for number in range(1_000)] == list(range(1_000))


def test_a_codec_of_the_callers_is_used_for_every_value() -> None:
    class Upper:
        def dumps(self, value: Any) -> str:
            return str(value).upper()

        def loads(self, text: str) -> Any:
            return f"<{text}>"

    store = MemoryStore(codec=Upper())
    run(store.set("k", "text"))
    assert run(store.get("k")) == "<TEXT>"


def test_a_cached_text_that_looks_like_json_stays_text() -> None:
    store = MemoryStore()
    run(store.set("k", '{"a": 1}'))
    assert run(store.get("k")) == '{"a": 1}'


@pytest.mark.anyio
async def test_a_lock_is_taken_over_never_before_its_time_and_always_after_it() -> None:
    store = MemoryStore()
    begin = anyio.current_time()
    assert await store.acquire("job", 0.5) is not None
    with anyio.fail_after(20):
        while await store.acquire("job", 0.5) is None:
            await anyio.sleep(0.005)
    assert anyio.current_time() - begin >= 0.5


def test_an_allowance_for_skew_delays_the_takeover_of_a_dead_holder() -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock, max_clock_skew=2)
    run(store.claim_lock("k", LockClaim("n1", "me", 1_000)))
    clock.now += 2.9
    assert not run(store.claim_lock("k", LockClaim("n2", "other", 1_000))).granted
    clock.now += 0.2
    assert run(store.claim_lock("k", LockClaim("n2", "other", 1_000))).granted


@pytest.mark.parametrize("skew", [-1, float("nan"), float("inf")])
def test_a_bad_allowance_for_skew_is_refused(skew: float) -> None:
    with pytest.raises(ValueError, match="max_clock_skew must be"):
        MemoryStore(max_clock_skew=skew)
