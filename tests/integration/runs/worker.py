"""A process with callers of one run: ``worker.py URL CALLERS LEASE AFTER_CRASH THEN FOLDER``.

The run notes its process in the file ``ran`` of the folder. ``THEN`` says what it does next: it
returns at once, or it waits for the file ``go on``, and then returns or raises. At the end the
process prints what its callers got.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import anyio

from gogoscope import Once, scope

KEY = "charge:1"


async def main(*arguments: str) -> None:
    url, callers, lease, after_crash, then, where = arguments
    folder = Path(where)

    async def charge() -> dict[str, int]:
        with (folder / "ran").open("a") as ran:
            ran.write(f"{os.getpid()} {time.time()}\n")
        while then != "return" and not (folder / "go on").exists():
            await anyio.sleep(0.05)
        if then == "wait and raise":
            raise ValueError("broken")
        return {"charged by": os.getpid()}

    once = Once(
        KEY, keep=600, lease=float(lease), after_crash="ask" if after_crash == "ask" else "run"
    )
    async with scope(persistence=url) as s:
        tasks = [s.task(charge, once=once) for _ in range(int(callers))]
        got = [await task for task in tasks]
        errors = [None if result.error is None else type(result.error).__name__ for result in got]
        values = [result.value for result in got]
    print(json.dumps([values, errors]), flush=True)


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
