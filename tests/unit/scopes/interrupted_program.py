"""A program with all combinators, interrupted at random moments; run it with a backend and a seed.

It runs again and again in one process, and each time a Ctrl-C comes at another moment. It prints
what was not as it must be.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager

import anyio
import trio

from gogoscope import Retry, Scope, scope
from gogoscope.stores.memory import MemoryStore


class Witness:
    """Counts what began and has not ended."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        self.open = 0

    def shield(self) -> AbstractContextManager[object]:
        """Return a shield that no Ctrl-C tears: those of anyio do not protect theirs on trio."""
        if self.backend == "trio":
            return trio.CancelScope(shield=True)
        return anyio.CancelScope(shield=True)

    async def work(self, number: int = 0) -> int:
        """Take some steps, the last ones while cleaning up."""
        self.open += 1
        try:
            for _ in range(number % 4):
                await anyio.sleep(0)
            if number % 5 == 4:
                await anyio.sleep(0.001)
            return number
        finally:
            try:
                with self.shield():
                    await anyio.sleep(0)
            finally:
                self.open -= 1

    @asynccontextmanager
    async def resource(self) -> AsyncIterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    async def source(self, length: int) -> AsyncIterator[int]:
        self.open += 1
        try:
            for number in range(length):
                await anyio.sleep(0)
                yield number
        finally:
            self.open -= 1

    async def endless(self) -> int:
        while True:
            await self.work(next(COUNT))


COUNT = itertools.count()


async def together(w: Witness, s: Scope) -> None:
    await s.all(*[s.task(w.work, number) for number in range(5)])


async def racing(w: Witness, s: Scope) -> None:
    await s.race([w.endless, w.work])
    await s.any([w.endless, lambda: w.work(7)], stagger=0.001)


async def mapping(w: Witness, s: Scope) -> None:
    await s.map(w.work, w.source(9), limit=3)
    await s.map(w.work, range(9))
    async for _ in s.as_completed(w.work, w.source(9), limit=4):
        break


async def nesting(w: Witness, s: Scope) -> None:
    async with s.child(concurrency=2) as child:
        await child.enter(w.resource())
        for number in range(4):
            child.task(w.work, number)
        await child.task(racing, w, child)


async def sharing(w: Witness, s: Scope) -> None:
    first, second = s.task(w.work, 3, dedupe="key"), s.task(w.work, 3, dedupe="key")
    await second
    await first


async def locking(w: Witness, s: Scope) -> None:
    async with s.lock("key", ttl=5) as locked:
        locked.task(w.work, 3)
        await locked.task(w.work, 4)


async def threading_(w: Witness, s: Scope) -> None:
    await s.thread(time.sleep, 0.001)


PARTS: list[Callable[[Witness, Scope], Awaitable[None]]] = [
    *(together, racing, mapping, nesting, sharing, locking, threading_),
]


async def load_everything(w: Witness) -> None:
    """Import what is imported when it is first needed."""
    async with scope(name="first", persistence=MemoryStore()) as s:
        for part in PARTS:
            await part(w, s)


async def program(w: Witness, delay: float) -> None:
    interrupt_after(delay)
    try:
        async with scope(name="interrupted", persistence=MemoryStore()) as s:
            await s.enter(w.resource())
            ticking = s.every(0.002, w.work)
            s.task(w.endless, retry=Retry(2))
            for parts in rounds():
                for part in parts:
                    s.task(part, w, s)
                await s.task(parts[0], w, s)
                await anyio.sleep(0)
            await ticking
    finally:
        if w.open:
            print(f"{w.open} finally blocks had not run when the block of the scope was left")


def rounds() -> itertools.cycle[tuple[Callable[[Witness, Scope], Awaitable[None]], ...]]:
    return itertools.cycle(zip(PARTS, PARTS[1:] + PARTS[:1], strict=True))


def interrupt_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()


def send_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Send a Ctrl-C again that came in a finalizer, where Python drops whatever is raised."""
    if unraisable.exc_type is KeyboardInterrupt:
        interrupt_after(0.001)
    else:
        sys.__unraisablehook__(unraisable)


def main(backend: str, seed: str, times: str) -> None:
    sys.unraisablehook = send_again
    chance = random.Random(int(seed))
    warnings.simplefilter("error")
    anyio.run(load_everything, Witness(backend), backend=backend)
    for _ in range(int(times)):
        w = Witness(backend)
        try:
            anyio.run(program, w, chance.uniform(0.001, 0.06), backend=backend)
        except KeyboardInterrupt:
            pass
        except BaseException as error:
            print(f"{error!r} came out, from {error.__cause__!r}, {error.__context__!r}")
        else:
            print("no KeyboardInterrupt came out")
        if w.open:
            print(f"{w.open} finally blocks did not run")
    gc.collect()
    print("end")


if __name__ == "__main__":
    main(*sys.argv[1:])
