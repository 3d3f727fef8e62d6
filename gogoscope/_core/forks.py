"""What a forked process must not inherit from its parent, and how it is told from all others."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from weakref import WeakSet


def after_fork(forget: Callable[[], object]) -> None:
    """Call ``forget`` in every process that is forked from this one, where processes can fork."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forget)


@functools.cache
def process_name() -> str:
    """Return the name of this process: random, and another one in each process that is forked."""
    return os.urandom(8).hex()


after_fork(process_name.cache_clear)


def lock_across_forks() -> threading.Lock:
    """Return a lock that a fork takes first, in all of its threads, and releases on both sides.

    So a forked process never inherits what another thread has half done under the lock. A fork
    waits for at most ``LONGEST_WAIT`` seconds, and the thread that forks must not hold it.
    """
    lock = threading.Lock()
    _locks.add(lock)
    return lock


LONGEST_WAIT = 5.0

_locks: WeakSet[threading.Lock] = WeakSet()
_taken: list[threading.Lock] = []


def _take_all() -> None:
    _taken.extend(lock for lock in list(_locks) if lock.acquire(timeout=LONGEST_WAIT))


def _release_all() -> None:
    while _taken:
        _taken.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_take_all, after_in_parent=_release_all, after_in_child=_release_all)
