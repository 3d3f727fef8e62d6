"""A memory store to which faults happen, and a service behind a circuit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from gogoscope import Scope, StoreConnectionError, ThrottledError
from gogoscope.persistence.records.place import Kind, Record
from gogoscope.stores.memory import MemoryStore

ADDED_SECONDS = 0.005

Fault = Callable[[], Awaitable[None]]


async def unreachable() -> None:
    raise StoreConnectionError("nobody listens")


async def slow() -> None:
    await anyio.sleep(10)


async def far_away() -> None:
    await anyio.sleep(0.03)


async def throttled() -> None:
    await anyio.sleep(0.3)
    raise ThrottledError("too much")


async def fine() -> None:
    return


class FaultyStore(MemoryStore):
    """A memory store that takes 2 ms, or has a fault."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Fault = fine
        self.requests = 0
        records: Any = self._records
        self.read, self.transact = records.read, records.transact
        records.read, records.transact = self._read, self._transact

    async def _read(self, kind: Kind[Record], key: str) -> Record | None:
        await self._request()
        found: Record | None = await self.read(kind, key)
        return found

    async def _transact(self, *arguments: Any) -> Any:
        await self._request()
        return await self.transact(*arguments)

    async def _request(self) -> None:
        self.requests += 1
        await self.fault()
        await anyio.sleep(0.002)


class Service:
    """Takes 10 ms; fails if ``error`` is set."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.calls += 1
        await anyio.sleep(0.01)
        if self.error is not None:
            raise self.error
        return "fine"


async def promptly(s: Scope, service: Service) -> Exception | None:
    """Call through the circuit; return the error, and check that the circuit took no time."""
    began, calls = anyio.current_time(), service.calls
    err, _ = await s.task(service)
    bare = 0.01 if service.calls > calls else 0.0
    assert anyio.current_time() - began <= bare + ADDED_SECONDS
    return err
