"""Stopping gracefully when the operating system asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import anyio

from gogoscope._core.durations import seconds

if TYPE_CHECKING:
    from gogoscope.scopes.block import Lifetime

DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(
    scope: Lifetime, grace: float | timedelta, signals: Iterable[signal.Signals] | None
) -> None:
    """Set a scope's ``stopping`` on a signal, and cancel it later, or on a second one."""
    scope.check_open()
    patience = seconds("grace", grace, zero=True, infinite=True)
    numbers = DEFAULT_SIGNALS if signals is None else tuple(signals)

    async def watch() -> None:
        with anyio.open_signal_receiver(*numbers) as received:
            first = await anext(aiter(received))
            scope.stopping.set()
            with anyio.move_on_after(patience):
                await anext(aiter(received))
            scope.cancel(first.name)

    scope.spawn(watch, brief=False)
