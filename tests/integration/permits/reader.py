"""A process that reads again and again, until it is killed: ``reader.py URL KEY``.

Two of its tasks take turns, so that one of them reads at nearly all times. It prints the fencing
token of each read lock.
"""

from __future__ import annotations

import sys

import anyio

from gogoscope import Scope, scope


async def read(s: Scope, key: str) -> None:
    while True:
        async with s.read_lock(key) as reading:
            print(reading.fencing_token, flush=True)
            await anyio.sleep(0.2)


async def main(url: str, key: str) -> None:
    async with scope(persistence=url) as s:
        s.task(read, s, key)
        await anyio.sleep(0.1)
        s.task(read, s, key)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
