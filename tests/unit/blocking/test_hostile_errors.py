"""Errors of a thread that refuse to be touched come out of a client as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from gogoscope import CircuitBreaker, Once, RateLimit, Retry
from gogoscope.blocking import Client
from tests.support.hostile_errors import HOSTILE, FrozenError, hostile

Fail = Callable[[], NoReturn]

CALLS: dict[str, Callable[[Client, Fail], object]] = {
    "call": lambda db, fail: db.call(fail),
    "retry": lambda db, fail: db.call(fail, retry=Retry(3, delay=0)),
    "circuit breaker": lambda db, fail: db.call(fail, circuit_breaker=CircuitBreaker("hostile")),
    "once": lambda db, fail: db.call(fail, once=Once("one", 60)),
    "kept": lambda db, fail: db.call(fail, once=Once("two", 60, keep_errors=Exception)),
    "load": lambda db, fail: db.cache.get_or_set("key", fail, 60),
    "lock": lambda db, fail: inside(db.lock("key"), fail),
    "semaphore": lambda db, fail: inside(db.semaphore("key", 1), fail),
    "write lock": lambda db, fail: inside(db.write_lock("key"), fail),
    "handle": lambda db, fail: inside(db.acquire_lock("handle", 30), fail),
    "claim": lambda db, fail: inside(db.claim("three", keep=60), fail),
    "acquire": lambda db, fail: inside(db.acquire(RateLimit("few", rate=1000, burst=9)), fail),
}


def inside(block: Any, fail: Fail) -> None:
    with block:
        fail()


@pytest.mark.parametrize("hostility", [*HOSTILE, "frozen"])
def test_rule_4_a_hostile_error_comes_out_as_it_is(db: Client, hostility: str) -> None:
    error = FrozenError(1) if hostility == "frozen" else hostile(hostility)("no")

    def fail() -> NoReturn:
        raise error

    for name, call in CALLS.items():
        with pytest.raises(BaseException) as caught:
            call(db, fail)
        assert caught.value is error, name
    for block in (db.lock("key", wait=0), db.semaphore("key", 1, wait=0), db.write_lock("key")):
        with block:  # it was released
            pass


def test_an_error_of_code_that_has_no_module_comes_out_as_it_is(db: Client) -> None:
    made: dict[str, Any] = {}
    exec("def fail():\n    raise ValueError('no')", made)
    made.pop("__name__", None)
    with pytest.raises(ValueError, match="no"):
        db.call(made["fail"])
