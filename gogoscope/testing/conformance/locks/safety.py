"""Rules of safety for locks: bad input, cancellation, and processes that race."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from gogoscope.exceptions import StoreTimeoutError
from gogoscope.persistence.lock_handle import LockHandle
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere
from gogoscope.testing.conformance.races import race
from gogoscope.testing.conformance.samples import BAD_DURATIONS, BAD_KEYS, ODD_KEYS

Call = Callable[[LockProvider, Any], Awaitable[object]]

TAKING_A_KEY: dict[str, Call] = {
    "acquire": lambda store, key: store.acquire(key, 30),
    "extend": lambda store, key: store.extend(key, 30, "me"),
    "force_release": lambda store, key: store.force_release(key),
    "holder": lambda store, key: store.holder(key),
    "claim_lock": lambda store, key: store.claim_lock(key, LockClaim("n", "me", 30_000)),
    "hand_over_lock": lambda store, key: store.hand_over_lock(
        key, "n", LockClaim("m", "me", 30_000)
    ),
    "reserve_lock": lambda store, key: store.reserve_lock(key, "t", 1_000),
    "renew_lock": lambda store, key: store.renew_lock(key, "n", 1, 30_000, 30_000),
    "release_lock": lambda store, key: store.release_lock(key, "n", in_time=True),
    "read_lock": lambda store, key: store.read_lock(key),
}

CHANGES: dict[str, Callable[[LockProvider, str, int], Awaitable[object]]] = {
    "extend": lambda store, key, version: store.extend(key, timedelta(hours=2), "me"),
    "force_release": lambda store, key, version: store.force_release(key),
    "release_lock": lambda store, key, version: store.release_lock(key, "n1", in_time=True),
    "renew_lock": lambda store, key, version: store.renew_lock(
        key, "n1", version, 7_200_000, 1_900_000_000_000
    ),
    "hand_over_lock": lambda store, key, version: store.hand_over_lock(
        key, "n1", LockClaim("n2", "you", 7_200_000)
    ),
    "reserve_lock": lambda store, key, version: store.reserve_lock(key, "t2", 60_000),
}


async def _outline(store: LockProvider, key: str) -> object:
    lock = await store.read_lock(key)
    return lock and (lock.nonce, lock.owner, lock.lease_ms, lock.lease_until_ms, lock.next_turn)


async def _taken(store: LockProvider, key: str) -> int:
    reply = await store.claim_lock(key, LockClaim("n1", "me", 3_600_000))
    assert reply.record is not None
    return reply.record.version


async def _acquired_in_real_time(store: LockProvider, lease: float) -> tuple[float, float]:
    """Take the lock ``job`` as soon as it is free; return when that was asked, and answered.

    A busy machine may be too slow to answer within the part of a lease that a store allows.
    """
    while True:
        asked = anyio.current_time()
        with suppress(StoreTimeoutError):
            if await store.acquire("job", lease) is not None:
                return asked, anyio.current_time()
        await anyio.sleep(0.005)


class LockSafetyRules(Conformance):
    """What a ``LockProvider`` keeps to under bad input, cancellation and races."""

    async def test_every_method_of_locks_refuses_a_bad_key(self, store: LockProvider) -> None:
        for name, call in TAKING_A_KEY.items():
            for key, error, message in BAD_KEYS:
                with pytest.raises(error, match=message):
                    await call(store, key)
                    pytest.fail(f"{name} took the key {key!r}")

    @pytest.mark.parametrize(("ttl", "error"), BAD_DURATIONS)
    async def test_a_bad_lease_is_refused(
        self, store: LockProvider, ttl: Any, error: type[Exception]
    ) -> None:
        with pytest.raises(error, match="ttl must be"):
            await store.acquire("k", ttl)
        with pytest.raises(error, match="ttl must be"):
            await store.extend("k", ttl, "me")
        assert await store.read_lock("k") is None

    async def test_a_lease_lasts_12_hours_at_most(self, store: LockProvider) -> None:
        with pytest.raises(ValueError, match="ttl must be at most 43200 seconds, got 43201"):
            await store.acquire("k", timedelta(seconds=43_201))
        assert await store.read_lock("k") is None
        assert await store.acquire("k", timedelta(hours=12)) is not None

    @pytest.mark.parametrize("ttl", [3_601, 3_600.001, 30_000])
    async def test_a_lease_of_more_than_an_hour_is_a_timedelta(
        self, store: LockProvider, ttl: float
    ) -> None:
        handle = await store.acquire("held", 3_600, "me")
        assert handle is not None
        for take in (
            store.acquire("k", ttl),
            store.extend("held", ttl, "me"),
            handle.extend(ttl),
        ):
            with pytest.raises(ValueError, match=r"not milliseconds.*as a timedelta"):
                await take
        assert await store.read_lock("k") is None
        assert await handle.extend(timedelta(seconds=ttl))

    @pytest.mark.parametrize("owner", ["", 7])
    async def test_a_bad_owner_is_refused(self, store: LockProvider, owner: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="owner must"):
            await store.acquire("k", 30, owner)
        with pytest.raises((TypeError, ValueError), match="owner must"):
            await store.extend("k", 30, owner)
        assert await store.read_lock("k") is None

    @pytest.mark.parametrize("key", ODD_KEYS, ids=ascii)
    async def test_any_text_may_be_the_key_of_a_lock(self, store: LockProvider, key: str) -> None:
        handle = await store.acquire(key, 30)
        assert handle is not None
        assert await store.acquire(key, 30) is None
        assert await store.acquire("plain", 30) is not None
        assert await handle.release() is True
        assert await store.acquire(key, 30) is not None

    @pytest.mark.usefixtures("atomic")
    async def test_a_cancelled_acquire_holds_no_lock(self, store: LockProvider) -> None:
        async def attempt_at(n: int) -> CancelledAt:
            key = f"job {n}"
            attempt = CancelledAt(store.acquire(key, 3600), n)
            await attempt.run()
            if attempt.ended:
                assert isinstance(attempt.result, LockHandle)
                assert await attempt.result.is_valid()
            else:
                assert await store.holder(key) is None
                assert await store.acquire(key, 30) is not None
            return attempt

        await cancel_everywhere(attempt_at)

    async def test_a_cancelled_release_leaves_the_lock_held_or_free(
        self, store: LockProvider
    ) -> None:
        async def attempt_at(n: int) -> CancelledAt:
            key = f"job {n}"
            handle = await store.acquire(key, 3600)
            assert handle is not None
            attempt = CancelledAt(handle.release(), n)
            await attempt.run()
            if attempt.ended:
                assert attempt.result is True
            await handle.release()
            assert await store.holder(key) is None
            return attempt

        await cancel_everywhere(attempt_at)

    async def test_leaving_the_block_of_a_handle_frees_it_though_cancelled(
        self, store: LockProvider
    ) -> None:
        async def attempt_at(n: int) -> CancelledAt:
            key = f"job {n}"
            handle = await store.acquire(key, 3600)
            assert handle is not None

            async def block() -> None:
                async with handle:
                    await anyio.lowlevel.checkpoint()

            attempt = CancelledAt(block(), n)
            await attempt.run()
            assert await store.holder(key) is None
            return attempt

        await cancel_everywhere(attempt_at)

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_change_of_a_lock_leaves_those_beside_it_alone(
        self, beside: tuple[LockProvider, list[tuple[LockProvider, str]]], name: str
    ) -> None:
        store, others = beside
        await CHANGES[name](store, "as it should", await _taken(store, "as it should"))
        expected = await _outline(store, "as it should")
        for other, key in others:
            await _taken(other, key)
        before = [await _outline(other, key) for other, key in others]
        await CHANGES[name](store, "k", await _taken(store, "k"))
        assert await _outline(store, "k") == expected
        assert [await _outline(other, key) for other, key in others] == before

    async def test_the_holder_is_that_of_the_lock_and_of_none_beside_it(
        self, beside: tuple[LockProvider, list[tuple[LockProvider, str]]]
    ) -> None:
        store, others = beside
        for other, key in others:
            assert await other.acquire(key, 30, "another") is not None
        assert await store.holder("k") is None
        assert await store.acquire("k", 30, "me") is not None
        holder = await store.holder("k")
        assert holder is not None
        assert holder.owner == "me"

    @pytest.mark.parametrize("name", CHANGES)
    async def test_a_cancelled_change_of_a_lock_is_whole_or_not_there(
        self, store: LockProvider, clock: ManualClock, name: str
    ) -> None:
        version = await _taken(store, "changed")
        before = await _outline(store, "changed")
        await CHANGES[name](store, "changed", version)
        after = await _outline(store, "changed")
        assert after != before

        async def attempt_at(n: int) -> CancelledAt:
            key = f"k{n}"
            attempt = CancelledAt(CHANGES[name](store, key, await _taken(store, key)), n)
            await attempt.run()
            allowed = [after] if attempt.ended else [before, after]
            assert await _outline(store, key) in allowed
            return attempt

        await cancel_everywhere(attempt_at)

    @pytest.mark.parametrize("name", ["holder", "read_lock"])
    async def test_locks_still_work_after_a_cancelled_read(
        self, store: LockProvider, name: str
    ) -> None:
        await _taken(store, "k")
        expected = await TAKING_A_KEY[name](store, "k")

        async def attempt_at(n: int) -> CancelledAt:
            attempt = CancelledAt(TAKING_A_KEY[name](store, "k"), n)
            await attempt.run()
            assert await TAKING_A_KEY[name](store, "k") == expected
            return attempt

        await cancel_everywhere(attempt_at)

    @pytest.mark.parametrize("name", TAKING_A_KEY)
    async def test_cancelling_a_method_of_locks_raises_nothing_else(
        self, store: LockProvider, name: str
    ) -> None:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await TAKING_A_KEY[name](store, "k")
            await anyio.lowlevel.checkpoint()
        assert cancelled.cancelled_caught

    async def test_a_lock_is_taken_over_never_before_its_time_and_always_after_it(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as first, open_store() as second:
            with anyio.fail_after(30):
                began, _ = await _acquired_in_real_time(first, 1)
                _, taken_over = await _acquired_in_real_time(second, 1)
            assert taken_over - began >= 0.999

    @pytest.mark.usefixtures("atomic")
    def test_of_concurrent_claims_of_3_processes_one_wins_each_lock(self, shared_url: str) -> None:
        results = race(shared_url, 3, "acquire_each", 30, 4)
        for number in range(30):
            winners = [token for won in results for token in won.get(f"lock:{number}", [])]
            assert len(winners) == 1

    @pytest.mark.usefixtures("atomic")
    def test_holders_of_3_processes_never_overlap_and_their_tokens_grow(
        self, shared_url: str, tmp_path: Path
    ) -> None:
        counter = tmp_path / "counter-guarded-by-the-lock"
        counter.write_text("0")
        results = race(shared_url, 3, "take_turns", "job", 25, counter)
        turns = sorted((token, count) for turns in results for token, count in turns)
        assert [count for _, count in turns] == list(range(75))
        assert len({token for token, _ in turns}) == 75
