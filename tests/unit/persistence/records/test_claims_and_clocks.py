"""A clock that is set while a claim is on its way takes nothing from anybody."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from attrs import evolve

from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.permit_records import PermitClaim
from gogoscope.persistence.records.schedules import SCHEDULES
from gogoscope.persistence.schedule_records import Wanted
from gogoscope.stores import MemoryStore
from gogoscope.testing.conformance import ManualClock

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]

Claim = Callable[[MemoryStore, LockClaim], Awaitable[Any]]


def tick(store: MemoryStore, claim: LockClaim) -> Awaitable[Any]:
    kind: Any = "tick" if claim.nonce == "a" else "again"
    return store.claim_tick("k", claim, Wanted(kind, 2, 1))


CLAIMS: dict[str, Claim] = {
    "a lock": lambda store, claim: store.claim_lock("k", claim),
    "a run": lambda store, claim: store.claim_run("k", claim),
    "a job": lambda store, claim: store.claim_job("k", claim, 1),
    "a permit": lambda store, claim: store.claim_permit("semaphore", "k", PermitClaim(claim, 1)),
    "a tick": tick,
}


@pytest.mark.parametrize("what", CLAIMS)
async def test_what_somebody_holds_is_not_taken_by_a_clock_that_is_set_meanwhile(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, was_set = ManualClock(), False
    store = MemoryStore(clock=clock)
    records: Any = store._records
    monkeypatch.setattr(records, "steady", lambda: None)  # as where machines share a place
    monkeypatch.setattr(records, "clock_was_set", lambda: was_set, raising=False)
    await store.open_schedule("k", "", None)
    await records.transact(
        SCHEDULES, "k", lambda record, now_ms: (evolve(record, after_ms=1), None)
    )
    assert (await CLAIMS[what](store, LockClaim("a", "a", 5000))).granted
    transact = records.transact

    def set_meanwhile(*args: Any) -> Awaitable[Any]:
        nonlocal was_set
        was_set = True
        clock.set_wall(clock.now + 3600)
        return transact(*args)  # type: ignore[no-any-return]

    claim = CLAIMS[what](store, LockClaim("b", "b", 5000))
    monkeypatch.setattr(records, "transact", set_meanwhile)
    assert not (await claim).granted
