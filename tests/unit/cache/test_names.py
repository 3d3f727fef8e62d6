"""``dir()`` of a cache shows what a user calls, and nothing else."""

from __future__ import annotations

from gogoscope import Cache, LocalCache
from gogoscope.stores.memory import MemoryStore


def public_names(value: object) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_a_cache_shows_what_a_user_calls() -> None:
    assert public_names(Cache(MemoryStore())) == {
        *("get", "get_entry", "get_many", "has", "keys", "iterate_keys"),
        *("set", "set_many", "touch", "delete", "delete_many", "clear"),
        "get_or_set",
    }


def test_a_local_cache_shows_what_a_user_calls() -> None:
    assert public_names(LocalCache()) == {"clear"}
