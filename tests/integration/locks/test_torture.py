"""The torture of locks, short; and its judge can tell right from wrong."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.integration.locks.torture import torture
from tests.integration.locks.torture_parts.judge import Log, Verdict, judge
from tests.support.engines import DYNAMODB
from tests.support.postgres_server import POSTGRES
from tests.support.redis_server import REDIS


@pytest.mark.slow
@pytest.mark.parametrize("persistence", ["sqlite", DYNAMODB, POSTGRES, REDIS])
def test_locks_hold_under_torture(persistence: str, request: pytest.FixtureRequest) -> None:
    if persistence == "dynamodb":
        request.getfixturevalue("atomic_dynamodb")
    verdict = anyio.run(torture, persistence, 10.0, 7)
    assert not verdict.problems, str(verdict)
    assert verdict.faults["killed"] > 0
    assert verdict.faults["stopped and continued"] > 0
    assert verdict.faults["clock set forward"] + verdict.faults["clock set back"] > 0
    assert verdict.happened["writes accepted"] > 10
    if persistence in ("postgresql", "redis"):
        assert verdict.faults["crashes of the server"] == 1
    if persistence != "sqlite":
        assert verdict.faults["answers dropped after the write"] > 0


def line(what: str, at: float, **more: Any) -> dict[str, Any]:
    return {"what": what, "at": at, "waiter": 0, "key": "one", **more}


def acquired(token: int, began: float, at: float) -> dict[str, Any]:
    return line("acquired", at, token=token, began=began, lease=1)


def judged(
    *lines: list[dict[str, Any]],
    writes: list[tuple[str, int, int, bool]] | None = None,
    ends: list[tuple[float, int]] | None = None,
) -> Verdict:
    return judge(Log(dict(enumerate(lines)), writes or []), ends or [], slow_store=False)


FINE = [line("waiting", 0), acquired(5, 0, 1), line("ended", 2)]


def test_the_judge_accepts_turns_in_order() -> None:
    second = [line("waiting", 0), acquired(6, 0, 2.1), line("ended", 3)]
    verdict = judged(FINE, second, writes=[("one", 5, 0, True), ("one", 6, 1, True)])
    assert not verdict.problems
    assert verdict.longest_gap == pytest.approx(1)


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ([acquired(5, 0, 2.1)], "given 2 times"),
        ([acquired(4, 1.5, 2.1)], "came after a higher token"),
        ([line("waiting", 0), acquired(6, 0, 9)], "nobody had the lock for 7.00 s"),
        ([line("waiting", 2), line("gave up", 9)], "nobody had the lock for 7.00 s"),
    ],
)
def test_the_judge_reports_forbidden_tokens_and_waits(
    second: list[dict[str, Any]], problem: str
) -> None:
    assert any(problem in text for text in judged(FINE, second).problems)


def test_the_judge_counts_the_death_of_a_waiter_as_that_of_a_holder() -> None:
    killed = [line("waiting", 1)]
    waits = [line("waiting", 2), acquired(6, 2, 8)]
    assert judged(FINE, killed, waits, ends=[]).problems
    assert not judged(FINE, killed, waits, ends=[(5, 1)]).problems


@pytest.mark.parametrize(
    ("writes", "problem"),
    [
        ([("one", 6, 0, True), ("one", 5, 1, True)], "was accepted after"),
        ([("one", 6, 0, True), ("one", 6, 1, True)], "two processes wrote"),
    ],
)
def test_the_judge_reports_forbidden_writes(
    writes: list[tuple[str, int, int, bool]], problem: str
) -> None:
    assert any(problem in text for text in judged(writes=writes).problems)
