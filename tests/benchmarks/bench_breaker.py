"""What a circuit breaker costs: ratios to a bare await, and requests to the store.

All calls alternate in one run, and the best round of each counts, so that the ratios mean something
on a busy machine. The other libraries are those of the extra ``bench``. Run it from the repository:

    python -m tests.benchmarks.bench_breaker [--rounds 40] [--check]

``--check`` fails if a call with retry around it costs more than 6.5 bare awaits, or if the store
gets more requests than it should. What two coroutines cost that do no more than await the next one
is measured beside it: a retry around a circuit breaker can cost no less.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from attrs import frozen

from gogoscope import CircuitBreaker, CircuitOpenError, Retry, scope
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState, FailureReport
from gogoscope.stores.memory import MemoryStore
from tests.benchmarks.peers import why_left_out

CALLS = 2_000
LIMIT = 6.5

Round = Callable[[], Awaitable[None]]


async def service() -> int:
    """Do as little as a coroutine can."""
    return 1


async def failing() -> int:
    """Fail at once."""
    raise OSError("broken")


async def pass_on(fn: Callable[..., Awaitable[int]], /, *args: Any) -> int:
    """Do nothing but await a call."""
    return await fn(*args)


class Ours:
    """Rounds of calls through our circuit breaker."""

    def __init__(self) -> None:
        self.breaker = CircuitBreaker("bench")
        self.retry = Retry(3)
        self.decorated = self.breaker(service)

    async def bare(self) -> None:
        for _ in range(CALLS):
            await service()

    async def passed_on_twice(self) -> None:
        for _ in range(CALLS):
            await pass_on(pass_on, service)

    async def alone(self) -> None:
        breaker = self.breaker
        for _ in range(CALLS):
            await breaker.call(service)

    async def with_retry(self) -> None:
        breaker, retry = self.breaker, self.retry
        for _ in range(CALLS):
            await retry.call(breaker.call, service)

    async def decorator(self) -> None:
        decorated = self.decorated
        for _ in range(CALLS):
            await decorated()

    async def retry_alone(self) -> None:
        retry = self.retry
        for _ in range(CALLS):
            await retry.call(service)

    def rounds(self) -> dict[str, Round]:
        """Return each round by its name."""
        return {
            "bare await": self.bare,
            "two coroutines around it": self.passed_on_twice,
            "gogoscope retry + breaker.call": self.with_retry,
            "gogoscope breaker.call": self.alone,
            "gogoscope @breaker": self.decorator,
            "gogoscope retry": self.retry_alone,
        }


def rounds_of_others() -> dict[str, Round | str]:
    """Return rounds of calls through other libraries, or why one is left out."""
    makers = {
        "circuitbreaker": _circuitbreaker,
        "aiobreaker": _aiobreaker,
        "purgatory": _purgatory,
        "pybreaker": _pybreaker,
    }
    rounds: dict[str, Round | str] = {}
    for name, make in makers.items():
        try:
            call = make(importlib.import_module(name))
        except Exception as error:
            rounds[name] = why_left_out(error)
            continue

        async def calls(call: Callable[[], Awaitable[Any]] = call) -> None:
            for _ in range(CALLS):
                await call()

        rounds[name] = calls
    return rounds


def _circuitbreaker(library: Any) -> Callable[[], Awaitable[Any]]:
    call: Callable[[], Awaitable[Any]] = library.circuit(service)
    return call


def _aiobreaker(library: Any) -> Callable[[], Awaitable[Any]]:
    breaker = library.CircuitBreaker()
    return lambda: breaker.call_async(service)


def _purgatory(library: Any) -> Callable[[], Awaitable[Any]]:
    factory = library.AsyncCircuitBreakerFactory()

    async def call() -> None:
        async with await factory.get_breaker("bench"):
            await service()

    return call


def _pybreaker(library: Any) -> Callable[[], Awaitable[Any]]:
    importlib.import_module("tornado.gen")  # its calls of coroutines need it
    breaker = library.CircuitBreaker()
    return lambda: breaker.call_async(service)


async def costs_of_calls(number: int) -> dict[str, float | str]:
    """Return what each call costs in seconds: its best of so many rounds, all in turn.

    Of a library that is left out, return why.
    """
    ours = Ours().rounds()
    rounds: dict[str, Round | str] = {**ours, **rounds_of_others()}
    found: dict[str, float | str] = dict.fromkeys(rounds, float("inf"))
    gc.disable()
    try:
        for _ in range(number):
            for name, calls in rounds.items():
                known = found[name]
                if isinstance(calls, str):
                    found[name] = calls
                elif isinstance(known, float):
                    try:
                        found[name] = min(known, await seconds_a_call(calls))
                    except Exception as error:
                        if name in ours:
                            raise
                        found[name] = why_left_out(error)
            gc.collect()
    finally:
        gc.enable()
    return found


async def seconds_a_call(calls: Round) -> float:
    """Return the seconds of one call of a round."""
    began = time.perf_counter()
    await calls()
    return (time.perf_counter() - began) / CALLS


async def pipeline_ratio(number: int) -> float:
    """Return what retry and circuit breaker add to a task of a scope, as a ratio."""
    best = {True: float("inf"), False: float("inf")}
    guards = {"circuit_breaker": CircuitBreaker("bench"), "retry": Retry(3)}
    for _ in range(number):
        for guarded in (False, True):
            options: dict[str, Any] = guards if guarded else {}
            async with scope(**options) as s:
                _ = (await s.task(service)).error
                began = time.perf_counter()
                for _ in range(200):
                    _ = (await s.task(service)).error
                best[guarded] = min(best[guarded], time.perf_counter() - began)
    return best[True] / best[False]


class CountingStore(MemoryStore):
    """Counts the requests of circuit breakers; each takes a moment, as those of a real store do."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = self.writes = 0

    async def get_state(self, key: str) -> CircuitBreakerState | None:
        self.reads += 1
        await anyio.sleep(0.001)
        return await super().get_state(key)

    async def count_failures(self, key: str, report: FailureReport) -> CircuitBreakerState:
        self.writes += 1
        await anyio.sleep(0.001)
        return await super().count_failures(key, report)


