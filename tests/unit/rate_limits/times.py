"""Notes when calls go."""

from __future__ import annotations

from typing import Any

import anyio


class Times:
    """An async function that notes when it is called, in seconds since the first look."""

    def __init__(self) -> None:
        self.began = anyio.current_time()
        self.at: list[float] = []

    async def __call__(self, *_: Any) -> int:
        self.at.append(round(anyio.current_time() - self.began, 3))
        return len(self.at)

    def now(self) -> float:
        return round(anyio.current_time() - self.began, 3)
