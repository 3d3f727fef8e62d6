"""Reaching an event loop from a signal handler of the same thread.

A handler runs between two instructions of the main thread. If these are the last ones before the
event loop goes to sleep, the loop sleeps on. So signals are also written to a socket that the loop
watches; trio and uvloop have one of their own, and asyncio has one where its own receivers are in
use. There is one such socket a process, so ours is used only where there is no other.

``_sockets`` are ours, the newest last, one for each :func:`wake_on_signals` that has not ended.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio.lowlevel

from gogoscope._core.forks import after_fork


def call_soon_here() -> Callable[[Callable[[], object]], object]:
    """Return what calls a function in the current event loop, from a signal handler or a thread.

    What is returned raises ``RuntimeError`` when that event loop has ended.
    """
    loop: Any = anyio.lowlevel.current_token().native_token
    call_soon: Callable[[Callable[[], object]], object]
    call_soon = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
    return call_soon


_sockets: list[socket.socket] = []


def wake_on_signals() -> Callable[[], None]:
    """Let the current event loop wake up for every signal; call it in the main thread.

    :returns: a function that ends that
    """
    loop: Any = anyio.lowlevel.current_token().native_token
    watch = getattr(loop, "add_reader", None)
    if watch is None:
        return _nothing  # trio wakes up by itself
    reading, writing = socket.socketpair()
    reading.setblocking(False)
    writing.setblocking(False)
    try:
        watch(reading, _drain, reading)
    except NotImplementedError:  # asyncio's event loop of Windows wakes up by itself
        reading.close()
        writing.close()
        return _nothing
    _sockets.append(writing)
    _write_signals()

    def end() -> None:
        with suppress(ValueError):  # of another process, which was forked
            pass
        _write_signals(ended=writing.fileno())
        with suppress(RuntimeError):  # the event loop has ended before
            loop.remove_reader(reading)
        reading.close()
        writing.close()

    return end


def _write_signals(ended: int = -1) -> None:
    """Let signals be written to our newest socket, unless they are written elsewhere."""
    newest = _sockets[-1].fileno() if _sockets else -1
    before = signal.set_wakeup_fd(newest, warn_on_full_buffer=False)
    if before not in (-1, ended, *(ours.fileno() for ours in _sockets)):
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)


def _drain(reading: socket.socket) -> None:
    with suppress(BlockingIOError):
        while reading.recv(4096):
            pass


def _nothing() -> None:
    return


def _forget() -> None:
    """Write the signals of a forked process to no socket of its parent."""
    if _sockets:
        _sockets.clear()
        signal.set_wakeup_fd(-1)


after_fork(_forget)
