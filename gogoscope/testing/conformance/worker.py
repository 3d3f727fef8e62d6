"""A process that races with others on one store: ``worker.py URL COMMAND ARGUMENT...``.

It opens the store, says ``ready``, waits for a line, does its part, and prints it as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from gogoscope import open_persistence


async def record_failures(store: Any, key: str, tasks: str, times: str) -> list[int]:
    """Count failures from many tasks at once; return every count that was answered."""
    counts: list[int] = []

    async def fail() -> None:
        counts.extend([await store.record_failure(key, 10**9) for _ in range(int(times))])

    await _at_once(int(tasks), lambda number: fail())
    return counts


async def acquire_each(store: Any, rounds: str, tasks: str) -> dict[str, list[int]]:
    """Try to take one lock after the other from many tasks at once; return the tokens won."""
    won: dict[str, list[int]] = {}

    async def contend(key: str) -> None:
        if (handle := await store.acquire(key, 600)) is not None:
            won.setdefault(key, []).append(handle.fencing_token)

    for number in range(int(rounds)):
        key = f"lock:{number}"
        await _at_once(int(tasks), lambda _, key=key: contend(key))  # type: ignore[misc]
    return won


async def take_turns(store: Any, key: str, turns: str, counter: str) -> list[tuple[int, int]]:
    """Hold one lock a number of times; return each token and the counter that the lock guards."""
    seen: list[tuple[int, int]] = []
    file = Path(counter)
    while len(seen) < int(turns):
        handle = await store.acquire(key, 30)
        if handle is None:
            await anyio.sleep(0.002)
            continue
        async with handle:
            count = int(file.read_text())
            await anyio.lowlevel.checkpoint()
            file.write_text(str(count + 1))
            seen.append((handle.fencing_token, count))
    return seen


async def claim_probes(store: Any, key: str, tasks: str) -> list[str]:
    """Ask for half-open probes of one circuit from many tasks at once; return those granted."""
    granted: list[str] = []

    async def claim(nonce: str) -> None:
        if (await store.claim_probe(key, nonce, 600_000, 3)).granted:
            granted.append(nonce)

    await _at_once(int(tasks), lambda number: claim(f"{os.getpid()}-{number}"))
    return granted


async def set_if_absent(store: Any, keys: str, tasks: str) -> list[str]:
    """Set what is absent from many tasks at once; return the keys that were set."""
    won: list[str] = []

    async def contend(key: str) -> None:
        if await store.set(key, os.getpid(), if_absent=True):
            won.append(key)

    for number in range(int(keys)):
        key = f"key:{number}"
        await _at_once(int(tasks), lambda _, key=key: contend(key))  # type: ignore[misc]
    return won


async def _at_once(tasks: int, start: Callable[[int], Awaitable[None]]) -> None:
    async def run(number: int) -> None:
        await start(number)

    async with anyio.create_task_group() as group:
        for number in range(tasks):
            group.start_soon(run, number)


COMMANDS: dict[str, Callable[..., Awaitable[Any]]] = {
    function.__name__: function
    for function in (record_failures, acquire_each, take_turns, claim_probes, set_if_absent)
}


async def main(*argv: str) -> None:
    """Do one part of a race."""
    url, command, *arguments = argv
    async with open_persistence(url) as store:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await anyio.to_thread.run_sync(sys.stdin.readline)
        result = await COMMANDS[command](store, *arguments)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
