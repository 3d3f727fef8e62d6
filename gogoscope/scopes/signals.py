"""Stopping gracefully when the operating system asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from datetime import timedelta

import anyio

from gogoscope._core.durations import seconds
from gogoscope.scopes.block import Block

DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(
    scope: Block, grace: float | timedelta, signals: Iterable[signal.Signals] | None
) -> None:
    """Set a scope's ``stopping`` on a signal, and cancel it later, or on a second one."""
    scope._check_open()
    patience = seconds("grace", grace, zero=True, infinite=True)
    numbers = DEFAULT_SIGNALS if signals is None else tuple(signals)

    async def watch() -> None:
        with anyio.open_signal_receiver(*numbers) as received:
            first = await anext(aiter(received))
            scope.stopping.set()
            with anyio.move_on_after(patience):
                await anext(aiter(received))
            scope.cancel(first.name)

    scope._home.spawn(watch, brief=False)
