"""A thread that is interrupted anywhere in the code of a client leaves nothing behind."""

from __future__ import annotations

import dis
import functools
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from gogoscope import blocking
from gogoscope.blocking import Client, LockHandle, connect, marks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="it traces opcodes as Python 3.11 does"),
]

PATIENCE = 20.0
ROOM = str(Path(blocking.__file__).parent)


class Interrupted(BaseException):
    """What a handler of a signal raises."""


@functools.cache
def points(code: CodeType) -> frozenset[int]:
    """Return the offsets in front of which the interpreter looks for signals."""
    after = ("CALL", "CALL_FUNCTION_EX", "CALL_KW", "JUMP_BACKWARD", "RESUME")
    steps = list(dis.get_instructions(code))
    # What is raised in front of a return would be outside of the block that it returns from.
    return frozenset(
        step.offset
        for before, step in itertools.pairwise(steps)
        if before.opname in after and step.opname != "RETURN_VALUE"
    )


def interrupted_at(number: int, program: Callable[[], object]) -> bool:
    """Run a program, interrupted at such a point; return whether it has so many."""
    passed = 0

    def step(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal passed
        if event == "opcode" and frame.f_lasti in points(frame.f_code):
            passed += 1
            if passed == number:
                sys.settrace(None)
                raise Interrupted
        return step

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        # No finalizer: what is raised there is only shown.
        code = frame.f_code
        if not code.co_filename.startswith(ROOM) or code.co_name == "__del__":
            return None
        frame.f_trace_opcodes = True
        return step

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        program()
    except Interrupted:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.fixture
def client() -> Iterator[Client]:
    with connect("memory://interrupts") as db:
        yield db


def lock(db: Client) -> None:
    with db.lock("key"):
        pass


def lock_without_a_block(db: Client) -> None:
    db.lock("key").acquire().release()


def semaphore(db: Client) -> None:
    with db.semaphore("key", 1):
        pass


def take_all(db: Client) -> None:
    """Take what the programs take, in another thread; so nothing of it is held."""
    with db.lock("key", wait=PATIENCE), db.semaphore("key", 1, wait=PATIENCE):
        pass


@pytest.mark.parametrize("program", [lock, lock_without_a_block, semaphore])
def test_an_interrupt_anywhere_leaves_nothing_held(
    client: Client, program: Callable[[Client], None]
) -> None:
    program(client)
    number = 1
    with ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        while interrupted_at(number, functools.partial(program, client)):
            gc.collect()
            threads.submit(take_all, client).result(2 * PATIENCE)
            assert not any("memory://interrupts" in mark.what for mark in marks._marks)
            number += 1
    assert number > 30
    assert time.monotonic() - began < number  # none has waited for what never began


def test_a_lock_that_an_interrupted_thread_did_not_get_is_released(client: Client) -> None:
    def program() -> None:
        taken.append(client.acquire_lock("handle", 3600, wait=PATIENCE))

    taken: list[LockHandle | None] = []
    number = 1
    while interrupted_at(number, program):
        gc.collect()
        with client.lock("handle", wait=PATIENCE):
            number += 1
    assert number > 15


def test_a_run_that_is_interrupted_before_its_block_is_not_done(client: Client) -> None:
    def program() -> None:
        with client.claim(f"run {number}", keep=60) as run:
            begun.append(number)
            run.complete(1)

    begun: list[int] = []
    number = 0
    program()
    number += 1
    while interrupted_at(number, program):
        gc.collect()
        with client.claim(f"run {number}", keep=60, wait=PATIENCE) as again:
            assert number in begun or not again.done
        number += 1
    assert number > 30
