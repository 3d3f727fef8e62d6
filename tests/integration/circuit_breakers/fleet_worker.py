"""One process of a fleet, told what to do line by line: ``circuit_fleet_worker.py URL OPTIONS``.

OPTIONS are those of the circuit breaker, as JSON. Each command prints one line of JSON, but
``probe`` prints one whenever its function is called, and one when it has ended.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import anyio
import anyio.to_thread

from gogoscope import CircuitBreaker, Scope, open_persistence, scope

REQUESTS = ("get_state", "count_failures", "claim_probe", "settle_probe", "reset_failures")


class Worker:
    """Calls through the circuit as it is told."""

    def __init__(self, s: Scope, store: Any) -> None:
        self._scope = s
        self._inline = 0
        self._release = anyio.Event()
        self._error: Exception | None = None
        self._probes: list[Any] = []
        for name in REQUESTS:
            setattr(store, name, functools.partial(self._request, getattr(store, name)))

    async def _request(self, method: Any, *arguments: Any, **options: Any) -> Any:
        if anyio.get_current_task().name != "gogoscope background":
            self._inline += 1
        return await method(*arguments, **options)

    async def call(self) -> None:
        """Call what works."""
        tell(await self._outcome(fine))

    async def fail(self, times: str) -> None:
        """Call what fails, so many times at once."""
        tasks = [self._scope.task(broken) for _ in range(int(times))]
        tell([type((await task).error).__name__ for task in tasks])

    async def until_rejected(self) -> None:
        """Call what works until the circuit rejects it; tell the inline requests since."""
        self._inline = 0
        while await self._outcome(fine) != "CircuitOpenError":
            await anyio.sleep(0.01)
        tell(self._inline)

    async def until_called(self) -> None:
        """Call what works until the circuit lets it through."""
        while await self._outcome(fine) != "NoneType":
            await anyio.sleep(0.01)
        tell("called")

    async def probe(self, times: str) -> None:
        """Start so many calls at once that hang until they are released or cancelled."""
        self._release = anyio.Event()

        async def hang() -> None:
            tell("called")
            await self._release.wait()
            if self._error is not None:
                raise self._error

        async def follow(task: Any) -> None:
            tell(type((await task).error).__name__)

        self._probes = [self._scope.task(hang) for _ in range(int(times))]
        for task in self._probes:
            self._scope.task(follow, task, circuit_breaker=False)

    async def release(self, how: str) -> None:
        """Let the calls that hang succeed or fail."""
        self._error = OSError("broken") if how == "fail" else None
        self._release.set()

    async def cancel(self) -> None:
        """Cancel the calls that hang."""
        for task in self._probes:
            task.cancel()

    async def _outcome(self, fn: Any) -> str:
        return type((await self._scope.task(fn)).error).__name__


async def fine() -> None:
    return


async def broken() -> None:
    await anyio.sleep(0)
    raise OSError("broken")


def tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def main(url: str, options: str) -> None:
    breaker = CircuitBreaker("payments", **json.loads(options))
    async with (
        open_persistence(url) as store,
        scope(persistence=store, circuit_breaker=breaker) as s,
    ):
        worker = Worker(s, store)
        tell("ready")
        while line := (await anyio.to_thread.run_sync(sys.stdin.readline)).split():
            await getattr(worker, line[0])(*line[1:])
        s.cancel()


anyio.run(main, sys.argv[1], sys.argv[2])
