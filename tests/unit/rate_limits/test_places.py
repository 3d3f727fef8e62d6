"""The places of a process: nobody goes before the time of its place."""

from __future__ import annotations

import math
import time

import anyio
import pytest

from gogoscope._core.clock import monotonic
from gogoscope.rate_limits.places import Place, Places, Want


@pytest.mark.anyio
async def test_nobody_goes_early_whose_place_was_taken_while_it_slept() -> None:
    places, want, now = Places("api", 0), Want(1, math.inf), monotonic()
    for number, go_at in enumerate((now + 0.5, now + 3600)):
        places.add(Place(1, number, number, go_at))
    places.join(want)
    async with anyio.create_task_group() as tg:
        tg.start_soon(places.turn, want)
        await anyio.wait_all_tasks_blocked()
        time.sleep(0.6)  # the loop is busy until that time has passed
        assert places.take_ready() == 1
        with anyio.move_on_after(0.1):
            while places:
                await anyio.sleep(0.01)
        assert places, "it went at the place that comes in an hour"
        tg.cancel_scope.cancel()
