"""Stopping gracefully when the operating system asks for it.

A process has one handler for each signal, which all scopes share: each one that asked is told. The
handler that was there before is called, too, unless its way is to end the program at once. It is
put back when no scope listens any more.

Somebody else may install a handler after us. It may or may not call ours, and ours may not be
uninstalled under it; so then ours stays, and does nothing but call the one before. A scope that
asks later gets a handler of its own on top.

``_shared`` is every signal that some scope has listened to. A handler runs between any two
instructions of the main thread, so ours only hands the signal over to the scopes' event loops.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from types import FrameType
from typing import Any

import anyio

from gogoscope._core.background import Home
from gogoscope._core.cancellation import interrupts_event_loop
from gogoscope._core.durations import seconds
from gogoscope._core.forks import after_fork
from gogoscope._core.waking import call_soon_here, wake_on_signals
from gogoscope.scopes.block import Block

DEFAULT_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop_on_signals(
    scope: Block, grace: float | timedelta, signals: Iterable[signal.Signals] | None
) -> None:
    """Set a scope's ``stopping`` on a signal, and cancel it later, or on a second one."""
    scope._check_open()
    patience = seconds("grace", grace, zero=True, infinite=True)
    first, second = anyio.Event(), anyio.Event()
    arrived: list[signal.Signals] = []

    def arrive(number: signal.Signals) -> None:
        arrived.append(number)
        (second if first.is_set() else first).set()

    async def watch() -> None:
        await first.wait()
        scope.stopping.set()
        with anyio.move_on_after(patience):
            await second.wait()
        scope.cancel(arrived[0].name)

    listen(scope._home, checked(DEFAULT_SIGNALS if signals is None else signals), arrive)
    scope._home.spawn(watch, brief=False)


def checked(signals: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Return signals, each once, if this thread can handle them.

    :raises TypeError: if it is no collection
    :raises ValueError: if it is empty, or holds what is no signal, or one that cannot be handled
    :raises RuntimeError: in another thread than the main one, or if the handler that is there can
        not be put back
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "Python handles signals in the main thread, so s.stop_on_signals() works only in an "
            "event loop that runs there; in another one, write await s.stop()"
        )
    if isinstance(signals, str | int) or not isinstance(signals, Iterable):
        raise TypeError(f"signals must be a list like [signal.SIGTERM], got {signals!r}")
    numbers: dict[signal.Signals, None] = {}
    for wanted in signals:
        try:
            number = signal.Signals(wanted)
        except ValueError:
            raise ValueError(f"{wanted!r} is not one of signal.Signals") from None
        handler = signal.getsignal(number)
        if handler is None:
            raise RuntimeError(
                f"{number.name} has a handler that was not installed by Python code, so it could "
                "not be put back"
            )
        try:
            signal.signal(number, handler)
        except OSError:
            raise ValueError(f"{number.name} cannot be handled by any program") from None
        numbers[number] = None
    if not numbers:
        raise ValueError("signals must name one signal or more")
    return list(numbers)


def handled_by_others() -> list[signal.Signals]:
    """Return the signals to stop on that somebody handles who does not end the program at once.

    To listen to these takes nothing from anybody. In another thread than the main one there are
    none.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    handlers = {number: signal.getsignal(number) for number in DEFAULT_SIGNALS}
    return [
        number
        for number, handler in handlers.items()
        if callable(handler) and not _ends_at_once(handler)
    ]


class SharedSignal:
    """One signal, and who listens to it.

    ``listeners`` are called by a signal handler. ``handler`` is ours, as long as it may be on top.
    """

    def __init__(self, number: signal.Signals) -> None:
        self.number = number
        self.listeners: dict[object, Callable[[], object]] = {}
        self.handler: Handler | None = None

    @property
    def is_handled(self) -> bool:
        """Whether our handler is the one that is installed."""
        return self.handler is not None and signal.getsignal(self.number) is self.handler

    def add(self, key: object, tell: Callable[[], object]) -> None:
        """Call a listener for each signal from now on."""
        self.listeners[key] = tell
        if not self.is_handled:
            self.handler = Handler(self, signal.getsignal(self.number))
            signal.signal(self.number, self.handler)

    def remove(self, key: object) -> None:
        """Call a listener no more; put the handler of before back after the last one."""
        self.listeners.pop(key, None)
        if not self.listeners:
            self.put_back()

    def put_back(self) -> None:
        """Install the handler that was there before, unless another one is on top."""
        if self.handler is not None and self.is_handled:
            signal.signal(self.number, self.handler.before)
        self.handler = None

    def tell(self) -> None:
        """Call the listeners, in the signal handler."""
        for key, tell in list(self.listeners.items()):
            try:
                tell()
            except RuntimeError:  # its event loop has ended without its scope
                self.listeners.pop(key, None)


class Handler:
    """A signal handler that tells those who listen, and the handler that was there before.

    :param shared: the signal
    :param before: the handler that was there before
    """

    def __init__(self, shared: SharedSignal, before: Any) -> None:
        self._shared = shared
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal."""
        heard = False
        if self._shared.handler is self:
            self._shared.tell()
            heard = bool(self._shared.listeners)
        if callable(self.before) and not (heard and _ends_at_once(self.before)):
            self.before(number, frame)


_shared: dict[signal.Signals, SharedSignal] = {}


def listen(
    home: Home, numbers: list[signal.Signals], listener: Callable[[signal.Signals], object]
) -> None:
    """Call a listener in the current event loop for each signal, until a scope ends."""
    call_soon = call_soon_here()
    key = object()
    ends = home.attach(_Listening, _Listening).ends
    ends.append(wake_on_signals())
    for number in numbers:
        shared = _shared.setdefault(number, SharedSignal(number))

        def end(shared: SharedSignal = shared) -> None:
            shared.remove(key)

        def tell(number: signal.Signals = number) -> None:
            call_soon(lambda: listener(number))

        ends.append(end)
        shared.add(key, tell)


class _Listening:
    """What one scope has to end, since it listens to signals; attached to it."""

    def __init__(self, _: Home) -> None:
        self.ends: list[Callable[[], None]] = []

    def begin_end(self) -> float:
        """Wait for no work in the background."""
        return math.inf

    async def settle(self) -> None:
        """Listen to no signal any more."""
        while self.ends:
            self.ends.pop()()


def _ends_at_once(handler: Any) -> bool:
    """Return whether a handler would raise KeyboardInterrupt, or cancel the program."""
    return handler is signal.default_int_handler or interrupts_event_loop(handler)


def _put_all_back() -> None:
    """Let a forked process handle signals as its parent did before, whose scopes it has not."""
    for shared in _shared.values():
        shared.listeners.clear()
        with suppress(ValueError):  # it is not the main interpreter
            shared.put_back()


after_fork(_put_all_back)
