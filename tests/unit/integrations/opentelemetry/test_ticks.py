"""The spans and metrics of the ticks of schedules."""

from __future__ import annotations

import anyio
import pytest
from opentelemetry.trace import StatusCode

from gogoscope import Tick, interval, scope
from gogoscope.stores.memory import MemoryStore
from tests.support.exported import Exported

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_a_tick_has_a_span_and_is_measured(exported: Exported) -> None:
    ends: list[BaseException | None] = [None, ValueError("broken")]
    ended = anyio.Event()

    async def sync(tick: Tick) -> None:
        if not ends:
            ended.set()
            await anyio.sleep_forever()
        error = ends.pop(0)
        if error is not None:
            raise error

    sync.__qualname__ = "sync"
    async with scope(name="s", persistence=MemoryStore()) as s:
        s.schedule("sync", interval(0.05), sync, on_error=lambda error: None)
        await ended.wait()
        s.cancel()
    done, failed, stopped = (exported.span("tick sync", n) for n in range(3))
    assert done.status.status_code is StatusCode.UNSET
    assert failed.status.status_code is StatusCode.ERROR
    assert stopped.attributes["gogoscope.cancelled"] is True
    metrics = exported.metrics()
    assert metrics["gogoscope.tick.duration", "sync", "succeeded"] == 1
    assert metrics["gogoscope.tick.duration", "sync", "failed", "ValueError"] == 1
    assert metrics["gogoscope.tick.duration", "sync", "cancelled"] == 1
    assert exported.tree() == [
        "scope s",
        "  task schedule sync",
        *[
            "    tick sync",
            "      scope s at schedule sync",
            "        task sync",
        ]
        * 3,
    ]
