"""Rule 7: KeyboardInterrupt and SystemExit are never results."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from gogoscope import scope
from tests.conftest import EVENT_LOOPS


@pytest.mark.parametrize("event_loop", EVENT_LOOPS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("awaited", [True, False])
def test_rule_7_interrupts_leave_the_program(
    error: type[BaseException], event_loop: tuple[str, dict[str, Any]], awaited: bool
) -> None:
    seen: list[object] = []

    async def work() -> None:
        raise error

    async def program() -> None:
        async with scope() as s:
            task = s.task(work)
            if awaited:
                seen.append(await task)
            await anyio.sleep_forever()

    backend, options = event_loop
    with pytest.raises(error):
        anyio.run(program, backend=backend, backend_options=options)
    assert not seen
