"""A clock that jumps to the next timer whenever nothing else can happen.

The event loop that runs is made virtual, and real again, where it stands: so a block of any
program may run in virtual time, whoever made its event loop. Its time only ever goes forward. While
it is virtual it stands still until no task can go on, and then jumps; afterwards it goes on with
the real clock from where it is. On asyncio that is done by replacing what an event loop measures
time and waits with, on trio by replacing the clock of the run with :class:`trio.testing.MockClock`.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeVar, TypeVarTuple

import anyio

from gogoscope._core.callables import async_function
from gogoscope._core.cancellation import on_asyncio
from gogoscope._core.clock import clock_in_context
from gogoscope._core.durations import seconds

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
    :raises TypeError: if one of them is no number
    :raises ValueError: if ``patience`` is out of range
    """

    def __init__(self, start: float | None = None, *, patience: float = 0.0) -> None:
        if start is not None and not isinstance(start, int | float):
            raise TypeError(
                "start must be a number of seconds since the Unix epoch, or None, "
                f"got {start!r} of type {type(start).__name__}"
            )
        self._start = time.time() if start is None else start
        self._patience = seconds("patience", patience, zero=True)
        self._timeline = f"virtual {os.urandom(8).hex()}"
        self._before = 0.0  # what has passed in the programs before this one
        self._begin = 0.0  # the event loop's time when this one began
        self._now: Callable[[], float] = lambda: 0.0  # the event loop's time

    def __repr__(self) -> str:
        return f"<VirtualClock {self.time():.3f}, {self.elapsed():g} s elapsed>"

    def time(self) -> float:
        """Return the wall clock, in seconds since the Unix epoch."""
        return self._start + self._before + self.elapsed()

    def elapsed(self) -> float:
        """Return the virtual seconds since the running program began, or that the last one took."""
        return self._now() - self._begin

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
        :raises TypeError: if ``fn`` is no async function
        :raises ValueError: if the event loop is another one
        """
        fn = async_function(fn, "clock.run({}, *args)")
        if backend not in ("asyncio", "trio"):
            raise ValueError(f"backend must be 'asyncio' or 'trio', got {backend!r}")
        options = {"loop_factory": asyncio.SelectorEventLoop} if backend == "asyncio" else {}
        return anyio.run(partial(self._main, fn, *args), backend=backend, backend_options=options)

    async def _main(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
        with self._installed(begin=0.0):
            return await fn(*args)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Make the time of the running event loop virtual for a block: ``with clock.installed()``.

        For async code that somebody else runs, a test framework for example. What the block
        starts, and its stores, see the virtual clock; so do the timers of other code in the same
        event loop.

        :raises RuntimeError: if the event loop cannot be made virtual, as uvloop, or is virtual
        """
        # A whole number, so that the first jumps are exact.
        with self._installed(begin=math.ceil(anyio.current_time())):
            yield

    @contextmanager
    def _installed(self, begin: float) -> Iterator[None]:
        if isinstance(clock_in_context.get(), _VirtualTime):
            raise RuntimeError("time is virtual here already")  # noqa: TRY004 - it is no argument
        self._before += self.elapsed()
        self._begin = begin = max(begin, self._now())
        with (_virtual_asyncio if on_asyncio() else _virtual_trio)(begin, self._patience) as now:
            self._now = now
            token = clock_in_context.set(_VirtualTime(self))
            try:
                yield
            finally:
                clock_in_context.reset(token)
                ended = now()
                self._now = lambda: ended

    def _steady(self) -> float:
        """Return the event loop's own time, and no difference to it, which is rounded differently.

        Whoever sleeps until a time of this clock would wake just before it, again and again: what
        is left may be too little to change the event loop's time.
        """
        return self._now()


class _VirtualTime:
    """The clock that stores read; nobody sets a virtual wall clock."""

    simulated = True

    def __init__(self, clock: VirtualClock) -> None:
        self.wall = clock.time
        self.elapsed = clock._steady
        self.timeline = clock._timeline
        self._clock = clock

    def __repr__(self) -> str:
        return repr(self._clock)


@contextmanager
def _virtual_asyncio(begin: float, patience: float) -> Iterator[Callable[[], float]]:
    """Make the time of the running event loop of asyncio virtual; yield what tells it.

    The event loop waits for events in its selector, at most until the next timer is due. Time jumps
    where a real selector would wait for it to pass.
    """
    loop: Any = asyncio.get_running_loop()
    selector = getattr(loop, "_selector", None)
    if selector is None:
        raise RuntimeError(
            f"{type(loop).__module__} keeps its time where it cannot be replaced; run what is to "
            "be in virtual time on plain asyncio"
        )
    select = selector.select
    finest: float = loop._clock_resolution
    now = begin

    def finest_at(now: float) -> float:
        # The event loop runs timers that are due within its resolution. Late times are coarser
        # than that of the real clock: a timer that a rounding put just after one was never due.
        return max(finest, 2.0 * math.ulp(now))

    def jump(timeout: float | None = None) -> Any:
        nonlocal now
        if timeout is None or timeout <= 0:
            return select(timeout)
        ready = select(patience)
        if not ready:
            now += timeout
            loop._clock_resolution = finest_at(now)
        return ready

    loop._clock_resolution = finest_at(now)
    loop.time, selector.select = lambda: now, jump
    try:
        yield lambda: now
    finally:
        ahead = now - time.monotonic()
        loop.time = lambda: time.monotonic() + ahead
        del selector.select


@contextmanager
def _virtual_trio(begin: float, patience: float) -> Iterator[Callable[[], float]]:
    """Make the time of the current run of trio virtual; yield what tells it."""
    from trio._core._run import GLOBAL_RUN_CONTEXT  # noqa: PLC0415 - trio may not be installed
    from trio.testing import MockClock  # noqa: PLC0415 - likewise

    clock = MockClock()
    clock.jump(begin)
    GLOBAL_RUN_CONTEXT.runner.clock = clock
    clock.autojump_threshold = patience
    try:
        yield clock.current_time
    finally:
        clock.autojump_threshold = math.inf
        clock.rate = 1
