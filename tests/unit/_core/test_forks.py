"""What a fork waits for, and what it parts with."""

from __future__ import annotations

import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from gogoscope._core import forks
from gogoscope._core.forks import lock_across_forks, stop_across_forks

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")

FORKS = 15


def is_so_in_child(is_so: Callable[[], bool]) -> bool:
    """Fork; return whether something is so in the forked process."""
    if (pid := os.fork()) == 0:
        os._exit(0 if is_so() else 1)
    return os.waitpid(pid, 0)[1] == 0


@contextmanager
def busy(work: Callable[[], object], threads: int = 2) -> Iterator[None]:
    """Do something again and again in other threads, as long as the block runs."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            work()

    working = [threading.Thread(target=go_on) for _ in range(threads)]
    for thread in working:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in working:
            thread.join()


def test_no_lock_is_held_in_the_forked_process() -> None:
    lock = lock_across_forks()
    inside: list[int] = []

    def work() -> None:
        with lock:
            inside.append(1)
            inside.clear()

    with busy(work):
        for _ in range(FORKS):
            assert is_so_in_child(lambda: not inside and not lock.locked())


def test_a_lock_may_be_asked_for_inside_of_another_one() -> None:
    first, second = lock_across_forks(), lock_across_forks()

    def work() -> None:
        with second, first:  # a fork would take them the other way round
            pass

    with busy(work, threads=1):
        for _ in range(FORKS):
            assert is_so_in_child(lambda: not first.locked() and not second.locked())


def test_what_asks_for_locks_is_stopped_before_they_are_taken() -> None:
    """A fork that has a lock waits in vain for an event loop whose every step asks for it."""
    lock, asked = lock_across_forks(), list[bool]()

    class Loop:
        def acquire(self, *, timeout: float) -> bool:
            asked.append(lock.locked())
            return True

        def release(self) -> None:
            asked.append(lock.locked())

    loop = Loop()
    stop_across_forks(loop)
    assert is_so_in_child(lambda: asked == [False, False])
    assert asked == [False, False]


def test_a_lock_that_is_made_during_a_fork_is_not_held_in_the_forked_process() -> None:
    inside: set[int] = set()

    def work() -> None:
        with lock_across_forks():
            inside.add(threading.get_ident())
            inside.discard(threading.get_ident())

    with busy(work):
        for _ in range(FORKS):
            assert is_so_in_child(lambda: not inside)


def test_two_threads_may_fork_at_once() -> None:
    lock, wrong = lock_across_forks(), list[str]()

    def work() -> None:
        if not is_so_in_child(lambda: lock.acquire(timeout=0)):
            wrong.append("held")

    with busy(work):
        for _ in range(FORKS):
            assert is_so_in_child(lambda: lock.acquire(timeout=0))
    assert not wrong
    assert lock.acquire(timeout=0)


def test_a_fork_goes_on_without_a_lock_that_nobody_releases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forks, "LONGEST_WAIT", 0.05)
    stuck, other = lock_across_forks(), lock_across_forks()
    with stuck:
        assert is_so_in_child(lambda: stuck.locked() and not other.locked())
        assert stuck.locked()
        assert not other.locked()


class Connected:
    def __init__(self) -> None:
        self.is_open = True
        self.lock = lock_across_forks(self.part)

    def part(self) -> None:
        assert self.lock.locked()
        self.is_open = False


def test_a_fork_parts_with_what_no_process_may_inherit() -> None:
    connected = Connected()
    assert is_so_in_child(lambda: not connected.is_open)
    assert not connected.is_open
    assert not connected.lock.locked()


def test_what_a_fork_would_part_with_is_not_kept_alive() -> None:
    gone = weakref.ref(Connected())
    gc.collect()
    assert gone() is None
    assert is_so_in_child(lambda: True)
