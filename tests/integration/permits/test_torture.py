"""The torture of permits, short; and its judge can tell right from wrong.

``GOGOSCOPE_TORTURE_SECONDS`` makes it longer.
"""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

from tests.integration.permits.judge import Verdict, judge
from tests.integration.permits.torture import torture
from tests.support.engines import DYNAMODB
from tests.support.postgres_server import POSTGRES
from tests.support.redis_server import REDIS

SECONDS = float(os.environ.get("GOGOSCOPE_TORTURE_SECONDS", "8"))


@pytest.mark.slow
@pytest.mark.parametrize("persistence", ["sqlite", DYNAMODB, POSTGRES, REDIS])
def test_permits_hold_under_torture(persistence: str, request: pytest.FixtureRequest) -> None:
    if persistence == "dynamodb":
        request.getfixturevalue("atomic_dynamodb")
    verdict = anyio.run(torture, persistence, SECONDS, 7)
    print(verdict)
    assert not verdict.problems, str(verdict)
    assert verdict.faults["killed"] + verdict.faults["stopped and continued"] > 0
    for kind in ("semaphore", "read", "write"):
        assert verdict.happened[f"acquired {kind}"] > 0, str(verdict)


def line(what: str, at: float, kind: str, token: int, **more: Any) -> dict[str, Any]:
    return {"what": what, "at": at, "kind": kind, "token": token, "waiter": 0, **more}


def turn(kind: str, token: int, *times: float, began: float = 0.0) -> list[dict[str, Any]]:
    acquired = line("acquired", times[0], kind, token, began=began)
    return [acquired, *(line("held", at, kind, token) for at in times)]


def judged(*lines: list[dict[str, Any]], limit: int = 2) -> Verdict:
    return judge(dict(enumerate(lines)), limit)


def test_the_judge_accepts_as_many_holders_as_there_may_be() -> None:
    verdict = judged(
        turn("semaphore", 1, 1, 2, 3),
        turn("semaphore", 2, 2.5, 4),
        turn("semaphore", 3, 3.5, 5),
        turn("read", 4, 1, 3),
        turn("read", 5, 2, 4),
        turn("write", 6, 4.5, 6),
    )
    assert not verdict.problems
    assert verdict.most == {"semaphore": 2, "read": 2, "write": 1}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([turn("semaphore", n, 1 + n, 9) for n in range(3)], "3 held the semaphore at 3.000"),
        ([turn("read", 1, 1, 3), turn("write", 2, 2, 4)], "1 wrote and 1 read at 2.000"),
        ([turn("write", 1, 1, 3), turn("write", 2, 2, 4)], "2 wrote and 0 read at 2.000"),
        ([turn("read", 1, 1), turn("read", 1, 5)], "1 was given 2 times"),
        ([turn("read", 2, 1), turn("read", 1, 5, began=3)], "1 came after a higher token"),
    ],
)
def test_the_judge_reports_who_must_not_hold(
    lines: list[list[dict[str, Any]]], problem: str
) -> None:
    assert any(problem in text for text in judged(*lines).problems)
