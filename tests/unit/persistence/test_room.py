"""Waiting in a queue for a place costs nothing while the store answers others."""

from __future__ import annotations

from typing import Literal

import anyio
import pytest

from gogoscope.persistence import Room, monotonic
from gogoscope.testing import VirtualClock


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("answers", "waited"), [(True, 5.0), (False, 0.0)])
def test_who_waited_is_told_for_how_long_if_the_store_answered_others(
    virtual_clock: VirtualClock,
    backend: Literal["asyncio", "trio"],
    answers: bool,
    waited: float,
) -> None:
    async def main() -> None:
        room = Room(1)
        assert room.take()
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                async with room.place(8) as told:
                    assert told == waited

            group.start_soon(wait)
            await anyio.sleep(5)
            if answers:
                room.answered = monotonic()
            room.leave()
        async with room.place(8) as told:
            assert told == 0

    virtual_clock.run(main, backend=backend)
