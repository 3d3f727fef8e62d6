"""An error is an object of the user, which may run code that raises anything when it is touched."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Literal, NoReturn

import anyio
import pytest

from gogoscope import CircuitBreaker, Once, RateLimit, Retry, Scope, scope
from gogoscope.stores import MemoryStore
from tests.support.hostile_errors import HOSTILE, FrozenError, hostile, kinds, refuse

pytestmark = pytest.mark.anyio

Fail = Callable[[], Awaitable[None]]


async def leave_it(s: Scope, fail: Fail) -> None:
    s.task(fail)


async def drop_it(s: Scope, fail: Fail) -> None:
    await s.task(fail)
    await anyio.sleep(0.01)


async def unwrap_it(s: Scope, fail: Fail) -> None:
    (await s.task(fail)).unwrap()


async def raise_it_in_the_body(s: Scope, fail: Fail) -> None:
    s.task(fail)
    await anyio.sleep(0.01)
    await fail()


async def try_again(s: Scope, fail: Fail) -> None:
    breaker = CircuitBreaker("hostile")
    await s.task(fail, retry=Retry(3, delay=0), circuit_breaker=breaker, timeout=60)


async def combine(s: Scope, fail: Fail) -> None:
    await s.all(s.task(fail, dedupe="key"), s.task(fail, dedupe="key"))
    await s.race([fail, fail])
    await s.any([fail, fail])
    await s.map(lambda _: fail(), range(3))
    async for _ in s.as_completed(lambda _: fail(), range(3)):
        pass


async def tick(s: Scope, fail: Fail) -> None:
    await s.every(60, fail)


async def load(s: Scope, fail: Fail) -> None:
    async def get() -> None:
        await s.cache.get_or_set("key", fail, 60)

    await s.all(*[s.task(get) for _ in range(3)])


async def hold_a_lock(s: Scope, fail: Fail) -> None:
    async with s.lock("key") as locked:
        locked.task(fail)


async def in_a_child(s: Scope, fail: Fail) -> None:
    async with s.child(fail_fast=True) as inner:
        inner.task(fail)


async def hold_a_permit(s: Scope, fail: Fail) -> None:
    async with s.semaphore("key", 2), s.read_lock("key"):
        await fail()


async def run_once(s: Scope, fail: Fail) -> None:
    s.task(fail, once=Once("one", 60, keep_errors=KeyError))
    async with s.claim("two", keep=60, keep_errors=Exception):
        await fail()


async def limit(s: Scope, fail: Fail) -> None:
    few = RateLimit("few", rate=1000, burst=10, retry_after=lambda outcome: None)
    s.task(fail, rate_limit=few)
    s.task(few(fail))
    async with few.acquire():
        await fail()


async def go_on_with_a_job(s: Scope, fail: Fail) -> None:
    with suppress(Exception):
        async with s.job("one"):
            await fail()
    async for _, result in s.resume("two", lambda _: fail(), range(3)):
        result.unwrap()


async def resume_from_a_source(s: Scope, fail: Fail) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await fail()

    async for _, result in s.resume("key", double, source()):
        result.unwrap()


async def enter_what_fails_at_its_end(s: Scope, fail: Fail) -> None:
    class Resource:
        async def __aenter__(self) -> None: ...

        async def __aexit__(self, *_: object) -> None:
            await fail()

    await s.enter(Resource())
    await s.enter(Resource())


async def double(number: int) -> int:
    return 2 * number


PROGRAMS = [
    *(leave_it, drop_it, unwrap_it, raise_it_in_the_body, try_again, combine, tick, load),
    *(hold_a_lock, in_a_child, hold_a_permit, run_once, limit, go_on_with_a_job),
    *(resume_from_a_source, enter_what_fails_at_its_end),
]


class Lines(logging.Handler):
    """Formats what is logged, as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter().format(record))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("hostility", HOSTILE)
def test_rule_4_a_hostile_error_is_an_error_like_others(
    hostility: str,
    program: Callable[[Scope, Fail], Awaitable[None]],
    backend: Literal["asyncio", "trio"],
) -> None:
    kind = hostile(hostility)
    raised: list[BaseException] = []

    async def fail() -> None:
        await anyio.sleep(0)
        raise kind("text")

    async def main() -> None:
        try:
            async with scope(persistence=MemoryStore()) as s:
                await program(s, fail)
        except BaseException as left:
            raised.append(left)

    log = Lines()
    logger = logging.getLogger("gogoscope")
    logger.addHandler(log)
    logger.propagate = False
    try:
        anyio.run(main, backend=backend)
    finally:
        logger.propagate = True
        logger.removeHandler(log)
    assert len(raised) == 1
    assert kinds(raised[0]) == {kind}
    assert all("HostileError" in line for line in log.lines)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_rule_4_a_frozen_error_is_an_error_like_others(
    program: Callable[[Scope, Fail], Awaitable[None]],
) -> None:
    async def fail() -> None:
        await anyio.sleep(0)
        raise FrozenError(1)

    with pytest.raises((FrozenError, ExceptionGroup)) as caught:
        async with scope(persistence=MemoryStore()) as s:
            await program(s, fail)
    assert kinds(caught.value) == {FrozenError}


@pytest.mark.parametrize("hostility", ["false", "empty"])
async def test_rule_4_a_falsy_error_is_logged_with_its_kind_and_text(
    hostility: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind = type("FalsyError", (Exception,), HOSTILE[hostility])

    async def fail() -> None:
        raise kind("what happened")

    with pytest.raises(ExceptionGroup):
        async with scope() as s:
            await drop_it(s, fail)
    assert "FalsyError: what happened" in caplog.text


async def test_rule_4_on_error_takes_a_hostile_error() -> None:
    told: list[Exception] = []
    kind = type("HostileError", (Exception,), HOSTILE["every attribute"])

    async def fail() -> None:
        raise kind

    async with scope(on_error=told.append) as s:
        s.task(fail)
        await s.task(fail)
    assert [type(error) for error in told] == [kind, kind]


class UnsplitGroup(BaseExceptionGroup[BaseException]):
    """Refuses to make a part of itself."""

    def derive(self, errors: object) -> NoReturn:
        refuse(errors)


def nested(errors: list[BaseException]) -> BaseExceptionGroup[BaseException]:
    """Return a group that is deeper than the interpreter can split."""
    group = BaseExceptionGroup("deep", errors)
    for _ in range(10 * sys.getrecursionlimit()):
        group = BaseExceptionGroup("deep", [group])
    return group


@pytest.mark.parametrize("group", [partial(UnsplitGroup, "hostile"), nested])
async def test_rule_7_the_errors_beside_a_cancellation_come_out_of_any_group(
    group: Callable[[list[BaseException]], BaseException],
) -> None:
    async def fail() -> None:
        try:
            await anyio.sleep_forever()
        except BaseException as cancelled:
            raise group([cancelled, KeyError("clean-up")]) from None

    with anyio.fail_after(5):
        async with scope() as s:
            task = s.task(fail)
            await anyio.wait_all_tasks_blocked()
            task.cancel()
            error = (await task).error
    assert error is not None
    assert kinds(error) == {KeyError}
