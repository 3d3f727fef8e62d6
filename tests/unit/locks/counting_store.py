"""A memory store that counts its requests for locks; claims may be slow, handovers may fail."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio

from gogoscope.stores.memory import MemoryStore

LONG = 600


class CountingStore(MemoryStore):
    """Counts the calls that would be requests, and lets a handover fail or take its time.

    ``claims_take`` is how many seconds the answer to a claim is under way. One of more than
    ``most_claims`` fails, since they might not end.
    """

    def __init__(self, *, most_claims: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.most_claims = most_claims
        self.calls: Counter[str] = Counter()
        self.claims_take = 0.0
        self.before_handover: list[Exception] = []
        self.after_handover: list[Exception] = []
        self.gate: anyio.Event | None = None
        self.at_gate = anyio.Event()

    async def claim_lock(self, *args: Any, **options: Any) -> Any:
        self.calls["claim"] += 1
        most = self.most_claims
        assert most is None or self.calls["claim"] <= most, "it asks on and on"
        await anyio.sleep(0)
        reply = await super().claim_lock(*args, **options)
        if self.claims_take:
            await anyio.sleep(self.claims_take)
        return reply

    async def release_lock(self, *args: Any, **options: Any) -> bool:
        self.calls["release"] += 1
        await anyio.sleep(0)
        return await super().release_lock(*args, **options)

    async def reserve_lock(self, *args: Any, **options: Any) -> Any:
        self.calls["reserve"] += 1
        await anyio.sleep(0)
        return await super().reserve_lock(*args, **options)

    async def hand_over_lock(self, *args: Any, **options: Any) -> Any:
        self.calls["hand over"] += 1
        if self.before_handover:
            raise self.before_handover.pop()
        await anyio.sleep(0)
        reply = await super().hand_over_lock(*args, **options)
        if self.gate is not None:
            self.at_gate.set()
            await self.gate.wait()
        if self.after_handover:
            raise self.after_handover.pop()
        return reply


def another_process(store: CountingStore) -> CountingStore:
    """Return a store on the same records that shares no queue, as in another process."""
    other = CountingStore()
    other._records = store._records
    return other


async def settled() -> None:
    for _ in range(20):
        await anyio.sleep(0)
