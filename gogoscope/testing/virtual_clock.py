"""A clock that jumps to the next timer whenever nothing else can happen."""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar, TypeVarTuple

import anyio

from gogoscope._core.clock import clock_in_context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualClock:
    """Runs programs in virtual time, on asyncio or trio, without sleeping.

    Everything that waits for a time (``anyio.sleep``, timeouts, retries, leases, circuit breakers,
    cache expiry) sees one clock. When no task can go on, it jumps to the next time that somebody
    waits for, so that an hour passes in a moment. A program has the same result each time.

    Real events (sockets, threads) take no virtual time: set ``patience`` if the program
    waits for them under a timeout. uvloop keeps its time in C, where it cannot be replaced: a
    program for uvloop is tested on plain asyncio.

    :param start: what the wall clock shows at first, in seconds since the Unix epoch; now if left
        out
    :param patience: seconds of real time that real events are waited for before each jump
    """

    def __init__(self, start: float | None = None, *, patience: float = 0.0) -> None:
        self._start = time.time() if start is None else start
        self._patience = patience
        self._elapsed: Callable[[], float] = lambda: 0.0

    def time(self) -> float:
        """Return the wall clock, in seconds since the Unix epoch."""
        return self._start + self._elapsed()

    def elapsed(self) -> float:
        """Return the virtual seconds since the running program began, or that the last one took."""
        return self._elapsed()

    def run(
        self,
        fn: Callable[[*Ts], Awaitable[T]],
        *args: *Ts,
        backend: Literal["asyncio", "trio"] = "asyncio",
    ) -> T:
        """Run an async function to its end in virtual time; what ``anyio.run`` does in real time.

        :param fn: the function
        :param args: its arguments
        :param backend: the event loop, ``"asyncio"`` or ``"trio"``
        """
        self._start = self.time()
        options = self._for_trio() if backend == "trio" else self._for_asyncio()
        context = contextvars.copy_context()
        context.run(clock_in_context.set, _VirtualTime(self.time))
        return context.run(lambda: anyio.run(fn, *args, backend=backend, backend_options=options))

    def _for_asyncio(self) -> dict[str, Any]:
        elapsed = _Elapsed()
        self._elapsed = elapsed
        return {"loop_factory": lambda: _VirtualEventLoop(elapsed, self._patience)}

    def _for_trio(self) -> dict[str, Any]:
        from trio.testing import MockClock  # noqa: PLC0415 - trio may not be installed

        clock = MockClock(autojump_threshold=self._patience)
        begin = clock.current_time()
        self._elapsed = lambda: clock.current_time() - begin
        return {"clock": clock}


class _VirtualTime:
    """The clock that the program reads: nobody sets a virtual wall clock, so one clock is both."""

    def __init__(self, time: Callable[[], float]) -> None:
        self.wall = time
        self.elapsed = time


class _Elapsed:
    """Virtual seconds since the beginning."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class _VirtualEventLoop(asyncio.SelectorEventLoop):
    """An event loop of asyncio whose time is virtual."""

    def __init__(self, elapsed: _Elapsed, patience: float) -> None:
        self._elapsed = elapsed
        super().__init__(_JumpingSelector(elapsed, patience))

    def time(self) -> float:
        return self._elapsed()


class _JumpingSelector(selectors.DefaultSelector):
    """Lets time jump where a real selector would wait for it to pass."""

    def __init__(self, elapsed: _Elapsed, patience: float) -> None:
        super().__init__()
        self._elapsed_clock = elapsed
        self._patience = patience

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(self._patience)
        if not ready:
            self._elapsed_clock.seconds += timeout
        return ready
