"""Cancels an operation at each of its awaits in turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio


class CancelledAt:
    """Awaits an operation and cancels it when it suspends for the n-th time.

    ``suspensions`` counts how often it did, ``ended`` tells whether it came to its own end.
    """

    def __init__(self, operation: Awaitable[Any], n: int) -> None:
        self._operation = operation
        self._n = n
        self.suspensions = 0
        self.ended = False
        self.result: Any = None

    async def run(self) -> None:
        with anyio.CancelScope() as scope:
            self.result = await _Counted(self, scope)
            self.ended = True

    def suspended(self, scope: anyio.CancelScope) -> None:
        self.suspensions += 1
        if self.suspensions == self._n:
            scope.cancel()

    def steps(self, scope: anyio.CancelScope) -> Generator[Any, Any, Any]:
        inner = self._operation.__await__()
        step: Callable[..., Any] = inner.send
        args: tuple[Any, ...] = (None,)
        while True:
            try:
                awaited = step(*args)
            except StopIteration as stop:
                return stop.value
            self.suspended(scope)
            try:
                args = ((yield awaited),)
                step = inner.send
            except BaseException as error:  # noqa: BLE001 - handed on to the operation
                args = (error,)
                step = inner.throw


class _Counted:
    def __init__(self, attempt: CancelledAt, scope: anyio.CancelScope) -> None:
        self._attempt = attempt
        self._scope = scope

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._attempt.steps(self._scope)


async def cancel_everywhere(
    attempt_at: Callable[[int], Awaitable[CancelledAt]],
) -> int:
    """Run an operation, cancelled at its first, second, ... await, until it ends uncancelled."""
    n = 1
    while True:
        attempt = await attempt_at(n)
        if attempt.suspensions < n:
            assert attempt.ended
            return n - 1
        n += 1
