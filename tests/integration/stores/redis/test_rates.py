"""A place of a rate limit in Redis: one script, the server's clock, and its own echo."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gogoscope import CorruptRecordError
from gogoscope.persistence.records.rate_limits import RecordRateLimits
from gogoscope.persistence.rules.rate_limits import KEEP_MS
from gogoscope.stores.redis.store import RedisStore
from gogoscope.testing.conformance import ManualClock
from tests.support.dynamodb_faults import Fault, lose_request, lose_response, never_answer
from tests.support.redis_faults import FaultyRedis

pytestmark = pytest.mark.anyio

COST = 100_000
BURST = 3 * COST
SECOND = 1_000_000


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
async def store(redis_url: str, anyio_backend: Any) -> AsyncIterator[RedisStore]:
    url, _, prefix = redis_url.partition("?key_prefix=")
    async with RedisStore(url, key_prefix=prefix, request_timeout=1) as opened:
        yield opened


@pytest.fixture
async def other(redis_url: str, anyio_backend: Any) -> AsyncIterator[RedisStore]:
    url, _, prefix = redis_url.partition("?key_prefix=")
    async with RedisStore(url, key_prefix=prefix) as opened:
        yield opened


async def test_a_place_is_one_request_however_many_want_one(
    store: RedisStore, other: RedisStore
) -> None:
    faulty = FaultyRedis(store)
    for n in range(6):
        await other.reserve_rate("limit", COST, BURST, SECOND)
        reply = await store.reserve_rate("limit", COST, BURST, SECOND)
        assert reply.granted, n
    refused = await store.reserve_rate("limit", COST, BURST, 0)
    assert not refused.granted
    assert faulty.calls == ["reserve"] * 7


@pytest.mark.parametrize(
    "fault", [lose_response, lose_request, never_answer], ids=lambda fault: fault.__name__
)
async def test_a_reservation_knows_its_own_echo(store: RedisStore, fault: Fault) -> None:
    faulty = FaultyRedis(store)
    faulty.faults.append(fault)
    reply = await store.reserve_rate("limit", SECOND, BURST, 10 * SECOND)
    assert reply.granted
    assert len(faulty.calls) == 2
    read = await store.read_rate("limit")
    assert read is not None
    assert read.tat_us == reply.tat_us
    assert read.tat_us - read.now_us < 1.5 * SECOND


async def test_a_place_is_kept_as_any_other_record(redis_url: str, anyio_backend: Any) -> None:
    url, _, prefix = redis_url.partition("?key_prefix=")
    clock = ManualClock()
    async with RedisStore(url, key_prefix=prefix, clock=clock) as store:
        of_records = RecordRateLimits.reserve_rate
        for n in range(4):
            reserve = store.reserve_rate if n % 2 else of_records.__get__(store)
            reply = await reserve("limit", COST, BURST, SECOND)
            assert reply.granted
            assert reply.tat_us == int(clock.now * 1_000_000) + (n + 1) * COST
        await store.pause_rate("limit", 5 * SECOND, BURST)
        paused = await store.reserve_rate("limit", COST, BURST, 0)
        assert paused.until_us == int(clock.now * 1_000_000) + 5 * SECOND
        waiting = await store.reserve_rate("limit", COST, BURST, 60 * SECOND)
        assert (await store.rate_limits())["limit"].paused_for == 5
        assert await store.return_rate("limit", waiting.tat_us, COST) is False
        clock.now += 10 + KEEP_MS / 1000
        assert await store.rate_limits() == {}
        assert (await store.reserve_rate("limit", COST, BURST, 0)).granted


async def test_what_another_version_wrote_is_corrupt(store: RedisStore) -> None:
    key = store._full_key("limit")
    for text in (b"2 something", b"1 a . 1 . .\n{}", b"1 a . 1 . .\nnothing"):
        await store._server.look("SET", f"gogoscope:rate:{key}", text)
        with pytest.raises(CorruptRecordError, match="limit"):
            await store.reserve_rate("limit", COST, BURST, 0)
    await store._server.look("DEL", f"gogoscope:rate:{key}")
    assert (await store.reserve_rate("limit", COST, BURST, 0)).granted


async def test_a_list_says_what_it_leaves_out(
    store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await store.reserve_rate("limit", COST, BURST, 0)).granted
    for number, text in enumerate((b"2 something", b"1 a b 1 . .\n{}", b"1 a . 1 . .\nnothing")):
        key = store._full_key(f"corrupt {number}")
        await store._server.look("SET", f"gogoscope:rate:{key}", text)
    await store._server.look("LPUSH", f"gogoscope:rate:{store._full_key('a list')}", "1")
    assert [*await store.rate_limits()] == ["limit"]
    told = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert len(told) == 4
    for name in ("corrupt 0", "corrupt 1", "corrupt 2", "a list"):
        assert any(f":{name}' cannot be understood" in line for line in told), told
