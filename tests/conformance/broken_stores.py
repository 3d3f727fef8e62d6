"""Stores that are each wrong in one way; test_kit_finds_what_is_broken runs the kit on them.

Its name keeps pytest from collecting it unless it is named on the command line.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import anyio
import anyio.lowlevel
import pytest
from attrs import evolve

from gogoscope._core.clock import Clock, ClockSteps, current_clock
from gogoscope._core.durations import seconds
from gogoscope.exceptions import PersistenceError
from gogoscope.persistence.life import Life
from gogoscope.persistence.lock_records import LockClaim, LockRecord, LockReply
from gogoscope.persistence.permit_records import PermitClaim, PermitReply
from gogoscope.persistence.protocols.circuit_breakers import CircuitBreakerState, ProbeReply
from gogoscope.persistence.rate_records import RateReply
from gogoscope.persistence.records.cache import CACHE
from gogoscope.persistence.records.locks import LOCKS, RecordLocks
from gogoscope.persistence.records.rate_limits import RATES
from gogoscope.persistence.records.store import AnyStore
from gogoscope.persistence.rules import circuit_breakers as circuit_rules
from gogoscope.persistence.rules import locks as lock_rules
from gogoscope.persistence.schedule_records import TickEnd, Wanted
from gogoscope.stores.memory import MemoryStore
from gogoscope.testing.conformance import (
    CacheConformance,
    CircuitBreakerConformance,
    Conformance,
    LockConformance,
    OpenStore,
    StoreConformance,
    TransactItemsConformance,
)
from gogoscope.testing.conformance.base import ManualClock
from gogoscope.testing.conformance.transactions import Send
from tests.unit.jobs.transacting_store import TransactingStore


def opener(store_type: type[Any]) -> OpenStore:
    """Return what opens stores on one place of their own."""
    stores: list[Any] = []

    @asynccontextmanager
    async def open_store(key_prefix: str = "", clock: Clock = current_clock) -> AsyncIterator[Any]:
        if not stores:
            stores.append(store_type(clock=clock))
        yield stores[0].with_prefix(key_prefix)

    return open_store


class Broken(Conformance):
    """A store in memory, on asyncio alone: what is wrong does not depend on the event loop."""

    works_after_close: ClassVar = True
    store_type: ClassVar[type[Any]] = MemoryStore

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return opener(self.store_type)


class BrokenStore(Broken, StoreConformance):
    pass


class TestNothingWrong(BrokenStore):
    pass


class TestLostUpdate(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801 - overrides the attribute
        async def record_failure(self, key: str, max_failures: int) -> int:
            before = await self.get_state(key) or CircuitBreakerState()
            await anyio.lowlevel.checkpoint()
            count = before.failure_count + 1
            await self.set_state(key, evolve(before, failure_count=count))
            return count


class TestValuesExpireInWholeSeconds(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def set(self, key: str, value: Any, ttl: Any = None, **more: Any) -> bool:
            whole = max(1, int(ttl)) if isinstance(ttl, float) and 0 < ttl < 1e9 else ttl
            return await super().set(key, value, whole, **more)


class TestLeasesInWholeSeconds(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_lock(
            self, key: str, claim: LockClaim, *, seen: LockRecord | None = None
        ) -> LockReply:
            floored = evolve(claim, lease_ms=claim.lease_ms // 1000 * 1000)
            return await super().claim_lock(key, floored, seen=seen)


class TestPrefixLeak(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        def with_prefix(self, key_prefix: str) -> MemoryStore:
            store = super().with_prefix(key_prefix)
            store._key_prefix = store._key_prefix[:-1]
            return store


def below(key_prefix: str, method: str) -> Callable[..., Any]:
    """Return a method of a store as it is with another prefix."""

    async def call(store: MemoryStore, *args: Any) -> Any:
        other = copy.copy(store)
        other._key_prefix = key_prefix
        return await getattr(MemoryStore, method)(other, *args)

    return call


def here_and_above(method: str) -> Callable[..., Any]:
    async def call(store: MemoryStore, *args: Any) -> Any:
        if store._key_prefix:
            await below("", method)(store, *args)
        return await getattr(MemoryStore, method)(store, *args)

    return call


class TestExtendIgnoresThePrefix(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        extend = below("", "extend")


class TestHolderIgnoresThePrefix(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        holder = below("", "holder")


class TestForceReleaseIgnoresThePrefix(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        force_release = here_and_above("force_release")


class TestSettingACircuitIgnoresThePrefix(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        set_state = here_and_above("set_state")


class TestSuccessIgnoresThePrefix(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        record_success = here_and_above("record_success")


class TestDeleteTakesWhatIsBelow(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def delete(self, key: str) -> bool:
            found = await super().delete(key)
            await self._records.clear(CACHE, f"{self._full_key(key)}:")
            return found


class TestDeleteManyTakesWhatStartsAlike(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def delete_many(self, keys: Iterable[str]) -> None:
            keys = keys if isinstance(keys, str) else list(keys)
            await super().delete_many(keys)
            for key in keys:
                await self._records.clear(CACHE, self._full_key(key))


class TestTokenReuse(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
            def forget(record: LockRecord | None, now_ms: int) -> tuple[LockRecord | None, bool]:
                return (None, True) if record and record.nonce == nonce else (record, False)

            return await self._records.transact(LOCKS, self._full_key(key), forget)


class TestALockThatWasTakenBackIsTakenLate(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
            return await super().release_lock(key, nonce, in_time=False)


class TestSwallowedCancellation(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def set(self, *args: Any, **options: Any) -> bool:
            try:
                await anyio.lowlevel.checkpoint()
            except anyio.get_cancelled_exc_class():
                return False
            return await super().set(*args, **options)


class TestCancellationBecomesAnError(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def get_state(self, key: str) -> CircuitBreakerState | None:
            try:
                await anyio.lowlevel.checkpoint()
            except BaseException as error:
                raise PersistenceError("the store failed") from error
            return await super().get_state(key)


class TestHalfOpenLetsTwoThrough(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_probe(
            self, key: str, nonce: str, lease_ms: int, limit: int, seen: Any = None
        ) -> Any:
            return await super().claim_probe(key, nonce, lease_ms, limit + 1, seen)


class TestClearTouchesLocks(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def clear(self) -> None:
            await super().clear()
            await self._records.clear(LOCKS, self._key_prefix)


class TestOldValuesAreGiven(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def get(self, key: str, default: Any = None) -> Any:
            entry = await self.get_entry(key, stale=True)
            return default if entry is None else entry.value


class TestNoneIsMissing(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def get(self, key: str, default: Any = None) -> Any:
            value = await super().get(key)
            return default if value is None else value


class TestTupleIsAccepted(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        def __init__(self, **options: Any) -> None:
            codec: Any = SimpleNamespace(dumps=json.dumps, loads=json.loads)
            super().__init__(codec=codec, **options)


class TestValuesAreShared(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        def __init__(self, **options: Any) -> None:
            codec: Any = SimpleNamespace(dumps=lambda value: value, loads=lambda value: value)
            super().__init__(codec=codec, **options)


class TestReleaseFreesAnothersLock(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def release_lock(self, key: str, nonce: str, *, in_time: bool) -> bool:
            return await self.force_release(key)


class TestRenewalIgnoresTheVersion(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def renew_lock(
            self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
        ) -> LockReply:
            record = await self.read_lock(key)
            version = record.version if record else version
            return await super().renew_lock(key, nonce, version, lease_ms, until_ms)


class TestAnOwnerShortensTheLease(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def extend(self, key: str, ttl: Any, owner: str) -> bool:
            extended = await super().extend(key, ttl, owner)
            record = await self.read_lock(key)
            if extended and record and record.nonce:
                lease_ms = round(seconds("ttl", ttl) * 1000)
                until_ms = self._records.now_ms() + lease_ms
                await self.renew_lock(key, record.nonce, record.version, lease_ms, until_ms)
            return extended


class TestReservationIsIgnored(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_lock(self, key: str, claim: LockClaim, **more: Any) -> LockReply:
            record = await self.read_lock(key)
            turn = record.next_turn if record else claim.turn
            return await super().claim_lock(key, evolve(claim, turn=turn), **more)


class TestKeysArePagedShort(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def keys(self, pattern: str | None = None) -> list[str]:
            return (await super().keys(pattern))[:1000]


class TestLateSuccessCloses(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def record_success(self, key: str) -> None:
            def close(
                state: CircuitBreakerState | None, now_ms: int
            ) -> tuple[CircuitBreakerState | None, None]:
                return (state and circuit_rules.closed(state, now_ms)), None

            await self._change_circuit(key, close)


class TestSettingWhatIsAbsentIsNotAtomic(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def set(self, key: str, value: Any, ttl: Any = None, **more: Any) -> bool:
            if more.get("if_absent") and await self.has(key):
                return False
            await anyio.lowlevel.checkpoint()
            return await super().set(key, value, ttl)


class TestVersionsStandStill(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def get_state(self, key: str) -> CircuitBreakerState | None:
            state = await super().get_state(key)
            return state and evolve(state, version=1)


class ByWallClock(MemoryStore):
    """A store whose leases count by a wall clock, with nothing wrong in it."""

    def __init__(self, *, clock: Clock = current_clock) -> None:
        super().__init__(clock=clock)
        records: Any = self._records
        records.steady = lambda: None
        records.clock_was_set = ClockSteps(clock).stepped
        records.clock_was_set()


class TestByWallClock(BrokenStore):
    store_type: ClassVar = ByWallClock


class TestRenewalsTrustTheFirstClock(BrokenStore):
    class store_type(ByWallClock):  # noqa: N801
        async def renew_lock(
            self, key: str, nonce: str, version: int, lease_ms: int, until_ms: int
        ) -> LockReply:
            def renew(
                record: LockRecord | None, now_ms: int
            ) -> tuple[LockRecord | None, LockReply]:
                renewed, reply = lock_rules.renew(
                    record, now_ms, nonce, version, lease_ms, until_ms
                )
                if renewed is None or not reply.granted:
                    return renewed, reply
                renewed = evolve(renewed, lease_until_ms=until_ms)
                return renewed, evolve(reply, record=renewed)

            return await self._records.transact(LOCKS, self._full_key(key), renew)


class TestAHolderKnowsNoClock(BrokenStore):
    class store_type(ByWallClock):  # noqa: N801
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            records: Any = self._records
            records.clock_was_set = lambda: False

        def lease_left_ms(self, record: LockRecord) -> int:
            return record.lease_ms


class TestAClockThatWasSetIsTrusted(BrokenStore):
    class store_type(ByWallClock):  # noqa: N801
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            records: Any = self._records
            records.clock_was_set = lambda: False


class TestWhatWasSeenOfACircuitIsIgnored(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_probe(
            self, key: str, nonce: str, lease_ms: int, limit: int, seen: Any = None
        ) -> Any:
            return await super().claim_probe(key, nonce, lease_ms, limit)


class TestAProbeIsNotRenewed(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_probe(
            self, key: str, nonce: str, lease_ms: int, limit: int, seen: Any = None
        ) -> Any:
            state = await self.get_state(key)
            if state is not None and nonce in state.probes:
                return ProbeReply(granted=True, state=state)
            return await super().claim_probe(key, nonce, lease_ms, limit, seen)


class TestALostProbeComesBack(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_probe(
            self, key: str, nonce: str, lease_ms: int, limit: int, seen: Any = None
        ) -> Any:
            return await super().claim_probe(key, nonce, lease_ms, limit or 2, seen)


class TestAClockThatIsSetBackKeepsACircuitOpen(BrokenStore):
    class store_type(ByWallClock):  # noqa: N801
        async def claim_probe(
            self, key: str, nonce: str, lease_ms: int, limit: int, seen: Any = None
        ) -> Any:
            state = await self.get_state(key)
            if state is not None and (state.open_until_ms or 0) > self._records.now_ms():
                return ProbeReply(granted=False, state=state)
            return await super().claim_probe(key, nonce, lease_ms, limit, seen)


class WithALife(MemoryStore):
    """A store that must be open, with nothing wrong in it."""

    def __init__(self, *, clock: Clock = current_clock) -> None:
        super().__init__(clock=clock)
        self._life = Life("a store")

    def with_prefix(self, key_prefix: str) -> Any:
        store: Any = super().with_prefix(key_prefix)
        store._life = Life("a store")
        return store

    async def __aenter__(self) -> Any:
        self._life.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._life.may_close():
            self._life.end()

    async def ping(self) -> None:
        self._life.check()

    async def get(self, key: str, default: Any = None) -> Any:
        self._life.check()
        return await super().get(key, default)

    async def get_state(self, key: str) -> CircuitBreakerState | None:
        self._life.check()
        return await super().get_state(key)

    async def read_lock(self, key: str) -> LockRecord | None:
        self._life.check()
        return await super().read_lock(key)

    async def read_run(self, key: str) -> Any:
        self._life.check()
        return await super().read_run(key)

    async def read_schedule(self, name: str) -> Any:
        self._life.check()
        return await super().read_schedule(name)

    async def read_job(self, key: str) -> Any:
        self._life.check()
        return await super().read_job(key)

    async def read_rate(self, name: str) -> Any:
        self._life.check()
        return await super().read_rate(name)

    async def read_permits(self, kind: Any, key: str) -> Any:
        self._life.check()
        return await super().read_permits(kind, key)


class BrokenLife(BrokenStore):
    works_after_close: ClassVar = False
    store_type: ClassVar = WithALife

    @pytest.fixture
    def open_store(self) -> OpenStore:
        stores: list[Any] = []

        def open_store(key_prefix: str = "", clock: Clock = current_clock) -> Any:
            if not stores:
                stores.append(self.store_type(clock=clock))
            return stores[0].with_prefix(key_prefix)

        return open_store


class TestWithALife(BrokenLife):
    pass


class TestClosingTwiceFails(BrokenLife):
    class store_type(WithALife):  # noqa: N801
        async def aclose(self) -> None:
            self._life.check()
            self._life.end()


class TestEveryEventLoopMayUseIt(BrokenLife):
    class store_type(WithALife):  # noqa: N801
        async def get(self, key: str, default: Any = None) -> Any:
            if not self._life.open:
                self._life.check()
            return await MemoryStore.get(self, key, default)


class TestClosesItsNeighbours(BrokenLife):
    class store_type(WithALife):  # noqa: N801
        opened: ClassVar[list[Any]] = []

        async def __aenter__(self) -> Any:
            self.opened.append(self)
            return await super().__aenter__()

        async def aclose(self) -> None:
            for store in self.opened:
                store._life.end()
            self.opened.clear()


class TestAZombieCompletesItsRun(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def complete_run(
            self, key: str, nonce: str, state: Any, outcome: Any, keep: Any
        ) -> bool:
            record = await self.read_run(key)
            holder = nonce if record is None else record.lease.nonce or nonce
            return await super().complete_run(key, holder, state, outcome, keep)


class TestAZombieAbandonsTheRunOfAnother(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def abandon_run(self, key: str, nonce: str) -> bool:
            record = await self.read_run(key)
            running = record is not None and record.state == "running"
            await super().abandon_run(key, record.lease.nonce or "" if record else "")
            return running


class TestARunThatWasTakenBackBeginsLate(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def abandon_run(self, key: str, nonce: str) -> bool:
            record = await self.read_run(key)
            if record is None or record.lease.nonce != nonce:
                return False
            return await super().abandon_run(key, nonce)


class TestAnotherPayloadIsAccepted(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_run(self, key: str, claim: LockClaim, **options: Any) -> Any:
            options["payload"] = None
            return await super().claim_run(key, claim, **options)


class TestACrashedRunIsRepeatedUnasked(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_run(self, key: str, claim: LockClaim, **options: Any) -> Any:
            options["after_crash"] = "run"
            return await super().claim_run(key, claim, **options)


class TestVerdictsAreForgottenInWholeSeconds(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def complete_run(
            self, key: str, nonce: str, state: Any, outcome: Any, keep: Any
        ) -> bool:
            kept = None if keep is None else seconds("keep", keep) + 1
            return await super().complete_run(key, nonce, state, outcome, kept)


class TestARunIsBegunTwice(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_run(self, key: str, claim: LockClaim, **options: Any) -> Any:
            free = await self.read_run(key) is None
            await anyio.lowlevel.checkpoint()
            reply = await super().claim_run(key, claim, **options)
            return evolve(reply, granted=reply.granted or free)


class TestATickIsStartedTwice(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_tick(
            self, name: str, claim: LockClaim, wanted: Wanted, **options: Any
        ) -> Any:
            record = await self.read_schedule(name)
            free = record is not None and record.state == "new"
            await anyio.lowlevel.checkpoint()
            reply = await super().claim_tick(name, claim, wanted, **options)
            return evolve(reply, granted=reply.granted or (free and wanted.kind == "tick"))


class TestATickIsStartedEarly(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_tick(
            self, name: str, claim: LockClaim, wanted: Wanted, **options: Any
        ) -> Any:
            early = wanted.at_ms - 2 if wanted.at_ms > wanted.after_ms + 2 else wanted.at_ms
            asked = evolve(wanted, at_ms=early) if wanted.kind == "tick" else wanted
            return await super().claim_tick(name, claim, asked, **options)


class TestAZombieEndsATick(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def end_tick(
            self, name: str, nonce: str, how: TickEnd, error: str | None = None
        ) -> bool:
            record = await self.read_schedule(name)
            holder = nonce if record is None else record.lease.nonce or nonce
            return await super().end_tick(name, holder, how, error)


class TestATickThatWasTakenBackBeginsLate(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def end_tick(
            self, name: str, nonce: str, how: TickEnd, error: str | None = None
        ) -> bool:
            record = await self.read_schedule(name)
            if how == "unbegun" and (record is None or record.lease.nonce != nonce):
                return False
            return await super().end_tick(name, nonce, how, error)


class TestADeadTickIsForgotten(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_tick(
            self, name: str, claim: LockClaim, wanted: Wanted, **options: Any
        ) -> Any:
            asked = evolve(wanted, retries=0) if wanted.kind == "tick" else wanted
            return await super().claim_tick(name, claim, asked, **options)


class TestATickIsStartedAgainForEver(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_tick(
            self, name: str, claim: LockClaim, wanted: Wanted, **options: Any
        ) -> Any:
            asked = evolve(wanted, retries=99) if wanted.kind == "again" else wanted
            return await super().claim_tick(name, claim, asked, **options)


class TestPausingIsIgnored(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def pause_schedule(self, name: str) -> bool:
            return await self.read_schedule(name) is not None


class TestASaveOutOfSequenceIsAccepted(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def save_job(
            self, key: str, nonce: str, version: int, *rest: Any, **options: Any
        ) -> Any:
            record = await self.read_job(key)
            if record is not None and record.lease.nonce == nonce:
                version = record.lease.version
            return await super().save_job(key, nonce, version, *rest, **options)


class TestASaveDoesNotRenew(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def save_job(
            self,
            key: str,
            nonce: str,
            version: int,
            lease_ms: int,
            until_ms: int,
            state: Any,
            job_version: int,
            **options: Any,
        ) -> Any:
            record = await self.read_job(key)
            left = 1 if record is None else max(1, self.job_left_ms(record.lease))
            return await super().save_job(
                key, nonce, version, left, 0, state, job_version, **options
            )


class TestASaveForgetsHowFarTheJobHadCome(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def save_job(
            self, *args: Any, done: Any = None, total: Any = None, **options: Any
        ) -> Any:
            return await super().save_job(*args, done=done or 0, total=total, **options)


class TestAJobThatWasTakenBackIsTakenLate(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def release_job(self, key: str, nonce: str) -> bool:
            record = await self.read_job(key)
            if record is None or record.lease.nonce != nonce:
                return False
            return await super().release_job(key, nonce)


class TestAZombieFinishesAJob(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def finish_job(self, key: str, nonce: str, keep: Any) -> bool:
            record = await self.read_job(key)
            holder = nonce if record is None else record.lease.nonce or nonce
            return await super().finish_job(key, holder, keep)


class TestRestartKeepsTheState(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_job(self, key: str, claim: LockClaim, version: int, **options: Any) -> Any:
            options["restart"] = False
            return await super().claim_job(key, claim, version, **options)


class TestANewerStateIsTaken(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_job(self, key: str, claim: LockClaim, version: int, **options: Any) -> Any:
            return await super().claim_job(key, claim, 1_000, **options)


class TestAnUnfinishedJobIsForgotten(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def release_job(self, key: str, nonce: str) -> bool:
            return await super().finish_job(key, nonce, 3_600)


class TestARefusalCosts(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def reserve_rate(
            self, name: str, cost_us: int, burst_us: int, wait_us: int
        ) -> RateReply:
            reply = await super().reserve_rate(name, cost_us, burst_us, wait_us)
            if not reply.granted:
                await super().reserve_rate(name, cost_us, burst_us, 10**12)
            return reply


class TestAnIdleBucketOverflows(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def reserve_rate(
            self, name: str, cost_us: int, burst_us: int, wait_us: int
        ) -> RateReply:
            return await super().reserve_rate(name, cost_us, 2 * burst_us, wait_us)


class TestWhoWaitsReservesNothing(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def reserve_rate(
            self, name: str, cost_us: int, burst_us: int, wait_us: int
        ) -> RateReply:
            reply = await super().reserve_rate(name, cost_us, burst_us, wait_us)
            if reply.granted and reply.tat_us - reply.now_us > burst_us:
                await super().return_rate(name, reply.tat_us, cost_us)
            return reply


class TestReservingIsNotAtomic(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def reserve_rate(
            self, name: str, cost_us: int, burst_us: int, wait_us: int
        ) -> RateReply:
            key = self._full_key(name)
            before = await self._records.read(RATES, key)
            reply = await super().reserve_rate(name, cost_us, burst_us, wait_us)
            after = await self._records.read(RATES, key)
            await self._records.write_many(RATES, [key], lambda key, now_ms: before)
            await anyio.lowlevel.checkpoint()
            await self._records.write_many(RATES, [key], lambda key, now_ms: after)
            return reply


class TestAPlaceIsReturnedInTheMiddle(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def return_rate(self, name: str, tat_us: int, cost_us: int) -> bool:
            found = await self.read_rate(name)
            return await super().return_rate(name, found.tat_us if found else tat_us, cost_us)


class TestAPauseIsMadeShorter(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def pause_rate(self, name: str, pause_us: int, burst_us: int) -> RateReply:
            await self._records.write_many(RATES, [self._full_key(name)], lambda key, now_ms: None)
            return await super().pause_rate(name, pause_us, burst_us)


class TestAPauseIsNotShown(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def read_rate(self, name: str) -> RateReply | None:
            found = await super().read_rate(name)
            return None if found is None else evolve(found, until_us=0)


class TestOneMoreThanTheLimit(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_permit(
            self, kind: Any, key: str, claim: PermitClaim, **options: Any
        ) -> Any:
            limit = None if claim.limit is None else claim.limit + 1
            return await super().claim_permit(kind, key, evolve(claim, limit=limit), **options)


class TestAWriterBesideReaders(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_permit(
            self, kind: Any, key: str, claim: PermitClaim, **options: Any
        ) -> Any:
            claim = evolve(claim, takes="one")
            return await super().claim_permit(kind, key, claim, **options)


class TestReadersStarveAWriter(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_permit(
            self, kind: Any, key: str, claim: PermitClaim, **options: Any
        ) -> Any:
            claim = evolve(claim, turn_ms=0)
            return await super().claim_permit(kind, key, claim, **options)


class TestATurnLastsForEver(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_permit(
            self, kind: Any, key: str, claim: PermitClaim, **options: Any
        ) -> Any:
            claim = evolve(claim, turn_ms=1_000 * claim.turn_ms)
            return await super().claim_permit(kind, key, claim, **options)


class TestAPermitThatWasTakenBackIsTakenLate(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def release_permit(self, kind: Any, key: str, nonce: str) -> bool:
            record = await self.read_permits(kind, key)
            if record is None or nonce not in record.holders:
                return False
            return await super().release_permit(kind, key, nonce)


class TestAZombieReleasesThePermitOfAnother(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def release_permit(self, kind: Any, key: str, nonce: str) -> bool:
            record = await self.read_permits(kind, key)
            holders = [] if record is None else list(record.holders)
            held = nonce if nonce in holders or not holders else holders[0]
            return await super().release_permit(kind, key, held)


class TestAHandoverThatIsRefusedFreesNothing(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def hand_over_permit(
            self, kind: Any, key: str, nonce: str, claim: PermitClaim
        ) -> Any:
            record = await self.read_permits(kind, key)
            if record is not None and record.waiting:
                return PermitReply(granted=False, record=record, freed=True)
            return await super().hand_over_permit(kind, key, nonce, claim)


class TestSemaphoresAndReadWriteLocksAreOne(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_permit(
            self, kind: Any, key: str, claim: PermitClaim, **options: Any
        ) -> Any:
            return await super().claim_permit("semaphore", key, claim, **options)


class TestWhoIsWatchedIsNotCompared(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        async def claim_permit(
            self, kind: Any, key: str, claim: PermitClaim, *, dead: Any = None
        ) -> Any:
            if dead:
                await super().force_release_permits(kind, key)
            return await super().claim_permit(kind, key, claim, dead=dead)


class TestUseAfterCloseIsAnAccident(BrokenStore):
    works_after_close: ClassVar = False


class TestOnlyItsOpenerMayCloseIt(BrokenStore):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        open_store = opener(MemoryStore)

        @asynccontextmanager
        async def open_in_a_cancel_scope(
            key_prefix: str = "", clock: Clock = current_clock
        ) -> AsyncIterator[Any]:
            with anyio.CancelScope():
                async with open_store(key_prefix, clock) as store:
                    yield store

        return open_in_a_cancel_scope


class TestLocksAreLackingThoughDeclared(BrokenStore):
    class store_type(MemoryStore):  # noqa: N801
        hand_over_lock: Any = property()


class TestLocksAreThereThoughNotDeclared(Broken, CacheConformance, CircuitBreakerConformance):
    capabilities: ClassVar = frozenset({"cache", "circuit_breakers"})


class TestLocksAreDeclaredButNotTested(Broken, CacheConformance):
    capabilities: ClassVar = frozenset({"cache", "locks"})


class LocksAlone(RecordLocks, AnyStore):
    """Part of a store, with nothing wrong in it."""


class OnlyLocks(LocksAlone):
    """The same, made of a clock."""

    def __init__(self, **options: Any) -> None:
        super().__init__(MemoryStore(**options)._records)

    def with_prefix(self, key_prefix: str) -> LocksAlone:
        return LocksAlone(self._records, key_prefix=key_prefix)


class TestLocksAlone(Broken, LockConformance):
    capabilities: ClassVar = frozenset({"locks"})
    store_type: ClassVar = OnlyLocks


class BrokenTransactions(TransactItemsConformance):
    """Parts of transactions in memory whose conditions lack something."""

    store_type: ClassVar[type[TransactingStore]]

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    def store(self, clock: ManualClock) -> TransactingStore:
        return self.store_type(clock=clock)

    @pytest.fixture
    def send(self, store: TransactingStore) -> Send:
        return store.transact


class TestTheTransactionOfAZombieLands(BrokenTransactions):
    class store_type(TransactingStore):  # noqa: N801
        async def may(self, item: dict[str, Any]) -> bool:
            record = await self.read_run(item["key"])
            return (record is not None and record.state == "running") or await super().may(item)


class TestATransactionUndoesALaterSave(BrokenTransactions):
    class store_type(TransactingStore):  # noqa: N801
        async def may(self, item: dict[str, Any]) -> bool:
            return await super().may({**item, "saves": 2**62} if "saves" in item else item)


class TestPartsHappenOneByOne(BrokenTransactions):
    class store_type(TransactingStore):  # noqa: N801
        async def transact(self, items: list[dict[str, Any]]) -> bool:
            return all([await super(type(self), self).transact([item]) for item in items])
