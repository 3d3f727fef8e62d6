"""Telling that a holder is dead, by one's own clock alone."""

from __future__ import annotations

import anyio
import pytest
from attrs import evolve

from gogoscope.persistence.lock_records import LockRecord
from gogoscope.persistence.lock_watching import RESERVATION_SECONDS, Watched
from gogoscope.testing import VirtualClock
from tests.support.backends import BOTH, Backend

HELD = LockRecord(version=2, fencing_token=2, owner="o", nonce="n", lease_ms=5000)
RESERVED = LockRecord(version=2, fencing_token=2, next_turn="other", next_until_ms=99)


@BOTH
def test_a_holder_is_dead_once_it_was_seen_unchanged_for_its_lease(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        watched = Watched()
        watched.look(HELD)
        await anyio.sleep(4.9)
        watched.look(HELD)
        assert watched.dead("mine") is None
        await anyio.sleep(0.2)
        assert watched.dead("mine") == HELD

    virtual_clock.run(program, backend=backend)


@BOTH
def test_a_holder_that_renewed_is_watched_for_another_lease(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        watched = Watched()
        watched.look(HELD)
        await anyio.sleep(4.9)
        watched.look(evolve(HELD, version=3))
        await anyio.sleep(4.9)
        assert watched.dead("mine") is None

    virtual_clock.run(program, backend=backend)


@BOTH
def test_a_reservation_is_dead_once_it_was_seen_unchanged_for_as_long_as_one_lasts(
    virtual_clock: VirtualClock, backend: Backend
) -> None:
    async def program() -> None:
        watched = Watched()
        watched.look(RESERVED)
        assert watched.dead("mine") is None
        await anyio.sleep(RESERVATION_SECONDS + 0.01)
        assert watched.dead("mine") == RESERVED
        watched.look(evolve(RESERVED, next_until_ms=100))
        assert watched.dead("mine") is None

    virtual_clock.run(program, backend=backend)


@BOTH
@pytest.mark.parametrize(
    "record", [None, evolve(RESERVED, next_turn=None), evolve(RESERVED, next_turn="mine")]
)
def test_a_free_lock_and_an_own_reservation_are_never_dead(
    virtual_clock: VirtualClock, backend: Backend, record: LockRecord | None
) -> None:
    async def program() -> None:
        watched = Watched()
        watched.look(record)
        await anyio.sleep(3600)
        assert watched.dead("mine") is None

    virtual_clock.run(program, backend=backend)
