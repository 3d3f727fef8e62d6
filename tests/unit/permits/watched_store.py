"""A memory store that counts its requests for permits; answers may be late, lost, or errors."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio

from gogoscope.stores.memory import MemoryStore
from gogoscope.testing.conformance import ManualClock

REQUESTS = (
    *("claim_permit", "hand_over_permit", "release_permit", "renew_permit"),
    *("leave_turn", "read_permits"),
)


class WatchedStore(MemoryStore):
    """Counts its requests in ``calls``.

    ``before`` and ``after`` hold, by the name of a method, the errors that its next calls raise
    before or after they have their effect. ``gate`` holds what its next call waits for, after its
    effect. A claim that is one of more than ``most_claims`` fails, since they might not end.
    """

    def __init__(self, *, most_claims: int | None = None) -> None:
        self.most_claims = most_claims
        self.clock = ManualClock()
        super().__init__(clock=self.clock)
        self.calls: Counter[str] = Counter()
        self.before: dict[str, list[Exception]] = {}
        self.after: dict[str, list[Exception]] = {}
        self.gate: dict[str, anyio.Event] = {}
        self.at_gate = anyio.Event()


def _watched(name: str) -> Any:
    async def call(self: WatchedStore, *args: Any, **options: Any) -> Any:
        self.calls[name] += 1
        most = self.most_claims
        assert most is None or self.calls["claim_permit"] <= most, "it asks on and on"
        if self.before.get(name):
            raise self.before[name].pop()
        await anyio.sleep(0)
        answer = await getattr(MemoryStore, name)(self, *args, **options)
        gate = self.gate.pop(name, None)
        if gate is not None:
            self.at_gate.set()
            await gate.wait()
        if self.after.get(name):
            raise self.after[name].pop()
        return answer

    return call


for _name in REQUESTS:
    setattr(WatchedStore, _name, _watched(_name))


def another_process(store: WatchedStore) -> WatchedStore:
    """Return a store on the same records that shares no line, as in another process."""
    other = WatchedStore()
    other.clock = store.clock
    other._records = store._records
    return other


async def settled() -> None:
    for _ in range(30):
        await anyio.sleep(0)
