"""A memory store that can be cut off, and whose answers can be lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import anyio

from gogoscope import StoreConnectionError, StoreTimeoutError
from gogoscope.stores.memory import MemoryStore

Lost = Literal["error", "silence"]
ANSWERS_LOST: tuple[Lost, ...] = ("error", "silence")


class FaultyStore(MemoryStore):
    """``renewals`` are counted; they and releases fail while ``cut_off``.

    The answer of the next renewal is lost with an error or in silence if ``lose_answer`` says so.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut_off = False
        self.renewals = 0
        self.lose_answer: Lost | None = None
        self.when_silent: Callable[[], object] = lambda: None

    async def renew_lock(self, *args: Any, **options: Any) -> Any:
        self.renewals += 1
        if self.cut_off:
            raise StoreConnectionError("cut off")
        reply = await super().renew_lock(*args, **options)
        lost, self.lose_answer = self.lose_answer, None
        if lost == "error":
            raise StoreTimeoutError("the answer was lost")
        if lost == "silence":
            self.when_silent()
            await anyio.sleep_forever()
        return reply

    async def release_lock(self, *args: Any, **options: Any) -> bool:
        if self.cut_off:
            raise StoreConnectionError("cut off")
        return await super().release_lock(*args, **options)
