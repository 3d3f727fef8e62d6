"""A memory store that counts its requests for runs, loses answers, and lets processes die."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio

from gogoscope.exceptions import PersistenceError, StoreTimeoutError
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing.conformance import ManualClock


class RunStore(MemoryStore):
    """Counts the calls that would be requests; ``failures`` and ``lose_answers`` go by their name.

    :param clock: its clock, which stands still until a test moves it
    """

    def __init__(self, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        super().__init__(clock=self.clock)
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, list[PersistenceError]] = {}
        self.lose_answers: Counter[str] = Counter()

    async def claim_run(self, *args: Any, **options: Any) -> Any:
        return await self._request("claim", super().claim_run(*args, **options))

    async def renew_run(self, *args: Any, **options: Any) -> Any:
        return await self._request("renew", super().renew_run(*args, **options))

    async def complete_run(self, *args: Any, **options: Any) -> Any:
        return await self._request("complete", super().complete_run(*args, **options))

    async def _request(self, name: str, work: Any) -> Any:
        self.calls[name] += 1
        try:
            await anyio.sleep(0)
        except BaseException:
            work.close()  # it is not sent any more
            raise
        if self.failures.get(name):
            work.close()
            raise self.failures[name].pop()
        answer = await work
        if self.lose_answers[name]:
            self.lose_answers[name] -= 1
            raise StoreTimeoutError("the answer was lost")
        return answer

    async def die_running(self, key: str, lease: float, after_crash: Any = "run") -> None:
        """Leave a run as a process does that was killed."""
        claim = LockClaim(nonce="dead", owner="dead", lease_ms=int(lease * 1000))
        reply = await super().claim_run(key, claim, after_crash=after_crash)
        assert reply.granted

    async def take_over(self, key: str, value: Any) -> None:
        """Let the lease of a run be over, and another process run and complete."""
        self.clock.now += 3600
        claim = LockClaim(nonce="next", owner="next", lease_ms=60_000)
        reply = await super().claim_run(key, claim)
        assert reply.granted
        assert await super().complete_run(key, "next", "done", self.run_outcome(value), 60)


def another_process(store: RunStore) -> RunStore:
    """Return a store on the same records that shares no line, as in another process."""
    other = RunStore(store.clock)
    other._records = store._records
    return other
