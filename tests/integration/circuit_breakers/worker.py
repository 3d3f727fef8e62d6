"""One process of a fleet: calls a service through a shared circuit breaker, and prints what came.

usage: worker.py URL fail|hang|cancel|call TIMES
"""

from __future__ import annotations

import sys

import anyio

from gogoscope import CircuitBreaker, open_persistence, scope

BREAKER = CircuitBreaker("payments", failure_threshold=3, reset_timeout=60)


async def fail(called: anyio.Event) -> None:
    print("called")
    raise OSError("broken")


async def hang(called: anyio.Event) -> None:
    print("called")
    called.set()
    await anyio.sleep_forever()


async def call(called: anyio.Event) -> None:
    print("called")


async def main(url: str, what: str, times: int) -> None:
    function = {"fail": fail, "hang": hang, "cancel": hang, "call": call}[what]
    async with (
        open_persistence(url) as store,
        scope(persistence=store, circuit_breaker=BREAKER) as s,
    ):
        for _ in range(times):
            called = anyio.Event()
            # The first request to a store may take its time: only what hangs has a timeout.
            task = s.task(function, called, timeout=1 if what == "hang" else None)
            if what == "cancel":
                await called.wait()
                task.cancel()
            print(type((await task).error).__name__)


anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
