"""Whatever is done to a limit in whatever order, each store answers as the rule does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateRecord, RateReply
from gogoscope.persistence.rules import rate_limits as rules
from tests.conformance.places import Place
from tests.support.clocks import MillisecondClock

pytestmark = [pytest.mark.anyio, pytest.mark.slow_elsewhere]

COST_US = 100_000
BURST_US = 5 * COST_US
STEPS = 150
WAITS_US = [0, 0, COST_US, 10 * COST_US, LONGEST_WAIT_US, 5 * LONGEST_WAIT_US]
PASSES_MS = [0, 1, 30, 100, 250, 1_000, 90_000, 10_000_000]


class Rule:
    """The rule alone, on a record of its own."""

    def __init__(self, clock: MillisecondClock) -> None:
        self._clock = clock
        self._record: RateRecord | None = None

    def reserve_rate(self, cost_us: int, burst_us: int, wait_us: int) -> RateReply:
        now_ms = self._clock.ms
        self._record, reply = rules.reserve(self._record, now_ms, cost_us, burst_us, wait_us)
        return reply

    def return_rate(self, tat_us: int, cost_us: int) -> bool:
        self._record, is_returned = rules.return_place(
            self._record, self._clock.ms, tat_us, cost_us
        )
        return is_returned

    def pause_rate(self, pause_us: int, burst_us: int) -> RateReply:
        self._record, reply = rules.pause(self._record, self._clock.ms, pause_us, burst_us)
        return reply

    def read_rate(self) -> RateReply | None:
        return None if self._record is None else rules.show(self._record, self._clock.ms)


def by_its_clock(reply: RateReply | bool | None) -> Any:
    """Return a reply with its times counted from now: stores count by clocks of their own."""
    if not isinstance(reply, RateReply):
        return reply
    now_us = reply.now_us
    return reply.granted, reply.tat_us - now_us, max(0, reply.until_us - now_us)


class Pair:
    """Two stores on the same data, which take turns, and the rule."""

    def __init__(self, stores: Sequence[Any], clock: MillisecondClock, seed: int) -> None:
        self._stores = stores
        self._clock = clock
        self._chance = random.Random(seed)
        self._rule = Rule(clock)
        self._places: list[tuple[int, int, int]] = []  # by either clock, and the cost

    async def step(self) -> None:
        step = self._chance.choices(
            [self._reserve, self._return, self._pause, self._read, self._pass], [6, 3, 1, 1, 4]
        )[0]
        await step()

    async def _reserve(self) -> None:
        cost_us = self._chance.choice([1, COST_US, COST_US, 4 * COST_US, BURST_US, 8 * COST_US])
        burst_us = self._chance.choice([BURST_US, BURST_US, BURST_US, 2 * COST_US])
        arguments = cost_us, burst_us, self._chance.choice(WAITS_US)
        told, ruled = await self._both("reserve_rate", *arguments)
        if ruled.granted:
            self._places.append((told.tat_us, ruled.tat_us, cost_us))

    async def _return(self) -> None:
        if not self._places:
            return
        place = self._chance.choice([self._places[-1], self._chance.choice(self._places)])
        cost_us = self._chance.choice([place[2], place[2] // 2 + 1])
        told = await self._store().return_rate("limit", place[0], cost_us)
        assert told == self._rule.return_rate(place[1], cost_us)
        if told:
            self._places.remove(place)
            self._places.append((place[0] - cost_us, place[1] - cost_us, place[2]))

    async def _pause(self) -> None:
        pause_us = self._chance.choice([1_000, COST_US, 2_000_000, 2 * LONGEST_WAIT_US])
        burst_us = self._chance.choice([BURST_US, COST_US])
        await self._both("pause_rate", pause_us, burst_us)

    async def _read(self) -> None:
        await self._both("read_rate")

    async def _pass(self) -> None:
        self._clock.advance(self._chance.choices(PASSES_MS, [3, 3, 3, 3, 3, 3, 1, 1])[0])

    async def _both(self, method: str, *arguments: int) -> tuple[Any, Any]:
        told = await getattr(self._store(), method)("limit", *arguments)
        ruled = getattr(self._rule, method)(*arguments)
        assert by_its_clock(told) == by_its_clock(ruled), (method, arguments)
        return told, ruled

    def _store(self) -> Any:
        return self._chance.choice(self._stores)


@pytest.mark.parametrize("seed", range(4))
async def test_each_store_answers_as_the_rule_does(place: Place, seed: int) -> None:
    clock = MillisecondClock()
    async with place.open(clock=clock) as one, place.open(clock=clock) as other:
        pair = Pair([one, other], clock, seed)
        for _ in range(STEPS):
            await pair.step()
