"""Runs and jobs against models of them: whatever happens in whichever order, and however late."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gogoscope.persistence.job_records import JobRecord
from gogoscope.persistence.lock_records import LockClaim
from gogoscope.persistence.rules import jobs as job_rules
from gogoscope.persistence.rules import runs as run_rules
from gogoscope.persistence.run_records import RunRecord

LEASE_MS = 1_000
NOW_MS = 1_800_000_000_000
WHO = st.sampled_from(["a", "b", "c"])


class Runs(RuleBasedStateMachine):
    """Three processes that want one run, die, come late, and say what came of it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.record: RunRecord | None = None
        self.count = 0
        self.claims: dict[str, str] = {}
        self.tokens: list[int] = []
        self.verdict: str | None = None
        self.lease_ends_ms = 0

    @rule(ms=st.integers(0, 1_500))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(who=WHO, ask=st.booleans())
    def claim(self, who: str, ask: bool) -> None:
        self.count += 1
        nonce = f"{who}{self.count}"
        before = self.record
        self.record, reply = run_rules.claim(
            before,
            self.now_ms,
            LockClaim(nonce, who, LEASE_MS),
            after_crash="ask" if ask else "run",
        )
        if reply.granted:
            assert self.verdict is None
            assert before is None or before.state == "open" or self.now_ms > self.lease_ends_ms
            assert not self.tokens or reply.record.lease.fencing_token > self.tokens[-1]
            self.tokens.append(reply.record.lease.fencing_token)
            self.claims[who] = nonce
            self.lease_ends_ms = self.now_ms + LEASE_MS

    @rule(who=WHO)
    def renew(self, who: str) -> None:
        if self.record is None or who not in self.claims:
            return
        version = self.record.lease.version
        self.record, reply = run_rules.renew(
            self.record, self.now_ms, self.claims[who], version, LEASE_MS, 0
        )
        if reply.granted:
            self.lease_ends_ms = self.now_ms + LEASE_MS

    @rule(who=WHO)
    def complete(self, who: str) -> None:
        nonce = self.claims.get(who)
        if nonce is None:
            return
        mine = self.record is not None and self.record.lease.nonce == nonce
        self.record, kept = run_rules.complete(self.record, self.now_ms, nonce, "done", nonce, None)
        if kept and self.verdict is None:
            assert mine
            self.verdict = nonce
        assert not kept or self.verdict == nonce

    @rule(who=WHO)
    def abandon(self, who: str) -> None:
        nonce = self.claims.get(who, "nobody")
        self.record, abandoned = run_rules.abandon(self.record, self.now_ms, nonce)
        assert not (abandoned and self.verdict)

    @rule(repeat=st.booleans())
    def a_person_resolves(self, repeat: bool) -> None:
        state: Any = "open" if repeat else "done"
        self.record, resolved = run_rules.resolve(
            self.record, self.now_ms, state, None if repeat else "found", None
        )
        if resolved:
            assert self.verdict is None
            self.verdict = None if repeat else "found"

    @invariant()
    def a_verdict_never_changes(self) -> None:
        if self.verdict is not None:
            assert self.record is not None
            assert (self.record.state, self.record.outcome) == ("done", self.verdict)


class Jobs(RuleBasedStateMachine):
    """Three processes that do one job, whose writes may come late."""

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = NOW_MS
        self.record: JobRecord | None = None
        self.count = 0
        self.leases: dict[str, tuple[str, int]] = {}
        self.holder: str | None = None
        self.state: str | None = None

    @rule(ms=st.integers(0, 1_500))
    def time_passes(self, ms: int) -> None:
        self.now_ms += ms

    @rule(who=WHO, restart=st.booleans())
    def claim(self, who: str, restart: bool) -> None:
        self.count += 1
        nonce = f"{who}{self.count}"
        request = LockClaim(nonce, who, LEASE_MS)
        self.record, reply = job_rules.claim(self.record, self.now_ms, request, 1, restart=restart)
        if reply.granted:
            self.holder = nonce
            self.leases[who] = nonce, reply.record.lease.version
            if restart:
                self.state = None
            assert reply.record.state == self.state

    @rule(who=WHO, late=st.booleans())
    def save(self, who: str, late: bool) -> None:
        if who not in self.leases:
            return
        self.count += 1
        nonce, version = self.leases[who]
        text = f"state {self.count}"
        known = version - late
        self.record, reply = job_rules.save(
            self.record, self.now_ms, nonce, known, LEASE_MS, 0, text, 1
        )
        if reply.granted:
            assert (nonce, late) == (self.holder, False)
            assert reply.record is not None
            self.leases[who] = nonce, reply.record.version
            self.state = text

    @rule(who=WHO, finished=st.booleans())
    def end(self, who: str, finished: bool) -> None:
        nonce, _ = self.leases.get(who, ("nobody", 0))
        if finished:
            self.record, ended = job_rules.finish(self.record, self.now_ms, nonce, None)
        else:
            self.record, ended = job_rules.release(self.record, self.now_ms, nonce)
        if ended and self.record is not None and self.record.lease.released_by == nonce:
            self.holder = None

    @invariant()
    def only_a_holder_changes_the_state(self) -> None:
        if self.record is not None:
            assert self.record.state == self.state


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestJobs = Jobs.TestCase
TestJobs.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
