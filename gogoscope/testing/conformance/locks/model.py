"""Any sequence of calls on a lock is answered as the pure rules say."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from attrs import evolve, frozen

from gogoscope.persistence.lock_records import LockClaim, LockRecord
from gogoscope.persistence.protocols.locks import LockProvider
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.testing.conformance.base import Conformance, ManualClock
from gogoscope.testing.conformance.samples import sampled

LONGEST = 15
EXAMPLES = 50

Calls = list[tuple[Any, ...]]

CORPUS: list[Calls] = [
    [("claim_lock", 10_000), ("claim_again", 10_000), ("claim_lock", 5_000), ("release_lock", 2)],
    [
        ("claim_lock", 5_000),
        ("advance", 5.031),
        ("claim_lock", 20_000),
        ("renew_lock", 2, 5_000, True),
        ("renew_lock", 1, 5_000, False),
        ("renew_lock", 1, 20_000, True),
        ("release_lock", 2),
        ("release_lock", 1),
        ("claim_lock", 5_000),
    ],
    [
        ("claim_lock", 20_000),
        ("claim_seen", 10_000, True),
        ("claim_seen", 10_000, False),
        ("extend", 1, 20_000),
        ("extend", 1, 5_000),
        ("extend", 2, 20_000),
        ("force_release",),
        ("renew_lock", 1, 5_000, True),
        ("claim_lock", 5_000),
    ],
]


def lock_calls(st: Any) -> Any:
    """Return the strategy of all sequences of calls."""
    durations_ms = st.sampled_from([5_000, 10_000, 20_000])
    # A nonce is fresh for each acquisition; 1 stands for the last one, 2 for the one before it.
    ages = st.integers(1, 3)
    call = st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([5.031, 10.031, 25.031])),
        st.tuples(st.just("claim_lock"), durations_ms),
        st.tuples(st.just("claim_again"), durations_ms),
        st.tuples(st.just("claim_seen"), durations_ms, st.booleans()),
        st.tuples(st.just("renew_lock"), ages, durations_ms, st.booleans()),
        st.tuples(st.just("extend"), ages, durations_ms),
        st.tuples(st.just("release_lock"), ages),
        st.tuples(st.just("force_release")),
    )
    return st.lists(call, max_size=LONGEST)


class LockModel:
    """One lock, changed by the rules alone."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.record: LockRecord | None = None

    def claim(self, claim: LockClaim, seen: LockRecord | None) -> bool:
        self.record, reply = lock_rules.claim(self.record, self._now_ms(), claim, seen=seen)
        return reply.granted

    def renew(self, nonce: str, version: int, lease_ms: int) -> bool:
        until_ms = self._now_ms() + lease_ms
        self.record, reply = lock_rules.renew(
            self.record, self._now_ms(), nonce, version, lease_ms, until_ms
        )
        return reply.granted

    def extend(self, owner: str, lease_ms: int) -> bool:
        self.record, done = lock_rules.extend(self.record, self._now_ms(), owner, lease_ms)
        return done

    def release(self, nonce: str) -> bool:
        self.record, done = lock_rules.release(self.record, self._now_ms(), nonce)
        return done

    def force_release(self) -> bool:
        self.record, done = lock_rules.force_release(self.record, self._now_ms())
        return done


