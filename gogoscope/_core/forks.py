"""What a forked process must not inherit from its parent, and how it is told from all others.

Only the thread that forks goes on in the new process. Whatever another thread was in the middle of
stays as it was at that moment, for ever: a lock, a library in C, a module that is being imported.
So a fork first takes all :func:`lock_across_forks`, and so waits until those who hold them are
done. Invariants:

- Nobody but a fork holds more than one of them on purpose, but one may be asked for inside of
  another. So a fork that does not get all of them within a moment returns them and tries again.
- None is made while a fork has them: it takes ``_making`` first.
- Next it takes what runs code that asks for locks: an event loop (:func:`stop_across_forks`). With
  the locks in its hands it could wait in vain for a loop whose every step asks for one.
- One fork has them at a time. It is that of the thread that holds ``_forking``.
- A fork takes them before the locks of the standard library, for which those who hold one of ours
  may have to wait: what was registered last comes first, and so that library is imported before.
- A fork does not wait for ever. After ``LONGEST_WAIT`` it goes on with those that it has.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - as above
import functools
import logging  # noqa: F401 - as above
import os
import threading
import time
from collections.abc import Callable
from typing import Protocol
from weakref import WeakKeyDictionary, WeakMethod, WeakSet


def after_fork(forget: Callable[[], object]) -> None:
    """Call ``forget`` in every process that is forked from this one, where processes can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


@functools.cache
def process_name() -> str:
    """Return the name of this process: random, and another one in each process that is forked."""
    return os.urandom(8).hex()


after_fork(process_name.cache_clear)


class Takeable(Protocol):
    """What a fork can take, as it takes a lock."""

    def acquire(self, *, timeout: float) -> bool:
        """Take it; ``False`` if that takes longer."""
        ...

    def release(self) -> None:
        """Let others have it; called on both sides of the fork."""
        ...


def lock_across_forks(part: Callable[[], object] | None = None) -> threading.Lock:
    """Return a lock that a fork takes first, in all of its threads, and releases on both sides.

    So a forked process never inherits what another thread has half done under the lock. A fork
    waits for at most ``LONGEST_WAIT`` seconds, and the thread that forks must not hold it.

    :param part: a method that the fork calls once it has the lock, to part with what no process may
        inherit; it is not kept alive
    """
    lock = threading.Lock()
    with _making:
        _locks[lock] = None if part is None else WeakMethod(part)
    return lock


def stop_across_forks(runs: Takeable) -> None:
    """Let a fork first take what runs code that asks for locks; it is not kept alive."""
    with _making:
        _runs.add(runs)


LONGEST_WAIT = 5.0
FIRST_PATIENCE = 0.02

_forking = threading.Lock()
_making = threading.Lock()
_runs: WeakSet[Takeable] = WeakSet()
_locks: WeakKeyDictionary[Takeable, WeakMethod[Callable[[], object]] | None] = WeakKeyDictionary()
_taken: list[Takeable] = []
"""What the fork has that is under way."""
_forks_now: list[int] = []
"""The thread of the fork that is under way, if any."""


def _take_all() -> None:
    until = time.monotonic() + LONGEST_WAIT
    if not _forking.acquire(timeout=LONGEST_WAIT):
        return
    _forks_now.append(threading.get_ident())
    patience = FIRST_PATIENCE
    while not _take(min(patience, until - time.monotonic())) and time.monotonic() < until:
        _return_all()
        time.sleep(FIRST_PATIENCE / 10)
        patience *= 2
    for part in [_locks.get(lock) for lock in _taken]:
        method = None if part is None else part()
        if method is not None:
            method()


def _take(patience: float) -> bool:
    """Take one after the other, as far as they can be had; return whether all could."""
    until = time.monotonic() + patience

    def take(lock: Takeable) -> bool:
        if had := lock.acquire(timeout=max(0.0, until - time.monotonic())):
            _taken.append(lock)
        return had

    return all([take(_making), *map(take, list(_runs)), *map(take, list(_locks))])


def _return_all() -> None:
    while _taken:
        _taken.pop().release()


def _go_on_in_parent() -> None:
    if threading.get_ident() in _forks_now:
        _go_on_in_child()


def _go_on_in_child() -> None:
    _return_all()
    if _forks_now:
        _forks_now.clear()
        _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_take_all, after_in_parent=_go_on_in_parent, after_in_child=_go_on_in_child
    )
