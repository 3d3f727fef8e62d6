"""Options of a rate limit that are wrong are refused by name, where they are written."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gogoscope import RateLimit, scope

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"name": ""}, ValueError, "name"),
        ({"name": 3}, TypeError, "name"),
        ({"rate": 0}, ValueError, "rate must be more than 0 and finite, got 0"),
        ({"rate": float("inf")}, ValueError, "rate must be more than 0 and finite"),
        ({"rate": 10**400}, ValueError, "rate must be more than 0 and finite"),
        ({"burst": 10**400}, ValueError, r"burst must be less than 2\*\*63"),
        ({"burst": 10**12}, ValueError, "rate must fill the bucket within a hundred years"),
        ({"per": 1e15}, ValueError, "rate must fill the bucket within a hundred years"),
        ({"rate": 5e-324}, ValueError, "rate must fill the bucket within a hundred years"),
        ({"rate": "5"}, TypeError, "rate must be a number, got '5' of type str"),
        ({"rate": True}, TypeError, "rate must be a number"),
        ({"rate": 2_000_000}, ValueError, "rate must be at most 1,000,000 a second"),
        ({"per": 0}, ValueError, "per must be more than 0 seconds"),
        ({"burst": 0}, ValueError, "burst must be 1 or more, got 0"),
        ({"burst": 2.5}, TypeError, "burst must be an int"),
        ({"wait": -1}, ValueError, "wait must be 0 or more seconds"),
        ({"batch": 0}, ValueError, "batch must be 1 or more, or 'auto', got 0"),
        ({"batch": "all"}, TypeError, "batch must be a number of calls or 'auto', got 'all'"),
        ({"batch": 6}, ValueError, r"batch must be at most burst \(5\)"),
        ({"local_share": 1.5}, ValueError, "local_share must be between 0 and 1, got 1.5"),
        ({"local_share": None}, TypeError, "local_share must be a number"),
        ({"retry_after": 3}, TypeError, "retry_after must be a function"),
    ],
)
def test_a_wrong_option_is_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"name": "api", "rate": 1, "burst": 5} | options
    with pytest.raises(error, match=message):
        RateLimit(arguments.pop("name"), **arguments)


async def test_a_cost_above_the_burst_is_refused_before_anything_is_asked() -> None:
    tokens = RateLimit("tokens", rate=100, burst=100)
    with pytest.raises(ValueError, match="cost must be at most the burst of rate limit 'tokens'"):
        tokens.acquire(cost=101)
    with pytest.raises(ValueError, match="cost must be more than 0"):
        tokens.acquire(cost=0)
    with pytest.raises(TypeError, match="cost must be a number"):
        tokens.acquire(cost="all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wait must be 0 or more"):
        tokens.acquire(wait=-1)


async def test_a_permit_refuses_what_cannot_have_been_spent() -> None:
    tokens = RateLimit("spent", rate=100, burst=100)
    with pytest.raises(AttributeError, match="enter it first"):
        tokens.acquire().spent(1)  # type: ignore[attr-defined]
    async with tokens.acquire(10) as permit:
        assert repr(permit) == "<Permit for 10>"
        for wrong in (-1, float("nan"), float("inf")):
            with pytest.raises(ValueError, match="units must be"):
                permit.spent(wrong)
        with pytest.raises(TypeError, match="units must be a number"):
            permit.spent(False)
        permit.spent(0)
        assert repr(permit) == "<Permit for 10, spent 0>"


def test_durations_may_be_timedeltas() -> None:
    limit = RateLimit("api", rate=60, per=timedelta(minutes=1), wait=timedelta(seconds=2))
    assert (limit.per, limit.wait) == (60, 2)
    assert repr(limit).startswith("RateLimit(name='api', rate=60, per=60.0, burst=1, wait=2.0")


async def test_a_rate_limit_of_a_task_is_checked_at_once() -> None:
    with pytest.raises(
        TypeError, match="rate_limit must be a RateLimit, or False to switch it off"
    ):
        scope(rate_limit=5)  # type: ignore[arg-type]
    async with scope() as s:
        with pytest.raises(TypeError, match="rate_limit must be a RateLimit"):
            s.task(print, rate_limit="api")  # type: ignore[arg-type]


def test_what_a_rate_limit_shows() -> None:
    shown = {name for name in dir(RateLimit) if not name.startswith("_")}
    options = {"name", "rate", "per", "burst", "wait", "batch", "local_share", "retry_after"}
    assert shown == options | {"acquire", "call", "pause", "state"}
