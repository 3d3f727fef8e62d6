"""Places of a batch in the memory of the process, which calls outside of scopes take at once."""

from __future__ import annotations

import threading
import uuid

import anyio
import pytest

from gogoscope import RateLimit, open_persistence, scope
from gogoscope.rate_limits.registry import ready
from tests.unit.rate_limits.conftest import Run
from tests.unit.rate_limits.times import Times


def a_limit(**options: object) -> RateLimit:
    settings = {"rate": 100, "burst": 20, "batch": 10, **options}
    return RateLimit(f"ready {uuid.uuid4()}", **settings)  # type: ignore[arg-type]


def test_the_rate_is_kept(run: Run) -> None:
    limit = a_limit()

    async def main() -> None:
        times = Times()
        for _ in range(220):
            await limit.call(times)
        assert times.at[-1] - times.at[0] == pytest.approx(2, abs=0.1)
        for n, at in enumerate(times.at):
            assert at - times.at[0] >= (n - 30) / 100

    run(main)


def test_a_pause_leaves_none_ready(run: Run) -> None:
    limit = a_limit(retry_after=lambda outcome: 3 if outcome == "busy" else None)

    async def busy() -> str:
        return "busy"

    async def main() -> None:
        times = Times()
        await limit.call(times)
        assert len(ready[limit]) == 9
        await limit.pause(5)
        began = times.now()
        await limit.call(times)
        assert times.at[-1] - began >= 5
        await limit.call(busy)
        began = times.now()
        await limit.call(times)
        assert times.at[-1] - began >= 3

    run(main)


def test_a_scope_and_a_default_store_have_places_of_their_own(run: Run) -> None:
    limit = a_limit()

    async def main() -> None:
        times = Times()
        await limit.call(times)
        kept = ready[limit]
        async with scope():
            await limit.call(times)
        assert len(kept) == 9
        async with open_persistence(f"memory://{uuid.uuid4()}", default=True) as store:
            assert limit not in ready
            await limit.call(times)
            assert limit not in ready
            assert limit.name in await store.rate_limits()

    run(main)


def test_no_place_is_taken_twice_by_threads() -> None:
    limit = a_limit(rate=0.001, burst=400, batch=100, wait=0)
    went: list[int] = []

    async def call() -> None:
        went.append(1)

    async def work() -> None:
        for _ in range(300):
            try:
                await limit.call(call)
            except Exception:
                break

    threads = [threading.Thread(target=anyio.run, args=(work,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(went) <= 400
