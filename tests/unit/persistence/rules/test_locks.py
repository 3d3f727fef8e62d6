"""How a lock changes, by pure functions of time."""

from __future__ import annotations

import math

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from gogoscope.persistence.lock_records import LockClaim, LockRecord, Steady
from gogoscope.persistence.rules import locks as lock_rules

NOW = 1_800_000_000_000


def a_claim(nonce: str = "n1", lease_ms: int = 500) -> LockClaim:
    return LockClaim(nonce, f"owner of {nonce}", lease_ms, {"host": "here"})


def taken(nonce: str = "n1", lease_ms: int = 500, now_ms: int = NOW) -> LockRecord:
    record, reply = lock_rules.claim(None, now_ms, a_claim(nonce, lease_ms))
    assert record is not None
    assert reply.granted
    assert reply.record is record
    return record


def granted(record: LockRecord | None, now_ms: int, skew_ms: int = 0) -> bool:
    after, reply = lock_rules.claim(record, now_ms, a_claim("n2"), skew_ms=skew_ms)
    assert (after is not record) == reply.granted
    assert reply.record is after
    return reply.granted


def test_an_absent_lock_is_taken_with_a_token_of_the_clock_in_microseconds() -> None:
    assert taken() == LockRecord(
        version=NOW * 1000 + 1,
        fencing_token=NOW * 1000 + 1,
        owner="owner of n1",
        nonce="n1",
        lease_ms=500,
        lease_until_ms=NOW + 500,
        acquired_at_ms=NOW,
        metadata={"host": "here"},
    )


def test_a_token_is_higher_than_those_of_writes_that_the_store_has_lost_since() -> None:
    kept = lock_rules.release(taken(), NOW, "n1")[0]
    lost, _ = lock_rules.claim(kept, NOW + 1_000, a_claim("n2"))
    again, _ = lock_rules.claim(kept, NOW + 1_001, a_claim("n3"))
    assert lost is not None
    assert again is not None
    assert again.fencing_token > lost.fencing_token


def test_a_held_lock_is_not_taken_until_its_lease_is_over() -> None:
    record = taken()
    assert not granted(record, NOW)
    assert not granted(record, NOW + 500)
    assert granted(record, NOW + 501)


def test_a_dead_lock_is_taken_later_by_the_allowance_for_skew() -> None:
    record = taken()
    assert not granted(record, NOW + 501, skew_ms=100)
    assert not granted(record, NOW + 600, skew_ms=100)
    assert granted(record, NOW + 601, skew_ms=100)


@settings(deadline=None)
@given(
    begin=st.floats(1.6e9, 2e9),
    ttl=st.floats(0.001, 43_200),
    share=st.floats(0, 1),
)
def test_no_lease_is_over_before_its_time_whatever_its_fractions(
    begin: float, ttl: float, share: float
) -> None:
    record = taken(lease_ms=math.ceil(ttl * 1000), now_ms=int(begin * 1000))
    during = begin + ttl * share
    if during < begin + ttl:
        assert not granted(record, int(during * 1000))
    assert granted(record, int((begin + ttl) * 1000) + 3)


def test_a_claim_that_was_granted_before_is_granted_again() -> None:
    record = taken()
    after, reply = lock_rules.claim(record, NOW + 100, a_claim("n1"))
    assert after is record
    assert reply.granted


def test_a_late_claim_of_a_nonce_that_was_released_is_refused() -> None:
    released, _ = lock_rules.release(taken(), NOW, "n1")
    after, reply = lock_rules.claim(released, NOW, a_claim("n1"))
    assert after is released
    assert not reply.granted


def test_a_released_lock_is_taken_with_a_higher_token() -> None:
    record = taken()
    released, done = lock_rules.release(record, NOW, "n1")
    assert done
    again, reply = lock_rules.claim(released, NOW - 5_000, a_claim("n2"))
    assert reply.granted
    assert again is not None
    assert again.fencing_token == record.fencing_token + 1


def test_a_lock_that_was_seen_unchanged_is_taken_over_though_its_lease_runs() -> None:
    record = taken()
    after, reply = lock_rules.claim(record, NOW, a_claim("n2"), seen=record)
    assert reply.granted
    assert after is not None
    assert after.nonce == "n2"


