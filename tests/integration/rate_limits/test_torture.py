"""The torture of rate limits, short; and its judge can tell right from wrong.

``GOGOSCOPE_TORTURE_SECONDS`` makes it longer.
"""

from __future__ import annotations

import os
from functools import partial

import anyio
import pytest

from tests.integration.rate_limits.judge import Call, Verdict, judge
from tests.integration.rate_limits.plan import PROCESSES
from tests.integration.rate_limits.torture import torture
from tests.support.engines import DYNAMODB
from tests.support.postgres_server import POSTGRES
from tests.support.redis_server import REDIS

SECONDS = float(os.environ.get("GOGOSCOPE_TORTURE_SECONDS", "4"))
LONG = SECONDS >= 60
"""Whether it runs for long enough to judge how much of the rate is used, and by whom."""


@pytest.mark.slow
@pytest.mark.parametrize("cancel", [False, True] if LONG else [True])
@pytest.mark.parametrize(
    "persistence", ["sqlite", DYNAMODB, POSTGRES, REDIS] if LONG else ["sqlite", REDIS]
)
def test_a_rate_limit_holds_under_torture(
    persistence: str, cancel: bool, request: pytest.FixtureRequest
) -> None:
    if persistence == "dynamodb":
        request.getfixturevalue("atomic_dynamodb")
    verdict = anyio.run(partial(torture, persistence, SECONDS, 7, cancel=cancel))
    assert not verdict.problems, str(verdict)
    assert verdict.calls >= PROCESSES
    if LONG:
        print(persistence, verdict)
    if LONG and not cancel:
        assert verdict.reached >= 0.95, str(verdict)
        assert min(verdict.shares.values()) >= 0.5, str(verdict)


def judged(*calls: Call, held: float = 0.0) -> Verdict:
    return judge(
        sorted(calls, key=lambda call: call.at),
        rate=10,
        burst=2,
        spread=0,
        held=held,
        slots=2,
        begin=0,
        end=2,
    )


def at(time: float, delay: float = 0.0, cost: float = 1, slot: int = 0) -> Call:
    return Call(time, delay, cost, slot)


def test_the_judge_accepts_a_burst_and_the_rate() -> None:
    verdict = judged(at(0), at(0), *(at(0.1 * n, slot=n % 2) for n in range(1, 20)))
    assert not verdict.problems
    assert verdict.reached == pytest.approx(21 / 20)
    assert min(verdict.shares.values()) > 0.9


def test_the_judge_reports_a_window_that_is_too_full() -> None:
    crowd = [at(0), at(0), at(0.1), at(0.15)]
    assert any("too full" in text for text in judged(*crowd).problems)
    assert not judged(*crowd, held=1).problems
    assert any("too full" in text for text in judged(at(0, cost=2), at(0.05)).problems)


def test_the_judge_allows_for_the_delay_of_a_call_and_of_no_other() -> None:
    late = [at(1.0, delay=0.5), at(1.0), at(1.0), at(1.05)]
    assert not judged(*late[:3]).problems
    assert judged(*late).problems
    assert judged(at(0, delay=0.5), at(1.0), at(1.0), at(1.0)).problems
