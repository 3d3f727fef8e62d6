"""Whatever somebody else has put under a key of ours is corrupt, and can be replaced or removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from gogoscope.exceptions import CorruptRecordError
from gogoscope.stores.redis.store import RedisStore

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

Command = Callable[..., Awaitable[Any]]


@pytest.fixture
async def store(redis_url: str, anyio_backend: Any) -> AsyncIterator[RedisStore]:
    url, _, prefix = redis_url.partition("?key_prefix=")
    async with RedisStore(url, key_prefix=prefix) as opened:
        yield opened


@pytest.fixture
def command(store: RedisStore) -> Command:
    return store._server.look


def name(store: RedisStore, kind: str) -> str:
    """Return what a key is called in Redis."""
    return f"gogoscope:{kind}:{store._key_prefix}k"


async def plant(store: RedisStore, command: Command, kind: str, content: str | None) -> None:
    """Put a text under a key; or a list, in place of a text."""
    key = name(store, kind)
    await command("DEL", key)
    if content is None:
        await command("RPUSH", key, "x")
    else:
        await command("SET", key, content)


CONTENTS = {
    "a list": None,
    "no words of ours": "1 2 3",
    "a number that cannot grow": f"1 somebody . {'9' * 19} . .\n5",
    "a mark of a removed key whose number cannot grow": f"1 . 0 {'9' * 19} . .\n",
    "words of ours without a line": "1 somebody . 5 . .",
    "a number of 30 digits": f"1 somebody . {'9' * 30} . .\n5",
}
contents = pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)


@contents
async def test_a_value_that_is_corrupt_can_be_set_deleted_and_cleared(
    store: RedisStore, command: Command, content: str | None
) -> None:
    await plant(store, command, "cache", content)
    with pytest.raises(CorruptRecordError, match="k'"):
        await store.get("k")
    await store.set("k", 1)
    assert await store.get("k") == 1
    await plant(store, command, "cache", content)
    await store.delete("k")
    await store.set("k", 2)
    assert await store.get("k") == 2
    await plant(store, command, "cache", content)
    await store.clear()
    await store.set("k", 3)
    assert await store.get("k") == 3


@contents
async def test_a_lock_that_is_corrupt_can_be_released_by_force(
    store: RedisStore, command: Command, content: str | None
) -> None:
    await plant(store, command, "lock", content)
    with pytest.raises(CorruptRecordError, match="k'"):
        await store.acquire("k", 60)
    assert await store.force_release("k")
    assert await store.acquire("k", 60) is not None


async def test_the_highest_number_that_is_believed_can_grow_no_more_and_is_replaced(
    store: RedisStore, command: Command
) -> None:
    await plant(store, command, "cache", f"1 somebody . {'9' * 18} . .\n5")
    assert await store.get("k") == 5
    assert await store.touch("k", 60)
    await store.set("k", 6)
    assert await store.get("k") == 6


async def test_a_lease_that_ends_in_another_age_can_be_waited_for(
    store: RedisStore, command: Command
) -> None:
    lease = {
        "version": 1,
        "fencing_token": 1,
        "owner": "o",
        "nonce": "n",
        "lease_ms": 1000,
        "lease_until_ms": 2**63 - 1,
    }
    await plant(store, command, "lock", f"1 somebody . 5 . .\n{json.dumps(lease)}")
    assert (await store.reserve_lock("k", "turn", 1000)).granted
