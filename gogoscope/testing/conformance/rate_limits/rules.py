"""The kit for rate limits: who may go, and when, and what is returned."""

from __future__ import annotations

from typing import Any, ClassVar

import anyio

from gogoscope import RateLimit, Scope, scope
from gogoscope.persistence.protocols.rate_limits import RateLimitProvider
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateReply
from gogoscope.testing.conformance.base import Conformance, ManualClock, OpenStore
from gogoscope.testing.conformance.cancelling import CancelledAt, cancel_everywhere

MS = 1_000
COST = 100 * MS
BURST = 3 * COST
SECOND = 1_000 * MS


async def ask(
    store: RateLimitProvider, cost_us: int = COST, wait_us: int = 0, name: str = "limit"
) -> RateReply:
    return await store.reserve_rate(name, cost_us, BURST, wait_us)


def wait_of(reply: RateReply) -> int:
    """Return how long the call has to wait for its place, in microseconds."""
    return max(0, reply.tat_us - BURST - reply.now_us)


async def emptied(store: RateLimitProvider, name: str = "limit") -> RateReply:
    """Take all that the bucket holds."""
    reply = await ask(store, BURST, name=name)
    assert reply.granted
    assert wait_of(reply) == 0
    return reply


class RateLimitConformance(Conformance):
    """Every rule of ``RateLimitProvider``: derive a test class from it."""

    capability: ClassVar = "rate_limits"

    @staticmethod
    async def look(store: Any) -> object:
        """Read a limit that nobody has used."""
        return await store.read_rate("k")

    @staticmethod
    async def use(s: Scope) -> None:
        """Use a rate limit through a scope."""
        limit = RateLimit("of a scope", rate=1_000, burst=10)
        async with limit.acquire():
            pass

    async def test_a_full_bucket_admits_its_burst_and_no_more(
        self, store: RateLimitProvider
    ) -> None:
        assert [(await ask(store)).granted for _ in range(5)] == [True] * 3 + [False] * 2

    async def test_a_refusal_shows_when_a_call_may_go_and_costs_nothing(
        self, store: RateLimitProvider
    ) -> None:
        last = await emptied(store)
        for _ in range(3):
            refused = await ask(store)
            assert (refused.granted, refused.tat_us) == (False, last.tat_us)
            assert refused.tat_us + COST - BURST - refused.now_us == COST

    async def test_the_bucket_fills_at_the_rate_to_the_millisecond(
        self, store: RateLimitProvider, clock: ManualClock
    ) -> None:
        await emptied(store)
        clock.now += 0.099
        assert not (await ask(store)).granted
        clock.now += 0.002
        assert (await ask(store)).granted
        assert not (await ask(store)).granted
        clock.now += 0.1
        assert (await ask(store)).granted

    async def test_an_idle_bucket_holds_no_more_than_its_burst(
        self, store: RateLimitProvider, clock: ManualClock
    ) -> None:
        await emptied(store)
        clock.now += 3_600
        assert [(await ask(store)).granted for _ in range(4)] == [True] * 3 + [False]

    async def test_who_waits_has_a_place_after_all_before(self, store: RateLimitProvider) -> None:
        await emptied(store)
        waits = [wait_of(await ask(store, wait_us=SECOND)) for _ in range(4)]
        assert waits == [COST, 2 * COST, 3 * COST, 4 * COST]
        assert not (await ask(store)).granted

    async def test_nobody_waits_for_longer_than_asked(self, store: RateLimitProvider) -> None:
        await emptied(store)
        assert not (await ask(store, wait_us=COST - MS)).granted
        assert (await ask(store, wait_us=COST)).granted
        assert not (await ask(store, wait_us=COST)).granted

    async def test_a_request_may_be_for_more_than_the_bucket_holds(
        self, store: RateLimitProvider
    ) -> None:
        assert not (await ask(store, BURST + COST)).granted
        reply = await ask(store, BURST + COST, wait_us=COST)
        assert reply.granted
        assert wait_of(reply) == COST

    async def test_no_place_is_further_ahead_than_a_day(self, store: RateLimitProvider) -> None:
        await emptied(store)
        for_ever = 10 * LONGEST_WAIT_US
        assert (await ask(store, LONGEST_WAIT_US, wait_us=for_ever)).granted
        assert not (await ask(store, wait_us=for_ever)).granted

    async def test_the_last_place_can_be_returned_once(self, store: RateLimitProvider) -> None:
        before = await emptied(store)
        place = await ask(store, wait_us=SECOND)
        assert await store.return_rate("limit", place.tat_us, COST)
        assert not await store.return_rate("limit", place.tat_us, COST)
        assert (await ask(store)).tat_us == before.tat_us

    async def test_a_part_of_the_last_place_can_be_returned(self, store: RateLimitProvider) -> None:
        place = await emptied(store)
        assert await store.return_rate("limit", place.tat_us, COST)
        assert (await ask(store)).granted
        assert not (await ask(store)).granted

    async def test_a_place_that_others_stand_behind_is_not_returned(
        self, store: RateLimitProvider
    ) -> None:
        await emptied(store)
        first = await ask(store, wait_us=SECOND)
        second = await ask(store, wait_us=SECOND)
        assert not await store.return_rate("limit", first.tat_us, COST)
        assert (await ask(store)).tat_us == second.tat_us

    async def test_nothing_is_returned_to_a_limit_that_nobody_has_used(
        self, store: RateLimitProvider
    ) -> None:
        assert not await store.return_rate("limit", 1, COST)
        assert (await ask(store)).granted

    async def test_nobody_is_admitted_in_a_pause(
        self, store: RateLimitProvider, clock: ManualClock
    ) -> None:
        reply = await store.pause_rate("limit", 5 * SECOND, BURST)
        assert reply.until_us - reply.now_us == 5 * SECOND
        assert not (await ask(store)).granted
        waiting = await ask(store, wait_us=10 * SECOND)
        assert wait_of(waiting) == 5 * SECOND + COST
        clock.now += 4.999
        assert not (await ask(store)).granted

    async def test_after_a_pause_calls_go_at_the_rate(
        self, store: RateLimitProvider, clock: ManualClock
    ) -> None:
        await ask(store)
        await store.pause_rate("limit", 5 * SECOND, BURST)
        clock.now += 5
        assert not (await ask(store)).granted
        clock.now += 0.2
        assert [(await ask(store)).granted for _ in range(3)] == [True, True, False]

    async def test_a_pause_holds_for_those_who_allow_a_larger_burst(
        self, store: RateLimitProvider, clock: ManualClock
    ) -> None:
        await store.pause_rate("limit", 5 * SECOND, COST)
        refused = await ask(store)
        assert (refused.granted, refused.tat_us - refused.until_us) == (False, BURST)
        waiting = await ask(store, wait_us=10 * SECOND)
        assert wait_of(waiting) == 5 * SECOND + COST
        assert wait_of(await ask(store, wait_us=10 * SECOND)) == 5 * SECOND + 2 * COST
        clock.now += 5.001
        assert not (await ask(store)).granted

    async def test_a_pause_is_shown_to_those_who_look_and_to_those_who_ask(
        self, store: RateLimitProvider
    ) -> None:
        assert await store.read_rate("limit") is None
        paused = await store.pause_rate("limit", SECOND, BURST)
        read = await store.read_rate("limit")
        assert read is not None
        assert (read.tat_us, read.until_us) == (paused.tat_us, paused.until_us)
        assert (await ask(store)).until_us == paused.until_us
        assert (await ask(store, wait_us=10 * SECOND)).until_us == paused.until_us

    async def test_a_longer_pause_is_not_made_shorter(self, store: RateLimitProvider) -> None:
        longer = await store.pause_rate("limit", 9 * SECOND, BURST)
        assert (await store.pause_rate("limit", SECOND, BURST)).until_us == longer.until_us
        assert (await ask(store)).tat_us == longer.tat_us

    async def test_nobody_who_waits_already_loses_a_place_after_a_pause(
        self, store: RateLimitProvider
    ) -> None:
        await emptied(store)
        waiting = await ask(store, 20 * COST, wait_us=60 * SECOND)
        assert (await store.pause_rate("limit", SECOND, BURST)).tat_us == waiting.tat_us

    async def test_nothing_is_returned_in_a_pause(
        self, store: RateLimitProvider, clock: ManualClock
    ) -> None:
        await emptied(store)
        waiting = await ask(store, 20 * COST, wait_us=60 * SECOND)
        await store.pause_rate("limit", SECOND, BURST)
        assert not await store.return_rate("limit", waiting.tat_us, 20 * COST)
        clock.now += 1.001
        assert await store.return_rate("limit", waiting.tat_us, COST)

    async def test_a_changed_rate_counts_from_the_next_call_on(
        self, store: RateLimitProvider, clock: ManualClock
    ) -> None:
        await emptied(store)
        clock.now += 0.05
        assert (await store.reserve_rate("limit", COST // 10, BURST, 0)).granted
        assert not (await ask(store)).granted

    async def test_a_clock_that_was_days_ahead_blocks_nobody(self, open_store: OpenStore) -> None:
        right = ManualClock()
        wrong = ManualClock(right.now + 10 * 86_400)
        wrong.now += 10 * 86_400  # the steady clock is as far ahead, where it counts
        async with open_store(clock=wrong) as ahead, open_store(clock=right) as store:
            await emptied(ahead)
            refused = await ask(store)
            assert not refused.granted
            assert refused.tat_us - refused.now_us == BURST
            assert wait_of(await ask(store, wait_us=COST)) == COST

    async def test_limits_are_listed_with_what_is_used_of_them(
        self, store: RateLimitProvider
    ) -> None:
        await emptied(store, "a:1")
        await store.pause_rate("a:2", SECOND, BURST)
        await ask(store, name="b:1")
        found = await store.rate_limits("a:*")
        assert set(found) == {"a:1", "a:2"}
        assert (found["a:1"].full_in, found["a:1"].paused_for) == (0.3, 0)
        assert (found["a:2"].full_in, found["a:2"].paused_for) == (1.3, 1)
        assert set(await store.rate_limits()) == {"a:1", "a:2", "b:1"}

    async def test_a_change_of_a_limit_leaves_those_beside_it_alone(
        self, beside: tuple[Any, list[tuple[Any, str]]]
    ) -> None:
        store, others = beside
        for other, key in others:
            await emptied(other, key)
        before = [await other.read_rate(key) for other, key in others]
        place = await emptied(store, "k")
        await store.return_rate("k", place.tat_us, COST)
        await store.pause_rate("k", SECOND, BURST)
        assert [await other.read_rate(key) for other, key in others] == before

    async def test_of_many_callers_at_once_the_burst_is_admitted(
        self, atomic: None, store: RateLimitProvider
    ) -> None:
        granted: list[bool] = []

        async def call() -> None:
            granted.append((await ask(store)).granted)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call)
        assert sum(granted) == 3

    async def test_many_callers_at_once_have_places_of_their_own(
        self, atomic: None, store: RateLimitProvider
    ) -> None:
        places: list[int] = []

        async def call() -> None:
            places.append((await ask(store, wait_us=10 * SECOND)).tat_us)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(call)
        first = min(places)
        assert sorted(places) == [first + n * COST for n in range(20)]

    async def test_a_cancelled_reservation_is_whole_or_not_there(
        self, open_store: OpenStore
    ) -> None:
        async with open_store() as store:

            async def attempt_at(n: int) -> CancelledAt:
                name = f"limit {n}"
                attempt = CancelledAt(ask(store, 60 * SECOND, 120 * SECOND, name), n)
                await attempt.run()
                reply = await store.read_rate(name)
                # Its clock may count whole milliseconds only where it is read.
                assert reply is None or 0 < reply.tat_us - reply.now_us <= 60 * SECOND + MS
                return attempt

            await cancel_everywhere(attempt_at)

    async def test_two_stores_on_the_same_data_share_a_limit(
        self, open_store: OpenStore, clock: ManualClock
    ) -> None:
        async with open_store(clock=clock) as one, open_store(clock=clock) as two:
            place = await emptied(one)
            assert not (await ask(two)).granted
            assert await two.return_rate("limit", place.tat_us, COST)
            assert (await ask(one)).granted

    async def test_calls_through_scopes_are_limited_together(
        self, open_store: OpenStore, clock: ManualClock
    ) -> None:
        limit = RateLimit("limit", rate=0.001, burst=4, wait=0)
        went: list[int] = []

        async def call() -> None:
            went.append(1)

        async with (
            open_store(clock=clock) as one,
            open_store(clock=clock) as two,
            scope(persistence=one) as s,
            scope(persistence=two) as t,
        ):
            tasks = [u.task(limit.call, call) for u in (s, t) for _ in range(8)]
            with anyio.fail_after(30):  # nobody may wait, so nobody does
                results = [await task for task in tasks]
            errors = [type(result.error).__name__ for result in results if result.error]
        assert len(went) == 4
        assert errors == ["RateLimitExceededError"] * 12
