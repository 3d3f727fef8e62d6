"""Permits against a model of them: whoever comes, dies, comes late or changes the limit."""

from __future__ import annotations

from typing import Literal

import pytest
from attrs import define, evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gogoscope.persistence.lock_records import LockClaim, LockRecord, Steady
from gogoscope.persistence.permit_records import (
    Permit,
    PermitClaim,
    PermitReply,
    PermitsRecord,
    Takes,
)
from gogoscope.persistence.rules import permits as rules

LEASE_MS = 1_000
TURN_MS = 400
SKEW_MS = 50
NOW_MS = 1_800_000_000_000
NAMES = ["a", "b", "c", "d", "e"]
WHO = st.sampled_from(NAMES)


def test_a_turn_that_is_renewed_changes_though_the_clock_was_set_back() -> None:
    """Whoever watches it would take it for dead otherwise."""
    holder = PermitClaim(LockClaim("reader", "reader", 60_000), None, "one", 0)
    record, _ = rules.claim(None, NOW_MS, holder)
    writer = PermitClaim(LockClaim("writer", "writer", 60_000, turn="w"), None, "all", TURN_MS)
    versions = []
    for now_ms in range(NOW_MS - 3_600_000, NOW_MS - 3_600_000 + 4 * TURN_MS, TURN_MS):
        record, reply = rules.claim(record, now_ms, writer)
        assert not reply.granted
        assert record is not None
        versions.append(record.waiting["w"].lease.version)
    assert sorted(set(versions)) == versions


@define
class Process:
    """What one process knows: its permit, and what it waits for."""

    nonce: str | None = None
    version: int = 0
    valid_until_ms: int = 0
    takes: Takes = "one"
    waits_since: int | None = None
    turn_until_ms: int = 0
    limit: int | None = None


