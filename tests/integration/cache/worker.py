"""A process whose callers want one value: ``cache_worker.py URL JOURNAL CALLERS LEASE [die]``.

It opens the store, says ``ready``, waits for a line, and prints what its callers got as JSON. Each
load writes a line to the journal. With ``die`` it says ``loading`` while it loads, for ever.
"""

from __future__ import annotations

import json
import os
import sys

import anyio
import anyio.to_thread

from gogoscope import open_persistence, scope
from gogoscope.cache import outages


async def main(*argv: str) -> None:
    url, journal, callers, lease, *fate = argv
    outages.STORE_SECONDS = 30  # no slow machine is an outage

    async def load(name: str) -> dict[str, str]:
        descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        os.close(descriptor)
        if fate == ["die"]:
            print("loading", flush=True)
            await anyio.sleep_forever()
        await anyio.sleep(0.3)
        return {"name": name}

    async with open_persistence(url) as store:
        await store.get("warm-up")
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.readline)
        async with scope(persistence=store) as s:
            calls = [
                s.task(lambda: s.cache.get_or_set("report", load, 60, "Ann", lease=float(lease)))
                for _ in range(int(callers))
            ]
            values = [(await call).unwrap() for call in calls]
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
