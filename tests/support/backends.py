"""The backends of a test that runs its own event loop, in virtual time for one."""

from __future__ import annotations

from typing import Literal

import pytest

Backend = Literal["asyncio", "trio"]
BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])
