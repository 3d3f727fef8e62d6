"""An error is an object of the user, which may run code that raises anything when it is touched."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NoReturn

import anyio
import pytest

from gogoscope import CircuitBreaker, Retry, Scope, scope
from gogoscope.stores import MemoryStore

pytestmark = pytest.mark.anyio

Fail = Callable[[], Awaitable[None]]


class HostileExit(BaseException):
    """What must never come out of touching an error."""


def refuse(*arguments: object) -> NoReturn:
    raise HostileExit


HOSTILE: dict[str, dict[str, Any]] = {
    "every attribute": {"__getattribute__": refuse},
    "other attributes": {"__getattr__": refuse},
    "setting": {"__setattr__": refuse},
    "text": {"__repr__": refuse, "__str__": refuse, "__format__": refuse},
    "comparing": {"__eq__": refuse, "__hash__": refuse},
    "truth": {"__bool__": refuse},
    "length": {"__len__": refuse},
    "properties": {
        name: property(refuse, refuse)
        for name in (
            *("__class__", "__dict__", "__notes__", "__traceback__", "__cause__", "__context__"),
            *("__suppress_context__", "args", "add_note", "with_traceback", "reason", "retryable"),
        )
    },
    "false": {"__bool__": lambda error: False},
    "empty": {"__len__": lambda error: 0},
}


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


PROGRAMS = [
    *(leave_it, drop_it, unwrap_it, raise_it_in_the_body, try_again, combine, tick, load),
    *(hold_a_lock, in_a_child),
]


def kinds(raised: BaseException) -> set[type[BaseException]]:
    """Return the kinds of the errors in an exception, without touching them."""
    if issubclass(type(raised), BaseExceptionGroup):
        members = vars(BaseExceptionGroup)["exceptions"].__get__(raised)
        return set().union(*map(kinds, members))
    return {type(raised)}


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
    kind = type("HostileError", (Exception,), HOSTILE[hostility])
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


@dataclasses.dataclass(frozen=True)
class FrozenError(Exception):
    code: int


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
