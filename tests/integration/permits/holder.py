"""A process that holds a permit until it is killed: ``holder.py URL WHAT KEY TTL``.

It prints the permit's fencing token, and what ends its block.
"""

from __future__ import annotations

import sys

import anyio

from gogoscope import LeaseLostError, scope


async def main(url: str, what: str, key: str, ttl: str) -> None:
    async with scope(persistence=url) as s:
        block = {
            "semaphore": lambda: s.semaphore(key, 1, ttl=float(ttl)),
            "read": lambda: s.read_lock(key, ttl=float(ttl)),
            "write": lambda: s.write_lock(key, ttl=float(ttl)),
        }[what]()
        try:
            async with block as permit:
                print(permit.fencing_token, flush=True)
                await anyio.sleep_forever()
        except LeaseLostError as lost:
            print(f"lost: {lost.reason}", flush=True)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
