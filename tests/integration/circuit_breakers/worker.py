"""One process of a fleet: calls a service through a shared circuit breaker, and prints what came.

usage: circuit_worker.py URL fail|hang|cancel|call TIMES
"""

from __future__ import annotations

import sys

import anyio

from gogoscope import CircuitBreaker, open_persistence, scope

BREAKER = CircuitBreaker("payments", failure_threshold=3, reset_timeout=60)


async def fail() -> None:
    print("called")
    raise OSError("broken")


async def hang() -> None:
    print("called")
    await anyio.sleep_forever()


async def call() -> None:
    print("called")


async def main(url: str, what: str, times: int) -> None:
    function = {"fail": fail, "hang": hang, "cancel": hang, "call": call}[what]
    async with (
        open_persistence(url) as store,
        scope(persistence=store, circuit_breaker=BREAKER) as s,
    ):
        for _ in range(times):
            if what == "cancel":
                task = s.task(function)
                await anyio.sleep(0.2)
                task.cancel()
                error = (await task).error
            else:
                error = (await s.task(function, timeout=0.2)).error
            print(type(error).__name__)


anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
