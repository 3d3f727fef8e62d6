"""What a store shows to those who use it, and nothing else."""

from __future__ import annotations

from pathlib import Path

from gogoscope.persistence import CacheProvider, CircuitBreakerStateProvider, LockProvider
from gogoscope.persistence.protocols.jobs import JobProvider
from gogoscope.persistence.protocols.permits import PermitProvider
from gogoscope.persistence.protocols.rate_limits import RateLimitProvider
from gogoscope.persistence.protocols.runs import RunProvider
from gogoscope.persistence.protocols.schedules import ScheduleProvider
from gogoscope.stores import MemoryStore, PostgresStore, RedisStore, SQLiteStore

LOCKS = {
    *("acquire", "extend", "force_release", "holder", "locks"),
    *("claim_lock", "renew_lock", "release_lock", "read_lock", "hand_over_lock", "reserve_lock"),
    "lease_left_ms",
}
RUNS = {
    *("claim_run", "renew_run", "complete_run", "abandon_run", "read_run", "resolve_run"),
    *("runs", "run_left_ms", "run_outcome", "run_value"),
}
JOBS = {
    *("claim_job", "renew_job", "save_job", "finish_job", "release_job", "read_job"),
    *("jobs", "job_left_ms", "job_state", "job_text"),
}
PERMITS = {
    *("claim_permit", "renew_permit", "release_permit", "hand_over_permit", "leave_turn"),
    *("read_permits", "permit_left_ms", "semaphores", "read_write_locks", "force_release_permits"),
}
EXAMINATION = {"examine", "describe_scan", "sample_keys"}
RATE_LIMITS = {"reserve_rate", "return_rate", "pause_rate", "read_rate", "rate_limits"}
SCHEDULES = {
    *("open_schedule", "claim_tick", "renew_tick", "end_tick", "read_schedule"),
    *("pause_schedule", "continue_schedule", "trigger_schedule", "forget_schedule"),
    *("schedules", "schedule_now_ms", "tick_left_ms"),
}
KEPT = RUNS | JOBS | PERMITS | RATE_LIMITS | SCHEDULES
EVERY_STORE = {"aclose", "capability", "ping"} | EXAMINATION | KEPT
CIRCUIT_BREAKERS = {
    *("get_state", "set_state", "record_failure", "record_success", "count_failures"),
    *("claim_probe", "settle_probe", "return_probe", "reset_failures"),
    *("force_open", "force_close", "reset_circuit", "circuits"),
}
CACHE = {
    *("get", "get_entry", "get_many", "set", "set_many", "touch"),
    *("delete", "delete_many", "has", "clear", "keys", "iterate_keys"),
}


def shown(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_a_protocol_has_the_methods_of_its_capability() -> None:
    assert shown(LockProvider) == LOCKS
    assert shown(CircuitBreakerStateProvider) == CIRCUIT_BREAKERS
    assert shown(CacheProvider) == CACHE
    assert shown(RunProvider) == RUNS
    assert shown(JobProvider) == JOBS
    assert shown(PermitProvider) == PERMITS
    assert shown(RateLimitProvider) == RATE_LIMITS
    assert shown(ScheduleProvider) == SCHEDULES


def test_a_memory_store_shows_its_capabilities_and_how_to_go_below_a_prefix() -> None:
    everything = LOCKS | CIRCUIT_BREAKERS | CACHE | EVERY_STORE
    assert shown(MemoryStore()) == everything | {"with_prefix"}


def test_a_sqlite_store_shows_its_capabilities(tmp_path: Path) -> None:
    everything = LOCKS | CIRCUIT_BREAKERS | CACHE | EVERY_STORE
    assert shown(SQLiteStore(tmp_path / "store.db")) == everything


def test_a_redis_store_shows_its_capabilities() -> None:
    everything = LOCKS | CIRCUIT_BREAKERS | CACHE | EVERY_STORE
    assert shown(RedisStore("redis://localhost")) == everything


def test_a_postgres_store_shows_its_capabilities() -> None:
    everything = LOCKS | CIRCUIT_BREAKERS | CACHE | EVERY_STORE
    assert shown(PostgresStore("postgresql://localhost")) == everything | {"joined"}