@frozen
class Requests:
    """How many requests something made, and how many it may."""

    what: str
    made: int
    allowed: int


async def requests() -> list[Requests]:
    """Count the requests to a store."""
    found = []
    breaker = CircuitBreaker("bench", refresh_interval=0.05, failure_threshold=10**6)
    store = CountingStore()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        began = time.perf_counter()
        for _ in range(10_000):
            _ = (await s.task(service)).error
        intervals = int((time.perf_counter() - began) / breaker.refresh_interval)
    made = store.reads + store.writes
    found.append(Requests("10,000 calls through a closed circuit", made, intervals + 2))

    store = CountingStore()
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        tasks = [s.task(failing) for _ in range(1_000)]
        for task in tasks:
            assert (await task).error is not None
    state = await MemoryStore.get_state(store, "bench")
    assert state is not None
    assert state.failure_count == 1_000
    found.append(Requests("writes for 1,000 failures at once", store.writes, 10))

    store = CountingStore()
    await breaker.force_open(store)
    rejecting = CircuitBreaker("bench", refresh_interval=3600)
    async with scope(persistence=store, circuit_breaker=rejecting) as s:
        assert isinstance((await s.task(service)).error, CircuitOpenError)
        store.reads = store.writes = 0
        for _ in range(1_000):
            assert isinstance((await s.task(service)).error, CircuitOpenError)
    made = store.reads + store.writes
    found.append(Requests("1,000 rejected calls", made, 0))
    return found


async def main(number: int, check: bool) -> None:
    """Measure, print, and judge."""
    wrong = []
    costs = await costs_of_calls(number)
    bare = costs["bare await"]
    assert isinstance(bare, float)
    print(f"{'call':34}{'ns':>9}{'ratio':>9}")
    for name, cost in costs.items():
        if isinstance(cost, str):
            print(f"{name:34}  {cost}")
        else:
            print(f"{name:34}{cost * 1e9:>9.0f}{cost / bare:>9.1f}")
    measured = costs["gogoscope retry + breaker.call"]
    assert isinstance(measured, float)
    if measured / bare > LIMIT:
        wrong.append(f"a call costs {measured / bare:.1f} bare awaits, more than {LIMIT:g}")
    print(f"\ntask with retry and breaker, to one without: {await pipeline_ratio(number):.2f}\n")
    print(f"{'requests':42}{'made':>6}{'allowed':>9}")
    for counted in await requests():
        print(f"{counted.what:42}{counted.made:>6}{counted.allowed:>9}")
        if counted.made > counted.allowed:
            wrong.append(f"{counted.what}: {counted.made} requests")
    if wrong and check:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    anyio.run(main, arguments.rounds, arguments.check)