class Permits(RuleBasedStateMachine):
    """Five processes that want permits, each with a limit of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.record: PermitsRecord | None = None
        self.count = 0
        self.processes = {name: Process() for name in NAMES}
        self.deaths = dict.fromkeys(NAMES, 0)
        self.tokens: list[int] = []

    def claim_of(self, who: str, limit: int | None, takes: Takes, turn: bool) -> PermitClaim:
        self.count += 1
        nonce, place = f"{who}{self.count}", self.turn_of(who) if turn else None
        lease = LockClaim(nonce, who, LEASE_MS, turn=place)
        return PermitClaim(lease, limit, takes, TURN_MS if turn else 0)

    def turn_of(self, who: str) -> str:
        """Return what its turns are called; a process that was started again has new ones."""
        return f"{who} after {self.deaths[who]} deaths"

    @rule(ms=st.integers(0, 1_300))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(who=WHO, what=st.sampled_from(["read", "write", 1, 2, 3]), turn=st.booleans())
    def claim(self, who: str, what: Literal["read", "write"] | int, turn: bool) -> None:
        process = self.processes[who]
        if process.nonce is not None:
            return
        limit = what if isinstance(what, int) else None
        takes: Takes = "all" if what == "write" else "one"
        if process.waits_since is not None:
            limit, takes, turn = process.limit, process.takes, True
        claim = self.claim_of(who, limit, takes, turn)
        self.record, reply = rules.claim(self.record, self.now_ms, claim, skew_ms=SKEW_MS)
        if reply.granted:
            self.granted(who, claim, reply)
            return
        process.limit, process.takes = limit, takes
        if turn:
            if process.waits_since is None or process.turn_until_ms + SKEW_MS < self.now_ms:
                process.waits_since = self.count
            assert self.record is not None
            process.turn_until_ms = self.record.waiting[self.turn_of(who)].lease.lease_until_ms
            assert process.turn_until_ms >= self.now_ms + TURN_MS / 2

    def granted(self, who: str, claim: PermitClaim, reply: PermitReply) -> None:
        assert reply.record is not None
        holders = reply.record.holders
        assert len(holders) == 1 or "all" not in {one.takes for one in holders.values()}
        assert claim.limit is None or len(holders) <= claim.limit
        process = self.processes[who]
        for name, other in self.processes.items():
            waits = other.waits_since is not None and other.turn_until_ms >= self.now_ms
            came_before = other.waits_since is not None and (
                process.waits_since is None or other.waits_since < process.waits_since
            )
            if name != who and waits and came_before:
                # Whoever came before fits as well.
                assert (other.takes, claim.takes) == ("one", "one")
                assert other.limit is None or len(holders) <= other.limit
        lease = holders[claim.lease.nonce].lease
        assert not self.tokens or lease.fencing_token > max(self.tokens)
        self.tokens.append(lease.fencing_token)
        self.processes[who] = Process(
            claim.lease.nonce, lease.version, self.now_ms + LEASE_MS, claim.takes
        )

    @rule(who=WHO)
    def renew(self, who: str) -> None:
        process = self.processes[who]
        if process.nonce is None:
            return
        before = self.record
        self.record, reply = rules.renew(
            before, self.now_ms, process.nonce, process.version, LEASE_MS, 0
        )
        if reply.granted:
            assert reply.record is not None
            process.version = reply.record.version
            process.valid_until_ms = self.now_ms + LEASE_MS
        else:
            assert self.now_ms > process.valid_until_ms + SKEW_MS
            assert self.record is before
            self.processes[who] = Process()

    @rule(who=WHO)
    def release(self, who: str) -> None:
        process = self.processes[who]
        if process.nonce is not None:
            self.record, freed = rules.release(self.record, self.now_ms, process.nonce)
            assert freed or self.now_ms > process.valid_until_ms + SKEW_MS
            self.processes[who] = Process()

    @rule(who=WHO, to=WHO)
    def hand_over(self, who: str, to: str) -> None:
        process, next_one = self.processes[who], self.processes[to]
        if process.nonce is None or next_one.nonce is not None:
            return
        claim = self.claim_of(to, next_one.limit, next_one.takes, next_one.waits_since is not None)
        self.record, reply = rules.hand_over(
            self.record, self.now_ms, process.nonce, claim, skew_ms=SKEW_MS
        )
        self.processes[who] = Process()
        assert reply.freed or self.now_ms > process.valid_until_ms + SKEW_MS
        if reply.granted:
            assert reply.freed
            self.granted(to, claim, reply)

    @rule(who=WHO)
    def leave(self, who: str) -> None:
        self.record, _ = rules.leave(self.record, self.now_ms, self.turn_of(who))
        self.processes[who].waits_since = None

    @rule(who=WHO)
    def die(self, who: str) -> None:
        self.processes[who] = Process()
        self.deaths[who] += 1

    @invariant()
    def a_valid_permit_is_never_lost(self) -> None:
        for process in self.processes.values():
            if process.nonce is not None and process.valid_until_ms + SKEW_MS >= self.now_ms:
                assert self.record is not None
                assert process.nonce in self.record.holders

    @invariant()
    def a_writer_is_alone(self) -> None:
        valid = [
            one.takes
            for one in self.processes.values()
            if one.nonce is not None and one.valid_until_ms >= self.now_ms
        ]
        assert len(valid) <= 1 or "all" not in valid

    @invariant()
    def the_record_is_kept_while_anybody_needs_it(self) -> None:
        if self.record is not None:
            ends = [one.valid_until_ms for one in self.processes.values()]
            assert rules.purge_at_ms(self.record, self.now_ms) > max(ends) + SKEW_MS


TestPermits = Permits.TestCase
TestPermits.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def claim(nonce: str, limit: int | None = 1, *, turn: str | None = None) -> PermitClaim:
    return PermitClaim(
        LockClaim(nonce, nonce, LEASE_MS, turn=turn), limit, "one", TURN_MS if turn else 0
    )


def test_a_lease_of_another_boot_runs_for_its_whole_length_from_when_it_is_met() -> None:
    before, after = Steady("boot 1", 9_000_000), Steady("boot 2", 500)
    record, _ = rules.claim(None, NOW_MS, claim("a"), at=before)
    met, reply = rules.claim(record, NOW_MS, claim("b"), at=after)
    assert not reply.granted
    assert met is not None
    later = Steady("boot 2", 500 + LEASE_MS)
    assert not rules.claim(met, NOW_MS, claim("b"), at=later)[1].granted
    dead = Steady("boot 2", 501 + LEASE_MS)
    assert rules.claim(met, NOW_MS, claim("b"), at=dead)[1].granted


def test_after_a_clock_was_set_only_what_was_watched_is_dead() -> None:
    record, _ = rules.claim(None, NOW_MS, claim("a"))
    assert record is not None
    late = NOW_MS + 10 * LEASE_MS
    assert not rules.claim(record, late, claim("b"), clock_was_set=True)[1].granted
    dead = {"a": record.holders["a"].lease.version}
    assert rules.claim(record, NOW_MS, claim("b"), clock_was_set=True, dead=dead)[1].granted


def test_a_turn_is_renewed_when_a_clock_was_set_back() -> None:
    record, _ = rules.claim(None, NOW_MS, claim("a"))
    record, _ = rules.claim(record, NOW_MS, claim("b1", turn="b"))
    again, _ = rules.claim(record, NOW_MS + 1, claim("b2", turn="b"))
    assert again is record
    back, _ = rules.claim(record, NOW_MS - 60_000, claim("b3", turn="b"))
    assert back is not record


def test_a_turn_shows_since_when_somebody_waits() -> None:
    record, _ = rules.claim(None, NOW_MS, claim("a"))
    for ms in (0, 300, 600):
        record, _ = rules.claim(record, NOW_MS + ms, claim(f"b{ms}", turn="b"))
    assert record is not None
    lease = record.waiting["b"].lease
    assert (lease.acquired_at_ms, lease.lease_until_ms) == (NOW_MS, NOW_MS + 600 + TURN_MS)


def test_the_dead_are_dropped_by_whoever_writes() -> None:
    record, _ = rules.claim(None, NOW_MS, claim("a", 2))
    for turn in "xy":
        record, _ = rules.claim(record, NOW_MS, claim(turn, 1, turn=turn))
    record, _ = rules.claim(record, NOW_MS + TURN_MS + 1, claim("z", 1, turn="z"))
    assert record is not None
    assert list(record.waiting) == ["z"]
    record, reply = rules.claim(record, NOW_MS + 2 * LEASE_MS, claim("b", 1))
    assert reply.granted
    assert record is not None
    assert (list(record.holders), list(record.waiting)) == (["b"], [])


def test_whoever_lost_a_permit_is_shown_who_came_later() -> None:
    record = PermitsRecord(
        7, {"old": Permit(LockRecord(3, 3, nonce="old")), "new": Permit(LockRecord(7, 7))}
    )
    _, reply = rules.renew(record, NOW_MS, "gone", 5, LEASE_MS, 0)
    assert reply.record == LockRecord(7, 7)
    _, reply = rules.renew(record, NOW_MS, "gone", 8, LEASE_MS, 0)
    assert reply.record is None
    _, reply = rules.renew(None, NOW_MS, "gone", 5, LEASE_MS, 0)
    assert reply.record is None


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_positive(limit: int) -> None:
    with pytest.raises(ValueError, match="limit must be"):
        evolve(claim("a"), limit=limit)
