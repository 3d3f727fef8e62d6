"""A schedule against a model of it: processes that die, come late, and have wrong clocks."""

from __future__ import annotations

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.rules import schedules as rules
from gogoscope.persistence.schedule_records import ScheduleRecord, TickEnd, Wanted

LEASE_MS = 1_000
SKEW_MS = 600
EVERY_MS = 400
NOW_MS = 1_800_000_000_000
WHO = st.sampled_from(["a", "b", "c"])
ENDS: st.SearchStrategy[TickEnd] = st.sampled_from(["done", "failed", "interrupted", "unbegun"])


class Schedules(RuleBasedStateMachine):
    """Three processes with one schedule, whose clocks differ by as much as the store allows for."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.off = {"a": 0, "b": SKEW_MS, "c": -SKEW_MS // 2}
        self.record: ScheduleRecord | None = None
        self.seen: dict[str, ScheduleRecord] = {}
        self.count = 0
        self.holds: dict[str, str] = {}
        self.running: tuple[str, int] | None = None
        self.lease_ends_ms = 0
        self.starts: dict[int, int] = {}
        self.finished: set[int] = set()
        self.tokens: list[int] = []
        self.last_tick = 0

    def clock(self, who: str) -> int:
        return self.now_ms + self.off[who]

    @initialize()
    def all_have_the_schedule(self) -> None:
        for who in self.off:
            self.open(who, "one")
        self.now_ms += 5 * EVERY_MS

    @rule(ms=st.integers(EVERY_MS, 4 * LEASE_MS))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(who=WHO, definition=st.sampled_from(["one", "one", "one", "another"]))
    def open(self, who: str, definition: str) -> None:
        before = self.record
        self.record, self.seen[who] = rules.open_schedule(before, self.clock(who), definition, None)
        assert before is None or self.record.after_ms >= before.after_ms

    @rule(who=WHO)
    def look(self, who: str) -> None:
        if self.record is not None:
            self.seen[who] = self.record

    @rule(
        who=WHO,
        stale=st.booleans(),
        oldest=st.booleans(),
        impatient=st.booleans(),
        retries=st.integers(0, 2),
    )
    def claim(self, who: str, stale: bool, oldest: bool, impatient: bool, retries: int) -> None:
        if not stale:
            self.look(who)
        seen = self.seen[who]
        now_ms = self.clock(who)
        first = (seen.after_ms // EVERY_MS + 1) * EVERY_MS
        newest = now_ms // EVERY_MS * EVERY_MS
        wanted = Wanted("tick", first if oldest else newest, seen.after_ms, retries=retries)
        if seen.at_ms is not None and seen.may_start_again(retries) and not impatient:
            wanted = evolve(wanted, kind="again", at_ms=seen.at_ms)
        elif seen.trigger_ms is not None:
            wanted = evolve(wanted, kind="trigger", at_ms=seen.trigger_ms)
        self.count += 1
        nonce = f"{who}{self.count}"
        before = self.record
        self.record, reply = rules.claim(
            before, now_ms, LockClaim(nonce, who, LEASE_MS), wanted, skew_ms=SKEW_MS * 2
        )
        if not reply.granted:
            return
        assert before is not None
        assert reply.record is not None
        assert self.running is None or self.now_ms > self.lease_ends_ms
        assert before.paused_ms is None or before.trigger_ms is not None
        token = reply.record.lease.fencing_token
        assert not self.tokens or token > self.tokens[-1]
        self.tokens.append(token)
        if wanted.kind == "tick":
            assert self.last_tick < wanted.at_ms <= now_ms
            assert wanted.at_ms not in self.starts
            self.last_tick = wanted.at_ms
        if wanted.kind != "again":
            assert not before.may_start_again(retries)
        else:
            assert wanted.at_ms not in self.finished
            assert self.starts[wanted.at_ms] <= retries
        self.starts[wanted.at_ms] = self.starts.get(wanted.at_ms, 0) + 1
        if wanted.kind == "trigger":
            self.starts[wanted.at_ms] = 1
            self.finished.discard(wanted.at_ms)
        self.running = nonce, wanted.at_ms
        self.holds[who] = nonce
        self.lease_ends_ms = self.now_ms + LEASE_MS
        self.seen[who] = self.record or before

    @rule(who=WHO)
    def renew(self, who: str) -> None:
        if self.record is None or who not in self.holds:
            return
        version = self.record.lease.version
        self.record, reply = rules.renew(
            self.record, self.clock(who), self.holds[who], version, LEASE_MS, 0
        )
        if reply.granted:
            assert self.running is not None
            assert self.running[0] == self.holds[who]
            self.lease_ends_ms = self.now_ms + LEASE_MS

    @rule(who=WHO, how=ENDS)
    def end(self, who: str, how: TickEnd) -> None:
        nonce = self.holds.get(who, "nobody")
        mine = self.running is not None and self.running[0] == nonce
        before = self.record
        self.record, ended = rules.end(before, self.clock(who), nonce, how, None)
        if not mine:
            if how == "unbegun" and before is not None and before.state != "running":
                noted = evolve(before.lease, released_by=nonce)  # so that a late claim is refused
                before = evolve(before, lease=noted)
            assert self.record == before
            return
        assert ended
        assert self.running is not None
        tick, self.running = self.running[1], None
        if how in ("done", "failed"):
            self.finished.add(tick)
        elif how == "unbegun":
            self.starts[tick] -= 1

    @precondition(lambda self: self.record is not None)
    @rule(what=st.sampled_from(["pause", "unpause", "trigger"]))
    def a_person_decides(self, what: str) -> None:
        decide = {"pause": rules.pause, "unpause": rules.unpause, "trigger": rules.trigger}[what]
        self.record, known = decide(self.record, self.now_ms)
        assert known

    @invariant()
    def no_tick_is_settled_twice(self) -> None:
        if self.record is not None:
            assert self.record.after_ms >= self.last_tick

    @invariant()
    def starts_are_counted(self) -> None:
        if self.record is not None and self.record.at_ms is not None:
            assert self.record.starts == self.starts[self.record.at_ms]


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
