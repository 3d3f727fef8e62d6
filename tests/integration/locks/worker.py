"""A process that holds a lock until it is killed: ``lock_worker.py URL KEY TTL``."""

from __future__ import annotations

import sys

import anyio

from gogoscope import scope


async def main(url: str, key: str, ttl: str) -> None:
    async with scope(persistence=url) as s, s.lock(key, ttl=float(ttl)) as locked:
        print(locked.fencing_token, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