class LockComparison:
    """Makes the same calls on a store and on the model, and compares."""

    def __init__(self, store: LockProvider, clock: ManualClock) -> None:
        self._store = store
        self._clock = clock
        self._key = uuid.uuid4().hex
        self._model = LockModel(self._now_ms)
        self._used = [f"n{number}" for number in range(3)]
        self._current = self._earlier = Held()

    def _now_ms(self) -> int:
        return int(self._clock.now * 1000)

    async def call(self, name: str, *args: Any) -> None:
        before = self._current
        await getattr(self, name)(*args)
        after = Held(await self._store.read_lock(self._key), self._model.record)
        after.compare()
        after.compare_with_earlier(before)
        if after.expected is not before.expected:
            self._earlier = before
        self._current = after

    async def advance(self, by: float) -> None:
        self._clock.now += by

    async def claim_lock(self, lease_ms: int) -> None:
        self._used.append(f"n{len(self._used)}")
        await self._claim(lease_ms, Held())

    async def claim_again(self, lease_ms: int) -> None:
        held = self._current.expected
        if held and held.nonce == self._used[-1] and held.lease_until_ms >= self._now_ms():
            await self._claim(lease_ms, Held())

    async def claim_seen(self, lease_ms: int, is_current: bool) -> None:
        seen = self._current if is_current else self._earlier
        if seen.expected is not None:
            self._used.append(f"n{len(self._used)}")
            await self._claim(lease_ms, seen)

    async def _claim(self, lease_ms: int, seen: Held) -> None:
        nonce = self._used[-1]
        claim = LockClaim(nonce, f"owner of {nonce}", lease_ms, {"host": "here"})
        reply = await self._store.claim_lock(self._key, claim, seen=seen.stored)
        assert reply.granted == self._model.claim(claim, seen.expected)
        Held(reply.record, self._model.record).compare()

    async def renew_lock(self, age: int, lease_ms: int, is_current: bool) -> None:
        nonce, held = self._used[-age], self._current
        stale = 0 if is_current else 7
        reply = await self._store.renew_lock(
            self._key,
            nonce,
            (held.stored.version if held.stored else 9) - stale,
            lease_ms,
            self._now_ms() + lease_ms,
        )
        version = (held.expected.version if held.expected else 9) - stale
        assert reply.granted == self._model.renew(nonce, version, lease_ms)
        Held(reply.record, self._model.record).compare()

    async def extend(self, age: int, lease_ms: int) -> None:
        owner = f"owner of {self._used[-age]}"
        extended = await self._store.extend(self._key, lease_ms / 1000, owner)
        assert extended == self._model.extend(owner, lease_ms)

    async def release_lock(self, age: int) -> None:
        nonce = self._used[-age]
        released = await self._store.release_lock(self._key, nonce, in_time=True)
        assert released == self._model.release(nonce)

    async def force_release(self) -> None:
        released = await self._store.force_release(self._key)
        assert released == self._model.force_release()


@frozen
class Held:
    """A lock as a store holds it, and as the model says that it should be."""

    stored: LockRecord | None = None
    expected: LockRecord | None = None

    def compare(self) -> None:
        stored, expected = self.stored, self.expected
        if expected is None or expected.nonce is None:
            # A store may keep more than the version of a free lock, even of one never held.
            assert stored is None or stored.nonce is None
        else:
            assert stored is not None
            # The model counts leases by the wall clock, which nobody sets here.
            assert stored == evolve(
                expected,
                version=stored.version,
                fencing_token=stored.fencing_token,
                timeline=stored.timeline,
                steady_until_ms=stored.steady_until_ms,
            )

    def compare_with_earlier(self, earlier: Held) -> None:
        before, expected_before = earlier.stored, earlier.expected
        if before is None or expected_before is None:
            return
        after, expected = self.stored, self.expected
        assert after is not None
        assert expected is not None
        assert after.version >= before.version
        assert (after.version > before.version) == (expected.version > expected_before.version)
        if expected.nonce not in (None, expected_before.nonce):
            assert after.fencing_token > before.fencing_token
        elif expected.nonce is not None:
            assert after.fencing_token == before.fencing_token


class LockModelRules(Conformance):
    """Compares a store with the rules of ``gogoscope.persistence.rules.locks``."""

    @sampled("calls", CORPUS, lock_calls, EXAMPLES)
    async def test_locks_change_by_the_rules(
        self, store: LockProvider, clock: ManualClock, calls: Calls
    ) -> None:
        comparison = LockComparison(store, clock)
        for name, *args in calls:
            await comparison.call(name, *args)