def test_a_lock_that_changed_since_it_was_seen_is_not_taken_over() -> None:
    seen = taken()
    renewed, _ = lock_rules.renew(seen, NOW, "n1", seen.version, 500, NOW + 900)
    for record in (renewed, evolve(seen, nonce="n3")):
        after, reply = lock_rules.claim(record, NOW + 10_000, a_claim("n2"), seen=seen)
        assert after is record
        assert not reply.granted


def test_a_renewal_raises_the_version_and_keeps_the_token() -> None:
    record = taken()
    renewed, reply = lock_rules.renew(record, NOW, "n1", record.version, 900, NOW + 900)
    assert reply.granted
    assert renewed == evolve(
        record, version=record.version + 1, lease_ms=900, lease_until_ms=NOW + 900
    )


def test_a_renewal_needs_nonce_and_version() -> None:
    record = taken()
    assert not lock_rules.renew(record, NOW, "n2", record.version, 500, NOW + 900)[1].granted
    assert not lock_rules.renew(record, NOW, "n1", record.version - 1, 500, NOW + 900)[1].granted
    assert not lock_rules.renew(None, NOW, "n1", record.version, 500, NOW + 900)[1].granted


def test_a_renewal_repairs_a_lease_that_a_slow_clock_wrote() -> None:
    hour = 3_600_000
    record = taken(now_ms=NOW - hour)
    renewed, _ = lock_rules.renew(record, NOW, "n1", record.version, 500, NOW - hour + 600)
    assert renewed is not None
    assert renewed.lease_until_ms == NOW + 500
    assert not granted(renewed, NOW + 500)


def test_a_renewal_never_shortens_what_its_holder_counts_on() -> None:
    record = taken()
    renewed, _ = lock_rules.renew(record, NOW - 3_600_000, "n1", record.version, 500, NOW + 600)
    assert renewed is not None
    assert renewed.lease_until_ms == NOW + 600


def test_only_the_owner_extends_and_only_in_time() -> None:
    record = taken()
    assert lock_rules.extend(None, NOW, "owner of n1", 500) == (None, False)
    assert lock_rules.extend(record, NOW, "somebody", 500) == (record, False)
    assert lock_rules.extend(record, NOW + 500, "owner of n1", 500) == (record, False)
    extended, done = lock_rules.extend(record, NOW + 499, "owner of n1", 700)
    assert done
    assert extended is not None
    assert extended.lease_until_ms == NOW + 499 + 700
    assert extended.version == record.version + 1
    assert extended.fencing_token == record.fencing_token


def test_extending_by_owner_never_shortens_a_lease() -> None:
    record = taken()
    for lease_ms in (1, 399, 400):
        assert lock_rules.extend(record, NOW + 100, "owner of n1", lease_ms) == (record, True)
    assert lock_rules.extend(record, NOW + 100, "owner of n1", 401)[0] != record


def test_a_release_frees_only_its_own_nonce_and_keeps_the_version() -> None:
    record = taken()
    assert lock_rules.release(record, NOW, "n2") == (record, False)
    assert lock_rules.release(None, NOW, "n1") == (None, False)
    released, done = lock_rules.release(record, NOW, "n1")
    assert done
    assert released == LockRecord(
        version=record.version, fencing_token=record.fencing_token, released_by="n1"
    )
    assert lock_rules.release(released, NOW, "n1") == (released, False)


def test_a_forced_release_frees_whoever_holds_it_once() -> None:
    released, done = lock_rules.force_release(taken(), NOW)
    assert done
    assert lock_rules.force_release(released, NOW) == (released, False)
    assert lock_rules.force_release(None, NOW) == (None, False)


def test_a_lock_is_kept_for_a_day_after_its_end() -> None:
    day = 86_400_000
    record = taken(lease_ms=500)
    assert lock_rules.purge_at_ms(record, NOW) == NOW + 500 + day
    released, _ = lock_rules.release(record, NOW, "n1")
    assert released is not None
    assert lock_rules.purge_at_ms(released, NOW) == NOW + day


