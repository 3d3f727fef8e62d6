"""What a store shows to those who use it, and nothing else."""

from __future__ import annotations

from pathlib import Path

from gogoscope.persistence import CacheProvider, CircuitBreakerStateProvider, LockProvider
from gogoscope.stores import MemoryStore, RedisStore, SQLiteStore

LOCKS = {
    *("acquire", "extend", "force_release", "holder"),
    *("claim_lock", "renew_lock", "release_lock", "read_lock", "hand_over_lock", "reserve_lock"),
    "lease_left_ms",
}
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


def test_a_memory_store_shows_its_capabilities_and_how_to_go_below_a_prefix() -> None:
    assert shown(MemoryStore()) == LOCKS | CIRCUIT_BREAKERS | CACHE | {"aclose", "with_prefix"}


def test_a_sqlite_store_shows_its_capabilities(tmp_path: Path) -> None:
    assert shown(SQLiteStore(tmp_path / "store.db")) == LOCKS | CIRCUIT_BREAKERS | CACHE | {
        "aclose"
    }


def test_a_redis_store_shows_its_capabilities_and_whether_its_server_answers() -> None:
    store = RedisStore("redis://localhost")
    assert shown(store) == LOCKS | CIRCUIT_BREAKERS | CACHE | {"aclose", "ping"}
