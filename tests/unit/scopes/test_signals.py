"""Rule 13: stopping a program from outside."""

from __future__ import annotations

import sys
from typing import Any

import anyio
import pytest

from gogoscope import scope

pytestmark = pytest.mark.anyio


async def test_rule_13_stopping_is_set_before_the_grace_period_and_cancel_comes_after(
    anyio_backend: Any,
) -> None:
    if sys.platform == "win32":
        pytest.skip("signals of this kind do not exist here")
    import os
    import signal

    events: list[str] = []

    async def polite() -> None:
        await s.stopping.wait()
        events.append("stopping")

    async def stubborn() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            events.append("cancelled")

    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=0.05)
            s.task(polite)
            s.task(stubborn)
            await anyio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
    assert events == ["stopping", "cancelled"]
    assert s.cancel_reason == "SIGTERM"


async def test_rule_13_a_second_signal_cancels_at_once() -> None:
    if sys.platform == "win32":
        pytest.skip("signals of this kind do not exist here")
    import os
    import signal

    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=60, signals=[signal.SIGINT, signal.SIGTERM])
            await anyio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            await s.stopping.wait()
            os.kill(os.getpid(), signal.SIGTERM)
            await anyio.sleep_forever()
    assert s.cancel_reason == "SIGINT"


async def test_rule_13_a_block_that_stops_by_itself_is_not_cancelled() -> None:
    if sys.platform == "win32":
        pytest.skip("signals of this kind do not exist here")
    import os
    import signal

    with anyio.fail_after(5):
        async with scope() as s:
            s.stop_on_signals(grace=60)
            await anyio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            await s.stopping.wait()
    assert s.cancel_reason is None
