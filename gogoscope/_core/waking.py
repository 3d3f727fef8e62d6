"""Reaching an event loop from a signal handler of the same thread.

A handler runs between two instructions of the main thread. If these are the last ones before the
event loop goes to sleep, the loop sleeps on. So signals are also written to a file that the loop
watches. trio, uvloop and asyncio on Windows have one of their own, and so has asyncio elsewhere
where its own receivers are in use. Python writes to one such file a process, so ours is used only
where there is no other.

``_files`` are ours, the newest last, one for each :func:`wake_on_signals` that has not ended.
"""

from __future__ import annotations

import os
import signal
import sys
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


_files: list[int] = []


def wake_on_signals() -> Callable[[], None]:
    """Let the current event loop wake up for every signal; call it in the main thread.

    :returns: a function that ends that
    """
    loop: Any = anyio.lowlevel.current_token().native_token
    watch = getattr(loop, "add_reader", None)
    if watch is None or sys.platform == "win32":
        return _nothing
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    watch(reading, _drain, reading)
    _files.append(writing)
    _choose_file()

    def end() -> None:
        with suppress(ValueError):  # of another process, which was forked
            _files.remove(writing)
        _choose_file(ended=writing)
        with suppress(RuntimeError):  # the event loop has ended before
            loop.remove_reader(reading)
        os.close(reading)
        os.close(writing)

    return end


def _choose_file(ended: int = -1) -> None:
    """Let signals be written to our newest file, unless somebody else wants them."""
    newest = _files[-1] if _files else -1
    before = signal.set_wakeup_fd(newest, warn_on_full_buffer=False)
    if before not in (-1, ended, *_files):
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)


def _drain(reading: int) -> None:
    with suppress(BlockingIOError):
        while os.read(reading, 4096):
            pass


def _nothing() -> None:
    return


def _forget() -> None:
    """Write the signals of a forked process to no file of its parent."""
    if _files:
        _files.clear()
        signal.set_wakeup_fd(-1)


after_fork(_forget)
