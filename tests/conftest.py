"""What every test runs on."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

pytest_plugins = [
    "pytester",
    "tests.support.engines",
    "tests.support.redis_server",
    "tests.support.postgres_server",
]

EVENT_LOOPS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        id="uvloop",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no Windows build"),
    ),
    pytest.param(("trio", {}), id="trio"),
]

if sys.version_info >= (3, 12):

    def eager_loop() -> asyncio.AbstractEventLoop:
        """Return an event loop whose tasks take their first step where they are created."""
        loop = asyncio.new_event_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    EVENT_LOOPS.append(pytest.param(("asyncio", {"loop_factory": eager_loop}), id="eager"))


@pytest.fixture(params=EVENT_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run the test on asyncio, asyncio with uvloop or eager tasks, and trio."""
    return request.param


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what takes long on the other event loops to the command for slow tests."""
    for item in items:
        loops = set(item.name.partition("[")[2].rstrip("]").split("-"))
        if item.get_closest_marker("slow_elsewhere") and loops & {"uvloop", "trio"}:
            item.add_marker(pytest.mark.slow)
