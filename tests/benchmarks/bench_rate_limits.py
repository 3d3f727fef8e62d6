"""What a rate limit costs: requests a call, and time; and two other libraries beside it, on Redis.

Run it from the repository; ``redis-server`` is started for the libraries of the extra ``bench``:

    python -m tests.benchmarks.bench_rate_limits [--seconds 4] [--rounds 40] [--check]
                                                 [--no-peers]

``--check`` fails if a call with waiting makes more than 1.05 requests, or more than 0.15 with
``batch="auto"`` at 100 calls a second a process and a burst of 40, or if a call with
``batch="auto"`` in the memory of the process costs more than 4 bare awaits. Times are the
processor's, and the best of many rounds that alternate.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from attrs import define, field

from gogoscope import RateLimit, scope
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing import UnpluggableStore, VirtualClock
from tests.benchmarks.peers import why_left_out

CALLS = 2_000
MOST_REQUESTS, MOST_REQUESTS_AUTO, MOST_AWAITS = 1.05, 0.15, 4.0
PROCESSES, WORKERS = 4, 4
RATE = 100
"""What the side-by-side allows in any second."""


def requests_a_call(
    limit: RateLimit, seconds: float, pace: float = 0.0, processes: int = PROCESSES
) -> float:
    """Return how many requests a call makes, in virtual time.

    :param seconds: for how long all processes call
    :param pace: seconds between two calls of a process; 0 for as many as the limit allows
    """
    requests = calls = 0

    async def work(end: float) -> None:
        nonlocal calls
        while anyio.current_time() < end:
            async with limit.acquire():
                calls += 1
            await anyio.sleep(pace)

    async def main() -> None:
        nonlocal requests
        memory = MemoryStore()
        stores = [UnpluggableStore(copy.copy(memory)) for _ in range(processes)]
        end = anyio.current_time() + seconds
        async with anyio.create_task_group() as group:
            for store in stores:
                store.slow_down(0.002)
                group.start_soon(process, store, end)
        requests = sum(sum(store.requests.values()) for store in stores)

    async def process(store: UnpluggableStore, end: float) -> None:
        async with scope(persistence=store) as s:
            for _ in range(1 if pace else WORKERS):
                s.task(work, end)

    VirtualClock().run(main)
    return requests / calls


async def service() -> int:
    """Do as little as a coroutine can."""
    return 1


async def awaits_a_call(rounds: int) -> dict[str, float]:
    """Return how many bare awaits a call costs in the memory of the process."""
    often = 1_000_000
    limits = {
        f"batch={batch!r}": RateLimit(f"bench {batch}", rate=often, burst=often, batch=batch)
        for batch in (1, 64, "auto")
    }

    async def bare() -> None:
        for _ in range(CALLS):
            await service()

    async def limited(limit: RateLimit) -> None:
        for _ in range(CALLS):
            await limit.call(service)

    best: dict[str, float] = {}
    gc.disable()
    try:
        for _ in range(rounds):
            best["bare"] = min(best.get("bare", 1.0), await _timed(bare))
            for name, limit in limits.items():
                took = await _timed(limited, limit)
                best[name] = min(best.get(name, 1.0), took)
    finally:
        gc.enable()
    return {name: took / best["bare"] for name, took in best.items() if name != "bare"}


async def _timed(round_of: Callable[..., Awaitable[None]], *arguments: Any) -> float:
    began = time.process_time()
    await round_of(*arguments)
    return time.process_time() - began


@define
class Run:
    """When calls went, and how many requests the server has read for them."""

    at: list[float] = field(factory=list)
    requests: int = 0

    def most_in_a_second(self) -> int:
        first = most = 0
        for last, at in enumerate(self.at):
            while at - self.at[first] >= 1:
                first += 1
            most = max(most, last - first + 1)
        return most


Acquire = Callable[[], Awaitable[object]]


async def side_by_side(seconds: float) -> dict[str, Run | str]:
    """Let each library call for some seconds; tell of one that is left out, why."""
    from tests.support.redis_server import running_redis

    makers = {
        "gogoscope": _gogoscope,
        'gogoscope batch="auto"': _gogoscope_auto,
        "limits, moving window": _limits_moving,
        "limits, fixed window": _limits_fixed,
        "PyrateLimiter": _pyrate,
    }
    runs: dict[str, Run | str] = {}
    for name, make in makers.items():
        with running_redis() as server:
            try:
                runs[name] = await _run(make, server.url, seconds)
            except Exception as error:
                if name.startswith("gogoscope"):
                    raise
                runs[name] = why_left_out(error)
    return runs


async def _run(make: Callable[[str, list[Acquire]], Any], url: str, seconds: float) -> Run:
    from redis.asyncio import Redis

    run = Run()

    async def work(acquire: Acquire, end: float) -> None:
        while time.monotonic() < end:
            await acquire()
            run.at.append(time.monotonic())

    async with Redis.from_url(url) as looker:
        acquires: list[Acquire] = []
        async with make(url, acquires):
            before = (await looker.info("stats"))["total_reads_processed"]
            end = time.monotonic() + seconds
            async with anyio.create_task_group() as group:
                for acquire in acquires:
                    for _ in range(WORKERS):
                        group.start_soon(work, acquire, end)
            after = (await looker.info("stats"))["total_reads_processed"]
    run.requests = after - before - 1
    run.at.sort()
    return run


class _gogoscope:  # noqa: N801 - one of the makers
    batch: Any = 1

    def __init__(self, url: str, acquires: list[Acquire]) -> None:
        from gogoscope.stores.redis.store import RedisStore

        # 80 a second and 20 at once are no more than 100 in any second.
        self._limit = RateLimit(
            "bench", rate=RATE * 0.8, burst=RATE // 5, batch=self.batch, local_share=0
        )
        self._stores = [RedisStore(url) for _ in range(PROCESSES)]
        self._acquires = acquires

    async def __aenter__(self) -> None:
        from gogoscope.rate_limits.permit import Limiter
        from gogoscope.rate_limits.registry import PROCESS, bucket_in

        for store in self._stores:
            await store.__aenter__()
            self._acquires.append(
                Limiter(self._limit, bucket_in(self._limit, store), PROCESS).admit
            )

    async def __aexit__(self, *_: object) -> None:
        for store in self._stores:
            await store.aclose()


class _gogoscope_auto(_gogoscope):  # noqa: N801 - likewise
    batch = "auto"


class _limits:  # noqa: N801 - likewise
    strategy = ""

    def __init__(self, url: str, acquires: list[Acquire]) -> None:
        limits = importlib.import_module("limits")
        aio = importlib.import_module("limits.aio")
        self._item = limits.parse(f"{RATE}/second")
        for _ in range(PROCESSES):
            # Clients of "redis" and not of "coredis", which is not installed.
            storage = aio.storage.RedisStorage(f"async+{url}", implementation="redispy")
            limiter = getattr(aio.strategies, self.strategy)(storage)
            acquires.append(lambda limiter=limiter: self._acquire(limiter))  # type: ignore[misc]

    async def _acquire(self, limiter: Any) -> None:
        # It says whether a call may go; to wait is left to the caller, as its documentation has it.
        while not await limiter.hit(self._item, "bench"):
            stats = await limiter.get_window_stats(self._item, "bench")
            await anyio.sleep(max(0.001, stats.reset_time - time.time()))

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *_: object) -> None:
        return


class _limits_moving(_limits):  # noqa: N801 - likewise
    strategy = "MovingWindowRateLimiter"


class _limits_fixed(_limits):  # noqa: N801 - likewise
    strategy = "FixedWindowRateLimiter"


class _pyrate:  # noqa: N801 - likewise
    def __init__(self, url: str, acquires: list[Acquire]) -> None:
        self._library = importlib.import_module("pyrate_limiter")
        self._url = url
        self._acquires = acquires
        self._clients: list[Any] = []

    async def __aenter__(self) -> None:
        from redis.asyncio import Redis

        library = self._library
        for _ in range(PROCESSES):
            client = Redis.from_url(self._url)
            rates = [library.Rate(RATE, library.Duration.SECOND)]
            bucket = await library.RedisBucket.init(rates, client, "bench")
            limiter = library.Limiter(bucket)
            self._clients.append(client)
            self._acquires.append(
                lambda limiter=limiter: limiter.try_acquire_async("bench")  # type: ignore[misc]
            )

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            await client.aclose()


def main(seconds: float, rounds: int, *, check: bool, peers: bool) -> int:
    """Measure, print, and return the exit status."""
    limit = RateLimit("bench", rate=100, burst=20)
    auto = RateLimit("bench", rate=PROCESSES * 150, burst=40, batch="auto")
    waiting = requests_a_call(limit, 20)
    batched = requests_a_call(auto, 20, pace=0.01)
    awaits = anyio.run(awaits_a_call, rounds)
    print(f"requests a call, all wait            {waiting:6.2f}  (at most {MOST_REQUESTS:g})")
    print(f'requests a call, batch="auto"        {batched:6.2f}  (at most {MOST_REQUESTS_AUTO:g})')
    for name, cost in awaits.items():
        most = f"(at most {MOST_AWAITS:g})" if "auto" in name else ""
        print(f"bare awaits a call in memory, {name:<12} {cost:6.1f}  {most}")
    if peers:
        print(f"\n{RATE} calls a second on Redis, {PROCESSES} clients with {WORKERS} callers each:")
        for name, run in anyio.run(side_by_side, seconds).items():
            if isinstance(run, str):
                print(f"{name:<26} {run}")
                continue
            over = max(0, run.most_in_a_second() - RATE)
            print(
                f"{name:<26} {len(run.at) / seconds:6.1f} calls a second, {over:3} over the limit "
                f"in the worst second, {run.requests / len(run.at):6.2f} requests a call"
            )
    wrong = [
        waiting > MOST_REQUESTS,
        batched > MOST_REQUESTS_AUTO,
        awaits["batch='auto'"] > MOST_AWAITS,
    ]
    return int(check and any(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    peers = not options.no_peers
    sys.exit(main(options.seconds, options.rounds, check=options.check, peers=peers))