def test_a_lock_that_was_purged_still_gets_a_higher_token() -> None:
    record = taken(lease_ms=43_200_000)
    for _ in range(1_000):
        renewed, _ = lock_rules.renew(record, NOW, "n1", record.version, 500, NOW + 500)
        assert renewed is not None
        record = renewed
    purged_at_ms = lock_rules.purge_at_ms(record, NOW)
    assert taken("n2", now_ms=purged_at_ms).fencing_token > record.version


HOUR = 3_600_000


def claimed_at(record: LockRecord | None, now_ms: int, at: Steady) -> tuple[LockRecord, bool]:
    after, reply = lock_rules.claim(record, now_ms, a_claim("n2"), at=at)
    assert after is not None
    return after, reply.granted


def test_a_lease_on_a_steady_clock_ends_by_that_clock_wherever_the_wall_clock_is() -> None:
    for step in (-HOUR, 0, HOUR):
        record, _ = lock_rules.claim(None, NOW, a_claim("n1"), at=Steady("boot", 7_000))
        assert record is not None
        for passed, is_over in [(0, False), (500, False), (501, True)]:
            at = Steady("boot", 7_000 + passed)
            assert claimed_at(record, NOW + step + passed, at)[1] is is_over
            assert (lock_rules.left_ms(record, NOW + step, at) < 0) is is_over


def test_a_lease_of_another_boot_runs_for_its_whole_length_from_when_it_is_first_met() -> None:
    old, _ = lock_rules.claim(None, NOW, a_claim("n1"), at=Steady("boot 1", 9_000))
    without = taken()
    for record in (old, without):
        assert record is not None
        met, granted = claimed_at(record, NOW + HOUR, Steady("boot 2", 100))
        assert not granted
        assert (met.nonce, met.version) == (record.nonce, record.version)
        for ms, is_over in [(100, False), (600, False), (601, True)]:
            after, granted = claimed_at(met, NOW + HOUR, Steady("boot 2", ms))
            assert granted is is_over
            assert granted or after is met


def test_a_holder_of_another_boot_that_renews_is_not_taken_over() -> None:
    record, _ = lock_rules.claim(None, NOW, a_claim("n1"), at=Steady("boot 1", 9_000))
    met, _ = claimed_at(record, NOW, Steady("boot 2", 100))
    there = Steady("boot 1", 9_300)
    renewed, reply = lock_rules.renew(met, NOW, "n1", met.version, 500, NOW + 500, at=there)
    assert reply.granted
    met_again, granted = claimed_at(renewed, NOW, Steady("boot 2", 601))
    assert not granted
    assert not claimed_at(met_again, NOW, Steady("boot 2", 1_101))[1]
    assert claimed_at(met_again, NOW, Steady("boot 2", 1_102))[1]


def test_renewals_and_extensions_count_by_the_steady_clock() -> None:
    record, _ = lock_rules.claim(None, NOW, a_claim("n1"), at=Steady("boot", 0))
    assert record is not None
    at, set_back = Steady("boot", 400), NOW - HOUR
    renewed, _ = lock_rules.renew(record, set_back, "n1", record.version, 500, 0, at=at)
    extended, done = lock_rules.extend(record, set_back, "owner of n1", 500, at=at)
    assert done
    for later in (renewed, extended):
        assert later is not None
        assert not claimed_at(later, NOW + HOUR, Steady("boot", 900))[1]
        assert claimed_at(later, set_back, Steady("boot", 901))[1]
    late = Steady("boot", 500)
    assert lock_rules.extend(record, set_back, "owner of n1", 500, at=late) == (record, False)


def test_a_reservation_ends_by_the_steady_clock() -> None:
    record, _ = lock_rules.claim(None, NOW, a_claim("n1"), at=Steady("boot", 0))
    reserved, _ = lock_rules.reserve(record, NOW + HOUR, "t", 1_000, at=Steady("boot", 100))
    released, _ = lock_rules.release(reserved, NOW + HOUR, "n1")
    assert not claimed_at(released, NOW, Steady("boot", 1_100))[1]
    assert claimed_at(released, NOW - HOUR, Steady("boot", 1_101))[1]
