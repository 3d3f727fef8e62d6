"""What every test runs on."""

from __future__ import annotations

import sys
from typing import Any

import pytest

pytest_plugins = ["pytester", "tests.support.engines"]

EVENT_LOOPS = [
    pytest.param(("asyncio", {}), id="asyncio"),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        id="uvloop",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no Windows build"),
    ),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=EVENT_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run the test on asyncio, asyncio with uvloop, and trio."""
    return request.param
