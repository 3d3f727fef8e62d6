"""A memory store whose requests are counted and may fail, on a clock that a test turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from gogoscope import CircuitBreaker, StoreConnectionError, scope
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState
from gogoscope.stores.memory import MemoryStore


class Clock:
    """A wall clock that a test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_800_000_000.0
        for module in ("circuit", "sync"):
            monkeypatch.setattr(f"gogoscope.circuit_breakers.{module}.clock_here", lambda: self)

    def wall(self) -> float:
        return self.now

    def elapsed(self) -> float:
        return self.now


class ObservedStore(MemoryStore):
    """Counts its requests by name; ``fault`` is awaited before each, and may fail or hang."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.requests: list[str] = []
        self.fault: Callable[[], Any] | None = None

    async def _observe(self, name: str) -> None:
        self.requests.append(name)
        if self.fault is not None:
            await self.fault()

    async def get_state(self, key: str) -> CircuitBreakerState | None:
        await self._observe("get_state")
        return await super().get_state(key)

    async def count_failures(self, key: str, report: Any) -> CircuitBreakerState:
        await self._observe("count_failures")
        return await super().count_failures(key, report)

    async def claim_probe(
        self, key: str, nonce: str, lease_ms: int, limit: int, seen: Any = None
    ) -> Any:
        await self._observe("claim_probe")
        return await super().claim_probe(key, nonce, lease_ms, limit, seen)

    async def settle_probe(self, key: str, nonce: str, **options: Any) -> Any:
        await self._observe("settle_probe")
        return await super().settle_probe(key, nonce, **options)

    async def return_probe(self, key: str, nonce: str) -> None:
        await self._observe("return_probe")
        await super().return_probe(key, nonce)

    async def reset_failures(self, key: str, version: int) -> Any:
        await self._observe("reset_failures")
        return await super().reset_failures(key, version)


async def down() -> None:
    raise StoreConnectionError("the store is down")


async def hangs() -> None:
    await anyio.sleep_forever()


class Service:
    """What the breaker protects: fails while ``error`` is set; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.calls += 1
        await anyio.sleep(0)
        if self.error is not None:
            raise self.error
        return "fine"


BREAKER = CircuitBreaker("payments", failure_threshold=3, reset_timeout=30)


async def break_it(store: ObservedStore, breaker: CircuitBreaker = BREAKER) -> None:
    service = Service()
    service.error = OSError("broken")
    async with scope(persistence=store, circuit_breaker=breaker) as s:
        for _ in range(breaker.failure_threshold):
            _ = (await s.task(service)).error
    state = await store.get_state("payments")
    assert state is not None
    assert state.state == "open"
