"""One clock for the whole process."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest

from gogoscope import Cache, LocalCache, LockHandle, scope
from gogoscope._core.clock import current_clock, monotonic, timeline_of
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import VirtualClock
from gogoscope.testing.conformance import ManualClock
from tests.support.backends import BOTH


@BOTH
def test_a_time_of_one_event_loop_may_be_compared_with_one_of_another(backend: str) -> None:
    async def now() -> float:
        return monotonic()

    times = [anyio.run(now, backend=backend) for _ in range(5)]
    assert times == sorted(times)
    assert times[-1] - times[0] < 5


@BOTH
def test_a_handle_counts_its_lease_through_several_event_loops(backend: str) -> None:
    store = MemoryStore()
    handles: list[LockHandle] = []

    async def take() -> None:
        async with scope(persistence=store):
            handle = await store.acquire("k", 1)
            assert handle is not None
            handles.append(handle)

    async def look() -> tuple[str | None, float]:
        return handles[0].lost, handles[0].deadline - anyio.current_time()

    async def sleep() -> None:
        await anyio.sleep(1)

    anyio.run(take, backend=backend)
    lost, left = anyio.run(look, backend=backend)
    assert lost is None
    assert 0 < left <= 1
    anyio.run(sleep, backend=backend)
    assert anyio.run(look, backend=backend)[0] is not None


@BOTH
def test_a_local_layer_counts_the_age_of_its_values_through_several_event_loops(
    backend: str,
) -> None:
    store = MemoryStore()
    cache = Cache(store, local=LocalCache(ttl=1))

    async def first() -> None:
        await cache.set("k", "old")
        assert await cache.get("k") == "old"
        await store.set("k", "new")

    async def then() -> str:
        value: str = await cache.get("k")
        return value

    async def sleep() -> None:
        await anyio.sleep(1)

    anyio.run(first, backend=backend)
    assert anyio.run(then, backend=backend) == "old"
    anyio.run(sleep, backend=backend)
    assert anyio.run(then, backend=backend) == "new"


@BOTH
def test_a_worker_thread_is_told_whether_a_lock_is_held(backend: str) -> None:
    async def program() -> None:
        async with scope(persistence=MemoryStore()) as s, s.lock("k", ttl=5) as locked:
            await anyio.to_thread.run_sync(locked.ensure)
            assert await s.thread(lambda: locked._handle.lost) == (None, None)

    anyio.run(program, backend=backend)


@BOTH
def test_in_virtual_time_it_is_the_virtual_clock(backend: str) -> None:
    async def program() -> None:
        began = monotonic()
        await anyio.sleep(3600)
        assert monotonic() - began == pytest.approx(3600)

    VirtualClock().run(program, backend=backend)  # type: ignore[arg-type]


def test_clocks_of_one_timeline_are_compared_and_a_virtual_clock_has_its_own() -> None:
    class Named:
        timeline = "of a test"

        def wall(self) -> float:
            return 0.0

        def elapsed(self) -> float:
            return 0.0

    async def here() -> str:
        return timeline_of(current_clock)

    first, second = VirtualClock(), VirtualClock()
    system = anyio.run(here)
    assert system.startswith("boot")
    assert anyio.run(here) == system
    assert timeline_of(Named()) == "of a test"
    assert timeline_of(ManualClock()) == timeline_of(ManualClock())
    names = [system, first.run(here), second.run(here), timeline_of(ManualClock()), "of a test"]
    assert len(set(names)) == len(names)
    assert first.run(here) == first.run(here)
