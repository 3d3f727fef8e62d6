"""The bound of a rate limit: a judge of sliding windows, and clocks that are wrong.

The bound: in any ``t`` seconds, calls begin whose costs are at most ``rate * (t + d) + burst``,
with ``d`` the spread of the clocks and the longest time from a reservation to its call. In the
units of the rules, where a cost is a time, that is ``t + d + burst``.

Proof: let the first call in a window have the place ``a1`` and the last ``an``, by the clock of
the store. What is reserved moves ``tat`` on by its cost, from a time that is no earlier than that
of its place. So when the last is granted, ``tat`` is at least ``a1 + c1 + ... + cn`` less what was
returned, which nobody used; and a call has its place at ``tat - burst`` or later. So the costs are
at most ``an - a1 + burst``. A call begins after its place by at most the delay, and clocks differ
by at most the spread, so ``an - a1`` is at most ``t + d``.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gogoscope.persistence.lock_records import Steady
from gogoscope.persistence.rate_records import LONGEST_WAIT_US, RateRecord
from gogoscope.persistence.rules import rate_limits as rules

MS = 1_000
NOW_MS = 1_800_000_000_000
COST_US = 100 * MS
BURST_US = 4 * COST_US
SPREAD_MS = 1_500


def most_in_windows(calls: list[tuple[int, int]]) -> int:
    """Return by how much the costs of a window exceed its length, at most, in microseconds.

    :param calls: the times of calls and their costs
    """
    calls = sorted(calls)
    most, above = 0, 0
    for n, (at, cost) in enumerate(calls):
        # The best window that ends with this call begins where the last one did, or here.
        gap = at - calls[n - 1][0] if n else 0
        above = max(0, above - gap) + cost
        most = max(most, above)
    return most


class Calls(RuleBasedStateMachine):
    """Three processes, whose clocks differ, that reserve, wait, are late, and give up."""

    spread_ms = 0

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.record: RateRecord | None = None
        self.waiting: list[tuple[int, int, int]] = []  # when it may go, its cost, and its tat
        self.calls: list[tuple[int, int]] = []
        self.delay_us = 0

    def clock_ms(self, who: int) -> int:
        return self.now_ms + who * self.spread_ms // 2

    @rule(ms=st.one_of(st.integers(0, 300), st.integers(300, 5_000)))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms
        self.go()

    @rule(
        who=st.integers(0, 2),
        units=st.integers(1, 4),
        wait_us=st.sampled_from([0, COST_US, 20 * COST_US, LONGEST_WAIT_US]),
        late_ms=st.integers(0, 50),
    )
    def reserve(self, who: int, units: int, wait_us: int, late_ms: int) -> None:
        clock_ms = self.clock_ms(who)
        cost = units * COST_US
        before = self.record
        self.record, reply = rules.reserve(before, clock_ms, cost, BURST_US, wait_us)
        ahead_us = reply.tat_us - BURST_US - reply.now_us
        if not reply.granted:
            assert self.record is before
            assert ahead_us + cost > wait_us
            return
        assert ahead_us <= wait_us
        # It waits as long as it was told to, and what comes late is late by the judge's clock.
        go_us = self.now_ms * MS + max(0, ahead_us) + late_ms * MS
        self.delay_us = max(self.delay_us, late_ms * MS)
        self.waiting.append((go_us, cost, reply.tat_us))
        self.go()

    @rule(which=st.integers(0, 30))
    def give_up(self, which: int) -> None:
        if not self.waiting:
            return
        place = self.waiting.pop(which % len(self.waiting))
        _, cost, tat_us = place
        self.record, _ = rules.return_place(self.record, self.now_ms, tat_us, cost)

    @rule(units=st.integers(1, 4), spent=st.integers(0, 4))
    def spend_less(self, units: int, spent: int) -> None:
        cost, used = units * COST_US, min(units, spent) * COST_US
        self.record, reply = rules.reserve(self.record, self.now_ms, cost, BURST_US, 0)
        if reply.granted:
            self.calls.append((self.now_ms * MS, used))
            if used < cost:
                self.record, returned = rules.return_place(
                    self.record, self.now_ms, reply.tat_us, cost - used
                )
                assert returned

    @rule(who=st.integers(0, 2), ms=st.integers(1, 3_000))
    def pause(self, who: int, ms: int) -> None:
        self.record, reply = rules.pause(self.record, self.clock_ms(who), ms * MS, BURST_US)
        assert reply.tat_us >= reply.until_us + BURST_US or reply.until_us <= reply.now_us
        self.waiting = [w for w in self.waiting if w[0] <= self.now_ms * MS]

    def go(self) -> None:
        here = self.now_ms * MS
        self.calls += [(go_us, cost) for go_us, cost, _ in self.waiting if go_us <= here]
        self.waiting = [w for w in self.waiting if w[0] > here]

    @invariant()
    def every_window_keeps_the_bound(self) -> None:
        spread_us = self.spread_ms * MS
        assert most_in_windows(self.calls) <= BURST_US + self.delay_us + spread_us


class CallsByOneClock(Calls):
    pass


class CallsByClocksThatDiffer(Calls):
    spread_ms = SPREAD_MS


SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


TestByOneClock = CallsByOneClock.TestCase
TestByClocksThatDiffer = CallsByClocksThatDiffer.TestCase
for case in (TestByOneClock, TestByClocksThatDiffer):
    case.settings = settings(max_examples=60, stateful_step_count=40, **SETTINGS)


def test_the_judge_finds_a_window_that_is_too_full() -> None:
    calls = [(0, 10), (100, 10), (105, 10), (106, 10), (500, 10)]
    assert most_in_windows(calls) == 30 - 6
    assert most_in_windows([]) == 0


@given(
    costs=st.lists(st.integers(1, 10 * COST_US), min_size=1, max_size=20),
    gaps=st.lists(st.integers(0, 2_000), min_size=20, max_size=20),
)
@settings(**SETTINGS)
def test_all_of_the_rate_is_used_while_somebody_waits(costs: list[int], gaps: list[int]) -> None:
    record, begun = None, NOW_MS
    full_us = 0
    for cost, gap in zip(costs, gaps, strict=False):
        record, reply = rules.reserve(record, begun, cost, BURST_US, LONGEST_WAIT_US)
        assert reply.granted
        assert reply.tat_us == max(full_us, begun * MS) + cost
        full_us = reply.tat_us
        begun += gap


def test_a_time_that_cannot_be_is_not_believed() -> None:
    record = RateRecord(NOW_MS * MS + 2 * LONGEST_WAIT_US, NOW_MS * MS + 2 * LONGEST_WAIT_US)
    kept, reply = rules.reserve(record, NOW_MS, COST_US, BURST_US, 0)
    assert kept is record
    assert (reply.granted, reply.tat_us, reply.until_us) == (False, NOW_MS * MS + BURST_US, 0)
    kept, reply = rules.reserve(record, NOW_MS, COST_US, BURST_US, COST_US)
    assert reply.granted


def test_setting_the_wall_clock_changes_nothing_where_a_steady_clock_counts() -> None:
    day_ms = 86_400_000
    record, first = rules.reserve(None, NOW_MS, BURST_US, BURST_US, 0, at=Steady("boot", 1_000))
    for wall_ms in (NOW_MS + day_ms, NOW_MS - day_ms):
        _, reply = rules.reserve(record, wall_ms, COST_US, BURST_US, 0, at=Steady("boot", 1_001))
        assert not reply.granted
        assert reply.tat_us == first.tat_us
    at = Steady("boot", 1_100)
    assert rules.reserve(record, NOW_MS - day_ms, COST_US, BURST_US, 0, at=at)[1].granted


def test_after_a_boot_the_wall_clock_says_how_much_time_has_passed() -> None:
    record, _ = rules.reserve(None, NOW_MS, BURST_US, BURST_US, 0, at=Steady("first", 900_000))
    _, reply = rules.reserve(record, NOW_MS + 99, COST_US, BURST_US, 0, at=Steady("second", 5))
    assert not reply.granted
    again, reply = rules.reserve(record, NOW_MS + 101, COST_US, BURST_US, 0, at=Steady("second", 7))
    assert reply.granted
    assert again is not None
    assert (again.timeline, again.ahead_us) == ("second", (NOW_MS + 94) * MS)


@pytest.mark.parametrize("at", [None, Steady("boot", 5_000)])
def test_a_limit_is_forgotten_a_day_after_its_bucket_is_full(at: Steady | None) -> None:
    record, _ = rules.reserve(None, NOW_MS, BURST_US, BURST_US, 0, at=at)
    assert record is not None
    assert rules.purge_at_ms(record, NOW_MS) == NOW_MS + BURST_US // MS + rules.KEEP_MS
